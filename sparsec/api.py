"""``compile``: the whole flow, from a trained model to a proved and measured artifact.

::

    load -> clean up -> passes -> lower -> write -> verify -> evaluate -> measure -> manifest

Everything happens in a folder beside the output that gets its name at the very end.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import onnx_ir as ir

from sparsec.artifact import Artifact
from sparsec.artifact import format as fmt
from sparsec.artifact.certificates import write_certificates
from sparsec.artifact.writer import (
    check_output,
    staging,
    write_errors,
    write_manifest,
    write_payload,
)
from sparsec.backends.base import Backend, Feeds, LowerContext
from sparsec.backends.targets import backends, targets
from sparsec.evaluate import load_evaluator
from sparsec.goals import Goal, check_measurable
from sparsec.ir.cleanup import clean_up, fold_batch_norm
from sparsec.ir.cost import graph_cost
from sparsec.ir.errors import UnsupportedTargetError, UsageError
from sparsec.ir.feeds import random_feeds
from sparsec.ir.load import is_onnx, load_model
from sparsec.ir.memory import release_all
from sparsec.ir.sources import load_feeds, load_labels
from sparsec.ir.target import Status, Target
from sparsec.manifest import describe
from sparsec.passes.base import Pass, PassContext
from sparsec.passes.calibration.calibration import Calibration
from sparsec.passes.pipeline import Pipeline, Step
from sparsec.prove import Trial, prove
from sparsec.recipe import Recipe
from sparsec.report import write_report
from sparsec.search import has_open, solve
from sparsec.timing import relative_time
from sparsec.verdict import judge

if TYPE_CHECKING:
    import onnx
    import torch

Source: TypeAlias = "str | os.PathLike[str] | onnx.ModelProto | ir.Model | torch.nn.Module"
Progress: TypeAlias = Callable[[str, float], None]

VERIFY_SAMPLES = 2


def compile(
    model: Source,
    *,
    example_inputs: tuple[Any, ...] | None = None,
    dynamic_shapes: Any = None,
    passes: Iterable[str | Pass] = (),
    target: str = "cpu",
    calib: str | None = None,
    eval: str | None = None,
    goals: Iterable[str] = (),
    output: str | os.PathLike[str] | None = None,
    seed: int = 0,
    force: bool = False,
    cache: str | os.PathLike[str] | None = None,
    progress: Progress = lambda text, done: None,
) -> Artifact:
    """Make a trained model sparse, lower it for a target, prove and measure it, and write it.

    Parameters
    ----------
    model : path, onnx.ModelProto, onnx_ir.Model or torch.nn.Module
        It is never changed.
    example_inputs, dynamic_shapes
        For a torch module, as ``torch.export.export`` takes them.
    passes : iterable of SPEC or Pass
        In the order in which they run.
    target : str
        A name that ``sparsec targets`` lists.
    calib, eval : str, optional
        SOURCE of calibration inputs and of an evaluation.
    goals : iterable of EXPR
    output : path, optional
        Default: the model's stem + ``.sparsec`` in the current folder.
    seed : int
    force : bool
        Replace an artifact that is already there.
    cache : path, optional
        Folder for tuning records and statistics that later compilations may use.
    progress : callable
        Given what is being done and the fraction done, 0..1.

    Returns
    -------
    Artifact
        Its ``exit_code`` is 5 if it is correct but gains nothing, or misses a goal.

    Raises
    ------
    SparsecError
        Of the kind that tells what went wrong; nothing is left half-written.
    """
    _check_text(target=target, calib=calib, eval=eval)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise UsageError(f"seed: needed a whole number of at least 0, got {seed!r}", where="seed")
    recipe = Recipe(
        passes=Pipeline.parse(_listed("passes", passes)).passes,
        target=target,
        seed=seed,
        calib=calib,
        eval=eval,
        goals=tuple(Goal.parse(goal) for goal in _listed("goals", goals)),
    )
    return run_recipe(
        model,
        recipe,
        example_inputs=example_inputs,
        dynamic_shapes=dynamic_shapes,
        output=output,
        force=force,
        cache=cache,
        progress=progress,
    )


def _check_text(**options: object) -> None:
    """Refuse options that are no text, as arrays for SOURCE are."""
    for name, value in options.items():
        if isinstance(value, str) or (value is None and name != "target"):
            continue
        more = "" if name == "target" else "; save arrays by numpy.savez and give the FILE.npz"
        raise UsageError(f"{name}: needed a text, got {type(value).__name__}{more}", where=name)


def _listed(name: str, values: Iterable[Any]) -> tuple[Any, ...]:
    """Return several options; one text alone is not taken for its letters.

    Raises
    ------
    UsageError
    """
    if isinstance(values, (str, Pass)) or not isinstance(values, Iterable):
        raise UsageError(f"{name}: needed a list, got {values!r}; write [{values!r}]", where=name)
    found = tuple(values)
    for value in found:
        if not isinstance(value, (str, Pass) if name == "passes" else str):
            kind = "neither a text nor a pass" if name == "passes" else "no text"
            raise UsageError(f"{name}: {value!r} is {kind}", where=name)
    return found


def run_recipe(
    model: Source,
    recipe: Recipe,
    *,
    example_inputs: tuple[Any, ...] | None = None,
    dynamic_shapes: Any = None,
    output: str | os.PathLike[str] | None = None,
    force: bool = False,
    cache: str | os.PathLike[str] | None = None,
    progress: Progress = lambda text, done: None,
) -> Artifact:
    """Compile ``model`` as ``recipe`` says; see :func:`compile`."""
    target, backend = choose_backend(recipe.target)
    check_measurable(recipe.goals, recipe.eval is not None)
    path = output_path(model, output)
    check_output(path, force)
    tuning = None if cache is None else cache_folder(Path(cache))

    progress("import", 0.0)
    source = load_model(model, example_inputs=example_inputs, dynamic_shapes=dynamic_shapes)

    def build(settled: Recipe, to: Path, report: Progress) -> Artifact:
        file = model_file(model)
        return build_artifact(source, file, settled, target, backend, to, force, tuning, report)

    with write_errors(path):
        if has_open(recipe):
            return solve(recipe, path, build, progress, force)
        return build(recipe, path, progress)


def build_artifact(
    source: ir.Model,
    file: Path | None,
    recipe: Recipe,
    target: Target,
    backend: Backend,
    path: Path,
    force: bool,
    cache: Path | None,
    progress: Progress,
) -> Artifact:
    """Prune, lower, prove, measure and write; ``source`` is left as it is."""
    feeds = calibration_feeds(source, recipe, str(file or ""))
    evaluator = None if recipe.eval is None else load_evaluator(recipe.eval, source)
    progress("clean up", 0.05)
    masked = source.clone()
    clean_up(masked)
    with tempfile.TemporaryDirectory(prefix="sparsec-") as scratch_name:
        onnx_file = file if file is not None and is_onnx(file) else None
        trial = Trial(source, onnx_file, Path(scratch_name), feeds)
        trial.keep_dense(masked)

        steps = prune(
            masked,
            recipe,
            target,
            backend,
            feeds,
            cache,
            lambda text, done: progress(text, 0.1 + 0.3 * done),
        )
        fold_batch_norm(masked)
        # From here on the weights are read from the reference on disk, not held in memory.
        reference = trial.keep_reference(masked)
        del masked
        before, after = graph_cost(source, feeds[0]), graph_cost(reference, feeds[0])
        release_all(source)

        with staging(path, force) as stage:
            context = LowerContext(
                feeds=feeds,
                cache=cache,
                seed=recipe.seed,
                progress=lambda text, done: progress(text, 0.4 + 0.3 * done),
            )
            lowered = backend.lower(reference, target, context)
            write_payload(stage, lowered)
            release_all(reference)
            found = [made for step in steps for made in step.result.certificates]
            entries = write_certificates(stage, found)
            manifest = describe(source, file, recipe, target, steps, lowered, entries)

            progress("verify", 0.7)
            manifest |= prove(trial, stage, manifest, backend, evaluator, progress)
            progress("measure", 0.9)
            manifest |= judge(trial, stage, manifest, recipe, target, (before, after), steps)
            write_report(stage, manifest)
            write_manifest(stage, manifest)
    return Artifact.read(path)


def choose_backend(name: str) -> tuple[Target, Backend]:
    """Return the target called ``name`` and what lowers for it.

    Raises
    ------
    UsageError
        If there is no such target.
    UnsupportedTargetError
        If nothing can be lowered for it, here or yet.
    """
    target = targets.get(name)
    if target.status is Status.PLANNED:
        raise UnsupportedTargetError(
            f"target {name!r} is planned, not built yet; `sparsec targets` lists those that are",
            where=name,
        )
    backend = backends.get(target.backend)()
    if reason := backend.why_not(target):
        raise UnsupportedTargetError(f"target {name!r}: {reason}", where=name)
    return target, backend


def model_file(model: Source) -> Path | None:
    """Return the file behind ``model``, if that is what it is."""
    return Path(model) if isinstance(model, (str, os.PathLike)) else None


def output_path(model: Source, output: str | os.PathLike[str] | None) -> Path:
    """Return where the artifact goes.

    Raises
    ------
    UsageError
        If nothing names it.
    """
    if output is not None:
        return Path(os.path.abspath(output))
    if isinstance(model, (str, os.PathLike)):
        return Path.cwd() / (Path(model).stem + fmt.SUFFIX)
    raise UsageError("a model that is no file has no name of its own: give output=PATH")


def cache_folder(path: Path) -> Path:
    """Return the folder for tuning records, made if it is not there.

    Raises
    ------
    UsageError
        If it cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--cache {path}: cannot be made: {error.strerror or error}", where=str(path)
        ) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise UsageError(f"--cache {path}: the folder is not writable", where=str(path))
    return path


def calibration_feeds(source: ir.Model, recipe: Recipe, where: str) -> Sequence[Feeds]:
    """Return inputs to verify and time with: the user's, or random ones that the model accepts."""
    if recipe.calib is not None:
        return list(load_feeds(recipe.calib, source))
    return random_feeds(source, seed=recipe.seed, samples=VERIFY_SAMPLES, where=where).feeds


def prune(
    model: ir.Model,
    recipe: Recipe,
    target: Target,
    backend: Backend,
    feeds: Sequence[Feeds],
    cache: Path | None,
    progress: Progress,
) -> list[Step]:
    """Run the recipe's passes on ``model``, in place; made-up feeds are no calibration data."""
    calibration = None
    if recipe.calib is not None:
        labels = load_labels(recipe.calib, model)
        calibration = Calibration(feeds, cache=cache, labels=labels)
    timed = backend.status(target) is Status.MEASURED
    context = PassContext(
        seed=recipe.seed,
        calibration=calibration,
        target=backend.here(target),
        feeds=feeds,
        relative_time=relative_time if timed else None,
        progress=progress,
    )
    return Pipeline(recipe.passes).run(model, context)


def plan(model: Source, recipe: Recipe, **load_options: Any) -> Mapping[str, Any]:
    """Return what a compilation would change; nothing is lowered or written (``--dry-run``)."""
    target, backend = choose_backend(recipe.target)
    check_measurable(recipe.goals, recipe.eval is not None)
    if has_open(recipe):
        raise UsageError(
            "a dry run does not compile, so it cannot solve for a sparsity; give it, such as "
            "unstructured:sparsity=0.8"
        )
    source = load_model(model, **load_options)
    masked = source.clone()
    clean_up(masked)
    feeds = () if recipe.calib is None else load_feeds(recipe.calib, source)
    steps = prune(masked, recipe, target, backend, feeds, None, lambda text, done: None)
    return {
        "artifact": None,
        "target": target.name,
        "passes": [step.to_json() for step in steps],
        "layers": [],
        **dict.fromkeys(("before", "after", "verify", "fidelity", "accuracy", "latency")),
        "goals": [],
        "notes": ["dry run: nothing was lowered, measured or written"],
        "exit_code": 0 if any(step.result.changed for step in steps) else 5,
    }
