"""Random graphs x random units: what the shrunk graph returns is what the masked one does."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch

from sparsec.ir.edits import alike, emptied, permute, removal_of, remove, zero
from sparsec.ir.errors import PassError
from sparsec.ir.fx import FxExecutor
from sparsec.ir.groups import Groups, find_groups, prepare
from sparsec.ir.replay import relative_difference
from sparsec.ir.run import OrtRunner
from tests.structure.random_structure import LENGTH, SIZE, random_model

TOLERANCE = 1e-5
EXACT = 1e-10
CASES = 120
SLOW_CASES = 3000


def inputs(model: ir.Model, seed: int) -> dict[str, np.ndarray]:
    rank = len(model.graph.inputs[0].shape or ())
    shape = (1, LENGTH, 3) if rank == 3 else (1, 3, SIZE, SIZE)
    return {"x": np.random.default_rng(seed).standard_normal(shape).astype(np.float32)}


def outputs(model: ir.Model, seed: int) -> dict[str, np.ndarray]:
    return OrtRunner(model, optimise=False).run(inputs(model, seed))


def random_units(groups: Groups, rng: np.random.Generator) -> np.ndarray:
    """Return units of random groups, overlapping ones included, that leave no axis empty."""
    units = np.empty(0, np.int64)
    for group in groups:
        if rng.random() < 0.3:
            continue
        count = int(rng.integers(1, group.size))
        more = np.concatenate([units, rng.choice(group.units, count, replace=False)])
        if not emptied(groups.lattice, groups.lattice.atoms.gone(more)):
            units = more
    return units


def apart(outputs: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """Return the largest difference, relative to the output, but to no less than what cancels in it."""
    return min(
        relative_difference(outputs, expected),
        max(float(np.abs(outputs[name] - array).max()) / 0.01 for name, array in expected.items()),
    )


def prepared(seed: int) -> ir.Model:
    """Return the graph of a seed, every other one as a pass prepares it."""
    model = random_model(seed)
    if seed % 2:
        prepare(model)
    return model


def check_removal(seed: int) -> int:
    model = prepared(seed)
    groups = find_groups(model)
    units = random_units(groups, np.random.default_rng(seed))
    masked = model.clone()
    zero(masked, removal_of(groups.lattice, units))
    expected = outputs(masked, seed)
    remove(groups.lattice, units)
    assert apart(outputs(model, seed), expected) < TOLERANCE
    return len(units)


@pytest.mark.parametrize("first", range(0, CASES, 40))
def test_shrunk_is_masked(first: int):
    removed = [check_removal(seed) for seed in range(first, first + 40)]
    assert np.mean(np.array(removed) > 0) > 0.8  # the generator does make graphs that can shrink


@pytest.mark.slow
@pytest.mark.parametrize("first", range(CASES, CASES + SLOW_CASES, 250))
def test_shrunk_is_masked_for_thousands(first: int):
    for seed in range(first, first + 250):
        check_removal(seed)


def check_removal_in_float64(seed: int) -> None:
    """Float32 cannot tell rounding from a small mistake; float64 can."""
    model = prepared(seed)
    groups = find_groups(model)
    units = random_units(groups, np.random.default_rng(seed))
    masked = model.clone()
    zero(masked, removal_of(groups.lattice, units))
    remove(groups.lattice, units)
    feeds = inputs(model, seed)
    expected, got = (FxExecutor(m, dtype=torch.float64).run(feeds) for m in (masked, model))
    assert apart(got, expected) < EXACT


# Rounding to integers turns the last bit of float64 into a step.
STEPS = {"DynamicQuantizeLinear"}


def has_steps(seed: int) -> bool:
    return any(node.op_type in STEPS for node in random_model(seed).graph)


@pytest.mark.parametrize("first", range(0, 40, 20))
def test_shrunk_is_masked_in_float64(first: int):
    seeds = [seed for seed in range(first, first + 20) if not has_steps(seed)]
    assert len(seeds) > 10
    for seed in seeds:
        check_removal_in_float64(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(40, 1040, 250))
def test_shrunk_is_masked_in_float64_for_a_thousand(first: int):
    for seed in range(first, first + 250):
        if not has_steps(seed):
            check_removal_in_float64(seed)


def test_the_generator_draws_everything():
    drawn = {node.op_type for seed in range(CASES) for node in random_model(seed).graph}
    assert drawn >= {
        "Add", "Attention", "BatchNormalization", "Concat", "Conv", "ConvInteger", "ConvTranspose",
        "DepthToSpace", "Einsum", "Expand", "Gather", "GRU", "InstanceNormalization", "LSTM",
        "LayerNormalization", "MatMul", "MaxUnpool", "Pad", "PRelu", "RNN", "Reshape", "Slice",
        "SpaceToDepth", "Split", "Transpose",
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
def test_two_steps_are_one(seed: int):
    once, twice = random_model(seed), random_model(seed)
    groups = find_groups(once)
    units = random_units(groups, np.random.default_rng(seed))
    remove(groups.lattice, units)
    first = find_groups(twice)
    half = units[: len(units) // 2]
    positions = named(first, np.setdiff1d(units, half))
    remove(first.lattice, half)
    second = find_groups(twice)
    remove(second.lattice, found(second, positions, first, half))
    for name, value in once.graph.initializers.items():
        if name in twice.graph.initializers and value.dtype == ir.DataType.FLOAT:
            other = twice.graph.initializers[name]
            assert np.array_equal(value.const_value.numpy(), other.const_value.numpy()), name
    assert apart(outputs(once, seed), outputs(twice, seed)) < TOLERANCE


def named(groups: Groups, units: np.ndarray) -> list[tuple[str, int, np.ndarray]]:
    """Return where units lie, by tensor, axis and position."""
    removal = removal_of(groups.lattice, units)
    return [(n, axis, where) for n, axes in removal.tensors.items() for axis, where in axes.items()]


def found(
    groups: Groups, places: list[tuple[str, int, np.ndarray]], before: Groups, half: np.ndarray
) -> np.ndarray:
    """Return the units of the graph after a first step that lie at places of the graph before it."""
    gone = {(n, axis): where for n, axis, where in named(before, half)}
    lattice = groups.lattice
    wanted: dict[int, bool] = {}
    for name, axis, where in places:
        value = lattice.model.graph.initializers[name]
        taken = gone.get((name, axis), np.empty(0, np.int64))
        left = np.setdiff1d(where, taken)
        now = left - np.searchsorted(taken, left)
        axes = lattice.axes_of(value)
        assert axes is not None
        if axes[axis] is None:
            continue
        leaves = lattice.atoms.leaves(axes[axis].atoms)
        for unit in np.unique(leaves[leaves >= 0]):
            has = (leaves == unit).any(axis=1)
            inside = set(np.flatnonzero(has)) <= set(now)
            wanted[int(unit)] = wanted.get(int(unit), True) and inside
    free = ~lattice.atoms.is_frozen(np.arange(len(lattice.atoms)))
    return np.array([unit for unit, inside in wanted.items() if inside and free[unit]], np.int64)


@pytest.mark.parametrize("seed", range(45))
def test_permuting_a_group_changes_nothing(seed: int):
    model = random_model(seed)
    before = outputs(model, seed)
    groups = find_groups(model)
    rng = np.random.default_rng(seed)
    moved = 0
    for group in groups:
        for units in alike(groups.lattice, group.units):
            try:
                permute(groups.lattice, units, rng.permutation(len(units)))
            except PassError:  # a Pad or Slice leaves an incomplete grid of crossing units
                continue
            moved += len(units) > 1
    assert moved or any(node.op_type in ("Pad", "Slice", "Gather", "Split") for node in model.graph)
    assert apart(outputs(model, seed), before) < TOLERANCE


@pytest.mark.parametrize("seed", range(30))
def test_units_are_a_partition(seed: int):
    model = random_model(seed)
    groups = find_groups(model)
    all_groups = (*groups.groups, *groups.frozen, *groups.factors)
    every = np.concatenate([group.units for group in all_groups])
    assert len(np.unique(every)) == len(every)
    # What weights make is in one group or another, frozen or not, and nowhere else.
    atoms = groups.lattice.atoms
    made = np.concatenate([atoms.leaves(labels).reshape(-1) for _, labels in groups.lattice.makers])
    assert set(made[made >= 0]) == set(every)


def test_removing_everything_is_refused():
    every = (find_groups(random_model(seed)) for seed in range(20))
    groups = next(found for found in every if found.groups and found.frozen)
    with pytest.raises(PassError, match="nothing would be left"):
        remove(groups.lattice, groups.groups[0].units)
    frozen = groups.frozen[0].units[:1]
    with pytest.raises(PassError, match="frozen unit"):
        remove(groups.lattice, frozen)
