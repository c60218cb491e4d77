"""The errors of SparseC, and the exit code of each.

::

    SparsecError                     1   anything that is ours to explain
    ├── UsageError                   2   an option, a name or an existing output
    │   └── PassConfigError          2   a pass that does not exist or cannot be so configured
    ├── ModelImportError             1   a file that is no model, or one that cannot be used
    ├── PassError                    1   a pass that could not do its work
    ├── PatternError                 1   weights that do not follow the pattern they claim
    ├── ShapeError                   1   an operand of another shape, dtype or memory order
    ├── CalibrationError             1   calibration or evaluation data that cannot be used
    ├── ArtifactError                1   an artifact that is damaged or not one
    │   └── HashMismatchError        3   a file whose content is not what the manifest says
    ├── VerifyError                  3   a graph or a result that breaks a promise
    ├── UnsupportedOpError           4   an operator that must be run or lowered and cannot be, here
    └── UnsupportedTargetError       4   a target that cannot be lowered to or run on, here

A message says where (file, node, its name in the source model), what was needed, what was got and
the way out. ``where`` repeats the first part for programs.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class SparsecError(Exception):
    """Base of every error that SparseC raises on purpose.

    Parameters
    ----------
    message : str
        The whole sentence for people.
    where : str
        File, node or option that the error is about; empty if the message is about none.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, where: str = "") -> None:
        super().__init__(message)
        self.where = where

    @property
    def message(self) -> str:
        """The sentence for people."""
        return str(self.args[0])


class UsageError(SparsecError):
    """The request itself is wrong: an option, an unknown name, an output that exists."""

    exit_code = 2


class PassConfigError(UsageError):
    """A pass that does not exist, or options that it cannot take."""


class ModelImportError(SparsecError):
    """The source is not a model, or not one that can be used."""


class PassError(SparsecError):
    """A pass could not do its work."""


class PatternError(SparsecError):
    """Weights do not follow the sparsity pattern they are said to have."""


class ShapeError(SparsecError):
    """An operand has another shape, dtype or memory order than needed."""


class CalibrationError(SparsecError):
    """Calibration or evaluation data cannot be used."""


class ArtifactError(SparsecError):
    """The artifact is damaged, incomplete or not one."""


class HashMismatchError(ArtifactError):
    """A file of the artifact is not the one that was written."""

    exit_code = 3


class VerifyError(SparsecError):
    """A graph breaks an invariant, or a result differs from its reference."""

    exit_code = 3


class UnsupportedOpError(SparsecError):
    """An operator must be executed or lowered and cannot be, here."""

    exit_code = 4


class UnsupportedTargetError(SparsecError):
    """A target cannot be lowered to, or run on, here."""

    exit_code = 4


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence that suggests the closest known name, or lists them all.

    Examples
    --------
    >>> did_you_mean("nm42", ["nm", "nm24", "block"])
    "did you mean 'nm24'?"
    >>> did_you_mean("zzz", ["nm", "block"])
    'known: block, nm'
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
