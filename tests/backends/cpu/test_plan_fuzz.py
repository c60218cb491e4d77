"""Plans that are truncated, altered or made up: refused with a sentence, never executed."""

import struct
import zlib

import numpy as np
import pytest

from sparsec.backends.cpu.library import LoadedPlan
from sparsec.backends.cpu.plan import Plan
from sparsec.ir.errors import ArtifactError, ShapeError
from tests.backends.cpu.layers import NEEDS_LIBRARY, linear_plan, sparse_matrix

pytestmark = NEEDS_LIBRARY

HEADER = 128


def good() -> bytes:
    rng = np.random.default_rng(0)
    matrix = sparse_matrix(rng, 20, 30, 0.7, 4)
    return linear_plan(matrix, 4, bias=np.ones(20, np.float32)).to_bytes()


def resealed(data: bytearray) -> bytes:
    """Give altered bytes a fitting size and checksum, so that the deeper checks are reached."""
    data[12:16] = struct.pack("<I", zlib.crc32(bytes(data[HEADER:])))
    data[16:24] = struct.pack("<Q", len(data))
    return bytes(data)


def test_round_trip() -> None:
    data = good()
    assert Plan.from_bytes(data).to_bytes() == data
    LoadedPlan(data)


def test_every_truncation_is_refused() -> None:
    data = good()
    for size in [*range(300), *range(300, len(data), 7)]:
        with pytest.raises(ArtifactError):
            LoadedPlan(data[:size])
        with pytest.raises(ArtifactError):
            Plan.from_bytes(data[:size])


def test_every_flipped_byte_is_refused() -> None:
    data = good()
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= 0x41
        with pytest.raises(ArtifactError):
            LoadedPlan(bytes(broken))


def test_resealed_garbage_never_crashes() -> None:
    """Past the checksum every field is still checked: a plan either loads and runs, or is refused."""
    rng = np.random.default_rng(1)
    data = good()
    x = np.ones((5, 30), np.float32)
    refused = ran = 0
    for _trial in range(4000):
        broken = bytearray(data)
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(8, len(data) - 4)) & ~3
            word = rng.choice(
                [
                    0,
                    1,
                    2,
                    0x7FFFFFFF,
                    0x80000000,
                    0xFFFFFFFF,
                    int(rng.integers(0, 1 << 32)),
                    int(rng.integers(0, 64)),
                ]
            )
            broken[at : at + 4] = struct.pack("<I", int(word))
        try:
            LoadedPlan(resealed(broken)).run(x)
            ran += 1
        except (ArtifactError, ShapeError):
            refused += 1
    assert refused > 500
    assert ran > 100


@pytest.mark.parametrize("field", range(24, 48, 4))
def test_huge_counts_are_refused(field: int) -> None:
    broken = bytearray(good())
    broken[field : field + 4] = b"\xff\xff\xff\x7f"
    with pytest.raises(ArtifactError):
        LoadedPlan(resealed(broken))


def test_wrong_inputs_are_refused() -> None:
    plan = LoadedPlan(good())
    for x in (np.ones((5, 31)), np.ones(30), np.ones((1, 5, 30)), np.ones((0, 29))):
        with pytest.raises(ShapeError):
            plan.run(x.astype(np.float32))
    assert plan.run(np.ones((0, 30), np.float32))[0].shape == (0, 20)
