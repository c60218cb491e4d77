"""``load`` and :class:`Session`: an artifact, ready to run on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsec.artifact.graph import load_graph
from sparsec.artifact.reader import backend_of, open_artifact, using_graph
from sparsec.backends.base import Runner
from sparsec.ir.errors import CalibrationError, ShapeError, UnsupportedTargetError
from sparsec.ir.feeds import random_feeds
from sparsec.runtime.buckets import Buckets


class Session:
    """Runs one artifact. Safe to use from several threads at once.

    Parameters
    ----------
    runner : Runner
        What the backend made of the artifact.
    manifest : dict
    buckets : Buckets, optional
        Sizes that dynamic axes are padded to.
    """

    def __init__(
        self, runner: Runner, manifest: Mapping[str, Any], buckets: Buckets | None = None
    ) -> None:
        self.manifest = manifest
        self.buckets = buckets
        self.inputs: list[dict[str, Any]] = list(manifest["inputs"])
        self.outputs: list[dict[str, Any]] = list(manifest["outputs"])
        self._runner = runner

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the model once.

        Parameters
        ----------
        feeds : mapping of str to array
            Every input by name, of the dtype that the manifest states.

        Returns
        -------
        dict of str to array
            Every output by name.

        Raises
        ------
        ShapeError
            If an input is missing, unknown, or of another dtype or shape than the model takes.
        """
        self._check(feeds)
        try:
            if self.buckets is not None:
                return self.buckets.run(self._runner.run, feeds)
            return self._runner.run(feeds)
        except CalibrationError as error:
            cause = " ".join(str(error.__cause__ or error).split())
            raise ShapeError(f"the model cannot be run on these inputs: {cause}") from error

    def _check(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        names = [entry["name"] for entry in self.inputs]
        if not isinstance(feeds, Mapping):
            raise ShapeError(
                f"needed inputs by name, {{{', '.join(f'{name!r}: array' for name in names)}}}, "
                f"got {type(feeds).__name__}"
            )
        if missing := [name for name in names if name not in feeds]:
            raise ShapeError(f"missing inputs: {', '.join(missing)}; needed: {', '.join(names)}")
        if unknown := [name for name in feeds if name not in names]:
            raise ShapeError(f"unknown inputs: {', '.join(unknown)}; needed: {', '.join(names)}")
        for entry in self.inputs:
            array = np.asarray(feeds[entry["name"]])
            shape = entry["shape"]
            if str(array.dtype) != entry["dtype"] and entry["dtype"] != "string":
                raise ShapeError(
                    f"{entry['name']}: need {entry['dtype']}, got {array.dtype}",
                    where=entry["name"],
                )
            fits = shape is None or (
                len(shape) == array.ndim
                and all(
                    not isinstance(s, int) or s == d
                    for s, d in zip(shape, array.shape, strict=True)
                )
            )
            if not fits:
                raise ShapeError(
                    f"{entry['name']}: need shape {shape}, got {list(array.shape)}",
                    where=entry["name"],
                )


def load(
    path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    emulate: bool = False,
    buckets: Mapping[str, Sequence[int]] | None = None,
) -> Session:
    """Open an artifact for running.

    Parameters
    ----------
    path : path of the folder
    threads : int, optional
        Threads to use; None leaves the choice to the runtime.
    emulate : bool
        Run the artifact's packed weights on this CPU, where the device that it was compiled for is
        absent: the same numbers up to rounding and the order of sums, at no useful speed.
    buckets : mapping of str to sequence of int, optional
        By the name of a dynamic axis, sizes that it is padded to with zeros; outputs are cut back.
        For targets whose programs hold for one shape each: ``{"batch": [1, 8, 32]}``. It is tried
        out at once that padding changes nothing.

    Raises
    ------
    UsageError
        If ``buckets`` do not suit the model.
    ArtifactError
        If it is no artifact or a damaged one (HashMismatchError if a file was altered).
    UnsupportedTargetError
        If this machine cannot run it.
    """
    root = Path(path)
    manifest = open_artifact(root)
    with using_graph(root):
        backend = backend_of(manifest, root)
        run_by = backend.emulator if emulate else backend.runner
        runner = run_by(root, manifest, threads)
        if runner is None:
            raise UnsupportedTargetError(
                f"{root}: nothing here emulates {manifest['target']}; to check the numbers: "
                "sparsec verify",
                where=str(root),
            )
        padding = None
        if buckets:
            padding = Buckets.of(buckets, manifest["inputs"], manifest["outputs"])
            feeds = random_feeds(backend.densify(load_graph(root), root), batch=2).feeds[0]
            padding.check_padding(runner.run, feeds, manifest["verify"]["tolerance"])
    return Session(runner, manifest, padding)
