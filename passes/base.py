"""What a pass is.

A pass is a frozen dataclass: its fields are its options on the command line, in recipes and in the
documentation. It changes a model that the pipeline owns and returns what it changed and what it
left alone, with a reason for each; nothing is skipped in silence.
"""

from __future__ import annotations

import abc
import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import onnx_ir as ir

from sparsec.ir.codes import Code
from sparsec.ir.errors import PassConfigError
from sparsec.ir.feeds import random_feeds
from sparsec.ir.layers import CostRecord
from sparsec.ir.sites import Sites, WeightSite

if TYPE_CHECKING:
    from sparsec.ir.certificate import Certificate
    from sparsec.ir.run import Feeds
    from sparsec.ir.target import Target
    from sparsec.passes.calibration.calibration import Calibration


@dataclasses.dataclass(frozen=True, slots=True)
class Skipped:
    """A site that a pass left alone."""

    site: str
    code: Code
    reason: str  # the end of a sentence: "its reduction of 30 is not a multiple of 4"

    def to_json(self) -> dict[str, str]:
        """Return the entry of ``compile --json``."""
        return {"site": self.site, "code": str(self.code), "reason": self.reason}


@dataclasses.dataclass(frozen=True, slots=True)
class GroupRow:
    """A pruning group, and what a pass left of it.

    Parameters
    ----------
    name : str
    units, kept : int
        Before and after.
    code : Code, optional
    reason : str, optional
        Why no unit went; None for a group that lost some.
    """

    name: str
    units: int
    kept: int
    code: Code | None
    reason: str | None

    def to_json(self) -> dict[str, Any]:
        """Return the entry of the manifest."""
        return dataclasses.asdict(self) | {"code": None if self.code is None else str(self.code)}


@dataclasses.dataclass(slots=True)
class PassResult:
    """What a pass did.

    Parameters
    ----------
    changed : list of str
        Names of the sites (or nodes) that changed.
    skipped : list of Skipped
    notes : dict of str to float
        Numbers for the report, such as the sparsity reached.
    certificates : list of Certificate
        One for each removal of structure.
    groups : list of GroupRow
        Of a pass that removes structure: every pruning group, along the network.
    """

    changed: list[str] = dataclasses.field(default_factory=list)
    skipped: list[Skipped] = dataclasses.field(default_factory=list)
    notes: dict[str, float] = dataclasses.field(default_factory=dict)
    certificates: list[Certificate] = dataclasses.field(default_factory=list)
    groups: list[GroupRow] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(slots=True)
class PassContext:
    """What a pass may use besides the model.

    Parameters
    ----------
    seed : int
        Of everything random.
    calibration : Calibration, optional
        The user's data and statistics on it; None if no data was given.
    cost : CostRecord, optional
        Times of layers on the target, for passes that choose by what pays.
    target : Target, optional
        What is compiled for.
    feeds : sequence of mappings
        Inputs that the model runs with, to take shapes from: the user's, or made up; see :meth:`feed`.
    relative_time : callable, optional
        Given two models and an input, the time of a run of the second over the first's; None where
        the target cannot be timed.
    progress : callable
        Given a sentence and the fraction done, 0..1.
    """

    seed: int = 0
    calibration: Calibration | None = None
    cost: CostRecord | None = None
    target: Target | None = None
    feeds: Sequence[Feeds] = ()
    relative_time: Callable[[ir.Model, ir.Model, Feeds], float] | None = None
    progress: Callable[[str, float], None] = lambda text, done: None

    def calibrated(self, who: str) -> Calibration:
        """Return the calibration data.

        Raises
        ------
        PassConfigError
            If none was given; ``who`` says what needs it.
        """
        if self.calibration is None:
            raise PassConfigError(
                f"{who} needs calibration data; give --calib SOURCE (calib= in Python): FILE.npz with "
                "the model's inputs, or module:function",
                where=who,
            )
        return self.calibration

    def feed(self, model: ir.Model) -> Feeds:
        """Return one input that ``model`` runs with.

        Raises
        ------
        CalibrationError
            If none was given and none can be made up.
        """
        return self.feeds[0] if self.feeds else random_feeds(model, seed=self.seed).feeds[0]


class Pass(abc.ABC):
    """One transformation. Subclasses are frozen dataclasses with a ``name``.

    Attributes
    ----------
    name : str
        As typed after ``--pass``.
    aliases : mapping of str to str
        Short names and the SPEC that each stands for.
    exact : bool
        Whether the function that the graph computes stays the same.
    needs_batch_norm : bool
        Whether the pass must see BatchNormalization nodes: without it they are folded before it
        runs.
    """

    name: ClassVar[str] = ""
    aliases: ClassVar[Mapping[str, str]] = {}
    exact: ClassVar[bool] = False
    needs_batch_norm: ClassVar[bool] = False

    @abc.abstractmethod
    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """Transform ``model`` in place."""

    def options(self) -> dict[str, Any]:
        """Return every option with its value, as recipes and manifests store them."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]  # every subclass is a dataclass
        values = {field.name: getattr(self, field.name) for field in fields}
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}


def check_pass(name: str, cls: type[Pass]) -> None:
    """Refuse a class that is no usable pass, when it is registered.

    Raises
    ------
    PassConfigError
        If it is no frozen dataclass derived from Pass, is abstract, or has another name.
    """
    if not (isinstance(cls, type) and issubclass(cls, Pass)):
        raise PassConfigError(
            f"the pass {name!r} is {cls!r}, not a subclass of sparsec.passes.Pass"
        )
    parameters = getattr(cls, "__dataclass_params__", None)
    if parameters is None or not parameters.frozen:
        raise PassConfigError(f"the pass {name!r} must be a frozen dataclass")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(cls.__abstractmethods__))
        raise PassConfigError(f"the pass {name!r} is abstract: it lacks {missing}")
    if cls.name != name:
        raise PassConfigError(f"the pass registered as {name!r} calls itself {cls.name!r}")


@dataclasses.dataclass(frozen=True, slots=True)
class SiteFilter:
    """Which sites a pass may touch.

    Parameters
    ----------
    include, exclude : tuple of str
        Regular expressions, searched in the site's name; no ``include`` means all.
    ops : tuple of str
        Operator types; none means all.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for pattern in (*self.include, *self.exclude):
            try:
                re.compile(pattern)
            except re.error as error:
                raise PassConfigError(
                    f"include/exclude: {pattern!r} is no regular expression: {error}", where=pattern
                ) from error

    def why_not(self, site: WeightSite) -> str | None:
        """Return why the filter leaves ``site`` out, or None."""
        if self.ops and site.op not in self.ops:
            return f"{site.op} is not among ops={'+'.join(self.ops)}"
        if self.include and not any(re.search(p, site.name) for p in self.include):
            return f"no include pattern matches ({'+'.join(self.include)})"
        for pattern in self.exclude:
            if re.search(pattern, site.name):
                return f"the exclude pattern {pattern!r} matches"
        return None

    def split(self, sites: Sites) -> tuple[list[WeightSite], list[Skipped]]:
        """Return the sites to work on, and an entry for each other one and each non-site."""
        chosen: list[WeightSite] = []
        skipped = [Skipped(other.name, other.code, other.reason) for other in sites.others]
        for site in sites:
            if reason := self.why_not(site):
                skipped.append(Skipped(site.name, Code.EXCLUDED, reason))
            else:
                chosen.append(site)
        return chosen, skipped
