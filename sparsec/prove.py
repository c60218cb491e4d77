"""Running the artifact against its references: the masked dense model, and the original.

Three graphs play a part. The *source* is what the user gave. The *dense* one is the source after
our exact clean-ups. The *reference* is the dense one with the passes applied, before lowering: same
weights as the artifact, stock operators. All lie on disk while they are needed; one session is open
at a time, so that a model may fill half of the memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.artifact import format as fmt
from sparsec.artifact.graph import load_graph
from sparsec.artifact.writer import save_model
from sparsec.backends.base import Backend, Feeds, Runner
from sparsec.compare import TOLERANCE, Difference, Fidelity
from sparsec.evaluate import Evaluator
from sparsec.ir.errors import CalibrationError, UnsupportedTargetError, VerifyError
from sparsec.ir.load import load_model
from sparsec.ir.memory import return_to_system
from sparsec.ir.noise import forgiven, noise_of
from sparsec.ir.run import OrtRunner

MAX_SAMPLES = 8


@dataclasses.dataclass(slots=True)
class Trial:
    """The graphs of one compilation on disk, and the inputs that they are compared on.

    Parameters
    ----------
    source : onnx_ir.Model
    source_file : Path, optional
        Where the source lies, if it is an ONNX file.
    scratch : Path
        A folder that is removed after the compilation.
    feeds : sequence of feeds
    """

    source: ir.Model
    source_file: Path | None
    scratch: Path
    feeds: Sequence[Feeds]

    @property
    def where(self) -> str:
        """What messages call the model: its file, or its name where it is none."""
        return str(self.source_file or self.source.graph.name or "the model")

    @property
    def dense(self) -> Path:
        """The source after our exact clean-ups."""
        return self.scratch / "dense" / fmt.MODEL

    @property
    def reference(self) -> Path:
        """The pruned graph before lowering."""
        return self.scratch / "reference" / fmt.MODEL

    @property
    def original(self) -> Path:
        """The source file; the cleaned-up graph where the source is no file."""
        return self.source_file or self.dense

    def keep_dense(self, model: ir.Model) -> None:
        """Store the cleaned-up graph."""
        self.dense.parent.mkdir()
        save_model(model, self.dense)

    def keep_reference(self, model: ir.Model) -> ir.Model:
        """Store the pruned graph and return it as read back, its weights memory-mapped."""
        self.reference.parent.mkdir()
        save_model(model, self.reference)
        return ir.load(self.reference)

    def samples(self) -> Sequence[Feeds]:
        """Return the inputs to verify on: a few suffice."""
        return self.feeds[:MAX_SAMPLES]


def outputs_of(runner: Runner, feeds: Sequence[Feeds]) -> list[dict[str, NDArray[Any]]]:
    """Return the outputs for every sample."""
    return [runner.run(feed) for feed in feeds]


def runnable(
    backend: Backend,
    root: Path,
    manifest: Mapping[str, Any],
    scratch: Path,
) -> tuple[Runner, str]:
    """Return what runs the artifact here, on one thread, and how: on the ``device``, or ``emulated``.

    Where the device is absent, what its backend has in its stead runs the artifact's packed data; where
    there is nothing, they are unpacked into stock operators. Both prove everything but the arithmetic of
    the device's kernels.
    """
    try:
        return backend.runner(root, manifest, 1, exact=True), "device"
    except UnsupportedTargetError:
        stand_in = backend.stand_in(root, manifest, 1)
    if stand_in is None:
        stock = densified(backend, root, scratch)
        stand_in = OrtRunner(stock, low_memory=True)
    return stand_in, "emulated"


def densified(backend: Backend, root: Path, scratch: Path) -> Path:
    """Write the artifact's graph in stock operators again into ``scratch`` and return the file."""
    target = scratch / "densified" / fmt.MODEL
    if not target.exists():
        target.parent.mkdir(parents=True)
        save_model(backend.densify(load_graph(root), root), target)
    return target


def rounded(trial: Trial, backend: Backend, manifest: Mapping[str, Any]) -> Path:
    """Return the file of the reference, rounded where the target computes in fewer bits."""
    model = backend.reference(load_model(trial.reference), manifest["layers"])
    if model is None:
        return trial.reference
    target = trial.scratch / "rounded" / fmt.MODEL
    target.parent.mkdir()
    save_model(model, target)
    return target


def prove(
    trial: Trial,
    stage: Path,
    manifest: Mapping[str, Any],
    backend: Backend,
    evaluator: Evaluator | None,
    progress: Callable[[str, float], None],
) -> dict[str, Any]:
    """Compare the artifact with the reference and the original, and evaluate both if asked to.

    Returns
    -------
    dict
        ``verify``, ``fidelity`` and ``accuracy`` of the manifest.

    Raises
    ------
    VerifyError
        If the artifact differs from the reference by more than the tolerance.
    """
    feeds = trial.samples()
    reference = rounded(trial, backend, manifest)
    dense = OrtRunner(reference, optimise=False, low_memory=True, where=trial.where)
    expected = outputs_of(dense, feeds)
    del dense  # one session at a time: each may hold the weights once more
    runner, how = runnable(backend, stage, manifest, trial.scratch)
    got = outputs_of(runner, feeds)
    limit = tolerance(manifest)
    difference = compared(got, expected, lambda: optimised(reference, feeds, trial.where), limit)
    verification = verification_json(
        difference, manifest, how, lambda: noise_of(load_model(reference), feeds, expected)
    )
    if not verification["passed"]:
        raise VerifyError(
            f"the lowered model differs from the pruned one by {difference.max_rel:.2g} of the "
            f"output's scale, over the tolerance {verification['tolerance']:g}; no artifact was "
            "written",
            where=str(manifest["target"]),
        )

    if evaluator is not None:
        progress("evaluate", 0.75)
    after = None if evaluator is None else evaluator(runner.run)
    del runner
    return_to_system()

    progress("compare with the original", 0.8)
    original = OrtRunner(trial.original, optimise=False, low_memory=True, where=trial.where)
    fidelity = Fidelity.between(got, outputs_of(original, feeds))
    accuracy: dict[str, Any] | None = None
    if evaluator is not None and after is not None:
        before = evaluator(original.run)
        if before.keys() != after.keys():
            raise CalibrationError(
                f"--eval {evaluator.data}: gave the metrics {', '.join(after)} for the compiled "
                f"model and {', '.join(before)} for the original; needed the same",
                where=evaluator.data,
            )
        accuracy = {"before": before, "after": after, "data": evaluator.data}
    return {"verify": verification, "fidelity": fidelity.to_json(), "accuracy": accuracy}


def optimised(
    model: Path, feeds: Sequence[Feeds], where: str = ""
) -> list[dict[str, NDArray[Any]]]:
    """Return the outputs of a graph that ONNX Runtime may rewrite, as it does by default."""
    return outputs_of(OrtRunner(model, low_memory=True, where=where), feeds)


def compared(
    got: Sequence[Mapping[str, NDArray[Any]]],
    expected: Sequence[Mapping[str, NDArray[Any]]],
    rewritten: Callable[[], Sequence[Mapping[str, NDArray[Any]]]],
    limit: float,
) -> Difference:
    """Return how far an artifact is from its reference.

    A quantised graph gives other numbers when the runtime may fuse what lies between QuantizeLinear and
    DequantizeLinear: integers are rounded where floats were not. An artifact may agree with either way.

    Parameters
    ----------
    got, expected : sequence of outputs
        Of the artifact, and of the reference as its operators say.
    rewritten : callable
        Returns those of the reference rewritten by the runtime; called if the others are too far apart.
    limit : float
    """
    difference = Difference.between(got, expected)
    if max(difference.by_output.values(), default=0.0) <= limit:
        return difference
    other = Difference.between(got, rewritten())
    return min(difference, other, key=lambda each: each.max_rel)


def tolerance(manifest: Mapping[str, Any]) -> float:
    """Return how far the artifact may be from the reference: wider if it computes in 16 bits."""
    sixteen = any(kernel.get("dtype") in ("float16", "bfloat16") for kernel in manifest["kernels"])
    return TOLERANCE["float16" if sixteen else "float32"]


def verification_json(
    difference: Difference,
    manifest: Mapping[str, Any],
    how: str,
    noise: Callable[[], Mapping[str, float]],
) -> dict[str, Any]:
    """Return ``verify`` of the manifest; infinities become None, which no JSON number can be.

    Parameters
    ----------
    difference : Difference
        Of the artifact to its reference.
    manifest : dict
    how : str
    noise : callable
        Returns the noise of every output of the reference; called only if one is over the tolerance.
        That output is then allowed what :func:`sparsec.ir.noise.forgiven` says, the others nothing.
    """
    limit = tolerance(manifest)
    over = [name for name, apart in difference.by_output.items() if apart > limit]
    measured = noise() if over else {}
    allowed = {name: max(limit, forgiven(measured.get(name, 0.0))) for name in over}
    result: dict[str, Any] = {
        "passed": all(difference.by_output[name] <= allowed[name] for name in over),
        "samples": difference.samples,
        "max_abs": _number(difference.max_abs),
        "max_rel": _number(difference.max_rel),
        "tolerance": max(allowed.values(), default=limit),
        "varied": difference.varied,
        "with": how,
    }
    if result["passed"] and over:
        result["noise"] = max(measured[name] for name in over)
    return result


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
