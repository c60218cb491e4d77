"""Planes too large for the second cache are made as windows read them: same bits as one by one."""

import numpy as np
import pytest

from sparsec.backends.cpu.library import LoadedPlan
from sparsec.backends.cpu.pack import pack_blocks
from sparsec.backends.cpu.plan import Activation, Dense, Kind, Op, OpCode, Plan, Value
from tests.backends.cpu.layers import NEEDS_LIBRARY, sparse_matrix

pytestmark = NEEDS_LIBRARY

CLIP = {"activation": Activation.CLIP, "low": 0.0, "high": 6.0}


def inverted_residuals(rng: np.random.Generator, wide: int, blocks: list[tuple[int, int]]) -> Plan:
    """A stem with a stride, then blocks of (kernel, stride): expand to ``wide``, window, project to 8.

    Blocks of stride 1 add their input to their output.
    """
    stem = {"kernel": (3, 3), "stride": (2, 2), "pads": (1, 1, 1, 1)}
    ops = [Op(OpCode.CONV, (0,), 1, weight=0, **stem, **CLIP)]
    tensors = [
        Dense(rng.standard_normal((8, 27)).astype(np.float32)),
        pack_blocks(sparse_matrix(rng, wide, 8, 0.5), 1),
        pack_blocks(sparse_matrix(rng, 8, wide, 0.8), 1),
    ]
    values = [Value(Kind.IMAGE, 3, 4), Value(Kind.IMAGE, 8, 4)]
    for kernel, stride in blocks:
        x, n = len(values) - 1, len(values)
        tensors.append(Dense(rng.standard_normal((wide, kernel**2)).astype(np.float32)))
        window = {"kernel": (kernel,) * 2, "stride": (stride,) * 2, "pads": (kernel // 2,) * 4}
        ops += [
            Op(OpCode.LINEAR, (x,), n, weight=1, **CLIP),
            Op(OpCode.DEPTHWISE, (n,), n + 1, weight=len(tensors) - 1, **window, **CLIP),
            Op(OpCode.LINEAR, (n + 1, x) if stride == 1 else (n + 1,), n + 2, weight=2),
        ]
        values += [Value(Kind.IMAGE, c, 4) for c in (wide, wide, 8)]
    return Plan((0,), (len(values) - 1,), tuple(values), tuple(ops), tuple(tensors))


def one_by_one(plan: Plan, x: np.ndarray, isa: str) -> np.ndarray:
    """Run every operator as a plan of its own."""
    known = {0: x}
    for op in plan.ops:
        inputs = tuple(i for i in op.inputs if i in known)
        alone = Plan(inputs, (op.output,), plan.values, (op,), plan.tensors)
        (known[op.output],) = LoadedPlan(alone.to_bytes(), isa=isa).run(*(known[i] for i in inputs))
    return known[plan.outputs[0]]


@pytest.mark.parametrize("size", [(224, 224), (150, 222)])
@pytest.mark.parametrize(
    "blocks", [[(3, 1), (3, 2)], [(5, 2), (3, 1)], [(5, 1), (5, 1)], [(3, 2), (5, 2), (3, 1)]]
)
def test_same_bits_as_operator_by_operator(isa: str, blocks, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(k * s for k, s in blocks) + size[0])
    plan = inverted_residuals(rng, 96, blocks)
    x = rng.standard_normal((2, 3, *size)).astype(np.float32)
    want = one_by_one(plan, x, isa)
    for threads in (1, 2, 5):
        (got,) = LoadedPlan(plan.to_bytes(), isa=isa, threads=threads).run(x)
        np.testing.assert_array_equal(got, want)


def test_a_plane_beyond_the_second_cache_is_never_whole() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 3, 224, 224)).astype(np.float32)

    def is_whole(wide: int) -> bool:
        loaded = LoadedPlan(inverted_residuals(rng, wide, [(3, 1), (3, 2)]).to_bytes(), threads=2)
        assert loaded.memory() == 0
        loaded.run(x)
        assert loaded.memory() > 0
        return loaded.memory() >= 4 * wide * 112 * 112

    # A plane of 96 channels is 4.8 MB, half of it for each thread, and second caches have 256 KiB to 4 MiB.
    assert not all(is_whole(wide) for wide in (96, 192, 384))
