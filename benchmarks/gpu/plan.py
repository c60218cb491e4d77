"""Which kernels are measured on which layers: one line here is one more row in the table."""

from __future__ import annotations

import dataclasses

from benchmarks.gpu.shapes import LAYERS, QUICK, Layer


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A packed format with its values and a sparsity that its pattern has or gets."""

    format: str
    sparsity: float
    values: str = "float16"

    def __str__(self) -> str:
        return f"{self.format} {self.values} {100 * self.sparsity:.0f}%"


# Triton kernels. 2:4 on all layers; the rest on two.
EVERYWHERE = (Entry("nm24", 0.5),)
ENTRIES = (
    Entry("nm24_sp", 0.5),  # by Gluon
    Entry("nm1_4", 0.75),
    Entry("nm2_8", 0.75),
    Entry("nm4_8", 0.5),
    Entry("nm8_16", 0.5),
    Entry("nm2_4", 0.5, "float8_e4m3fn"),
    Entry("nm2_4", 0.5, "int8"),
    Entry("nm1_4", 0.75, "float8_e4m3fn"),
    Entry("bm32", 0.5),
    Entry("bm32", 0.7),
    Entry("bm32", 0.9),
    Entry("block16x1", 0.5),
    Entry("block16x1", 0.7),
    Entry("block16x1", 0.9),
    Entry("block8x1", 0.7),
)
# What the targets are about comes first: time may end.
ROWS = (16, 1, 64, 8, 32)
FEW_ROWS = (16, 1, 64)

# CUDA C++ kernels.
NATIVE = (
    Entry("nm24_sp", 0.5),
    Entry("nm14_sp", 0.75),
    *(Entry("lps", sparsity) for sparsity in (0.5, 0.6, 0.7, 0.8, 0.9)),
)

# Products of many rows, by kernels of both kinds.
PREFILL = (
    Entry("nm24", 0.5),
    Entry("nm24_sp", 0.5),
    Entry("nm14_sp", 0.75),
    Entry("lps", 0.7),
    Entry("nm1_4", 0.75),
    Entry("bm32", 0.7),
    Entry("block16x1", 0.7),
)
PREFILL_ROWS = (128, 512, 2048)


def table(quick: bool) -> list[tuple[Layer, int, Entry]]:
    """Return what is measured of the Triton kernels, in order."""
    everywhere = QUICK if quick else LAYERS
    found = [(layer, n, entry) for n in ROWS for layer in everywhere for entry in EVERYWHERE]
    found += [(layer, n, entry) for n in FEW_ROWS for layer in QUICK for entry in ENTRIES]
    return sorted(found, key=lambda each: ROWS.index(each[1]))


def native_table() -> list[tuple[Layer, int, Entry]]:
    """Return what is measured of the CUDA C++ kernels, in order."""
    return [(layer, n, entry) for n in FEW_ROWS for layer in QUICK for entry in NATIVE]


def prefill_table() -> list[tuple[Layer, int, Entry]]:
    """Return what is measured of products of many rows, in order."""
    return [(layer, n, entry) for n in PREFILL_ROWS for layer in QUICK for entry in PREFILL]
