"""What a product costs on a machine that is not this one.

x86: times fitted on measured records (``records_avx2.json``, ``records_avx512.json``). 64-bit ARM: the
break-even rule, because no ARM machine has been measured; its costs have no unit. Why so stands in
docs/adr/0014-cost-model.md.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.cpu.kernels import DIRECT_COLUMNS

DENSE = 0  # as a number of block rows: the dense product of ONNX Runtime

# Values of 4 MB: what a core of the measured machine streams without asking the memory.
_CACHED = 2**20
# A tile is at least this wide: fewer columns cost the same.
_NARROWEST = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Product:
    """A weight [rows, reduction] times ``columns`` columns: a linear layer or a convolution.

    Parameters
    ----------
    block_rows : int
        Rows that share a column index, 1 for unstructured weights.
    kept : int
        Values that are stored.
    direct : bool
        Whether the weight is read directly, without tiles.
    """

    rows: int
    reduction: int
    columns: int
    block_rows: int
    kept: int
    direct: bool = False

    @property
    def size(self) -> int:
        """Values of the dense weight."""
        return self.rows * self.reduction

    def dense(self) -> Product:
        """Return the product with all values."""
        return dataclasses.replace(self, block_rows=DENSE, kept=self.size)


class CostModel(Protocol):
    """Compares products with their dense form. Costs are sums: those of a region add up."""

    basis: str  # what the costs rest on, for people
    in_seconds: bool  # whether costs are seconds, or mean something only as ratios
    margin: float  # by how much a region must win, because the model errs

    def dense(self, product: Product) -> float:
        """Return the cost of the dense product in ONNX Runtime."""
        ...

    def sparse(self, product: Product) -> float:
        """Return the cost of the product in a plan."""
        ...

    def border(self, elements: int) -> float:
        """Return the cost of bringing values into or out of a plan's layout."""
        ...


def features(product: Product) -> list[float]:
    """Return what the time of a product is a sum of: the columns of the fit.

    Multiply-adds, outputs, inputs, weights and a call; for a weight that is read directly, values and
    those of them that exceed the cache, outputs and a call.
    """
    m, k, kept = product.rows, product.reduction, product.kept
    if product.direct:
        return [kept, max(0, kept - _CACHED), m, 1.0]
    n = max(product.columns, _NARROWEST)
    return [kept * n, m * n, k * n, kept, 1.0]


def fit(products: Sequence[Product], seconds: Sequence[float]) -> NDArray[np.float64]:
    """Return the non-negative weights of the features with the least relative error.

    Negative weights are dropped, the most negative first, and the rest is fitted again.
    """
    times = np.array(seconds)
    table = np.array([features(product) for product in products]) / times[:, None]
    used = list(range(table.shape[1]))
    while True:
        found = np.linalg.lstsq(table[:, used], np.ones(len(times)), rcond=None)[0]
        if (found >= 0).all():
            break
        del used[int(np.argmin(found))]
    weights = np.zeros(table.shape[1])
    weights[used] = found
    return weights


def records_file(isa: str) -> Path:
    """Return where the records are of machines whose best instruction set this is."""
    return Path(__file__).parent / f"records_{isa}.json"


@functools.cache
def records(isa: str) -> dict[str, Any]:
    """Return the records of one instruction set and the machine they are from."""
    loaded: dict[str, Any] = json.loads(records_file(isa).read_text(encoding="utf-8"))
    return loaded


def measured(isa: str, block_rows: int, direct: bool) -> tuple[list[Product], list[float]]:
    """Return the products that one instruction set was timed on, with their seconds."""
    rows = [
        (Product(m, k, n, block, kept, n == 1), seconds)
        for m, k, n, block, kept, seconds in records(isa)["rows"]
        if block == block_rows and (n == 1) == direct
    ]
    return [product for product, _ in rows], [seconds for _, seconds in rows]


class Fitted:
    """Seconds of the measured machine, held to one instruction set."""

    in_seconds = True
    margin = 1.2

    def __init__(self, isa: str) -> None:
        self.isa = isa
        self.basis = f"modelled on records of {isa} kernels"

    def dense(self, product: Product) -> float:
        """Return the seconds of ONNX Runtime's dense product."""
        direct = product.columns <= DIRECT_COLUMNS  # as ONNX Runtime does, whatever a plan can
        return self._seconds(dataclasses.replace(product.dense(), direct=direct))

    def sparse(self, product: Product) -> float:
        """Return the seconds of the product in a plan; a few columns of a direct one take turns."""
        turns = product.columns if product.direct else 1
        return turns * self._seconds(product)

    def border(self, elements: int) -> float:
        """Return the seconds of bringing values into or out of a plan's layout."""
        return elements * float(records(self.isa)["border"])

    def _seconds(self, product: Product) -> float:
        weights = _weights(self.isa, product.block_rows, product.direct)
        return float(np.dot(features(product), weights))


@functools.cache
def _weights(isa: str, block_rows: int, direct: bool) -> NDArray[np.float64]:
    return fit(*measured(isa, block_rows, direct))


# Block rows: sparsity at which a wide, a narrow (below 64 columns) and a direct product break even.
_BREAK_EVEN = {
    1: (0.55, 0.60, 0.65),
    2: (0.30, 0.41, 0.65),
    4: (0.00, 0.25, 0.65),
    8: (0.00, 0.25, 0.25),
}


class BreakEven:
    """The break-even rule: a sparse product costs as much as the dense one at a known sparsity.

    In between, cost is proportional to the stored values. The sparsities were measured with AVX2 kernels.
    """

    basis = "modelled by break-even, nothing was timed on such a machine"
    in_seconds = False
    margin = 1.0

    def dense(self, product: Product) -> float:
        """Return the multiply-adds of the dense product."""
        return float(product.size * product.columns)

    def sparse(self, product: Product) -> float:
        """Return the dense multiply-adds that take as long."""
        if product.block_rows == DENSE:
            return self.dense(product)
        return product.kept * product.columns / (1 - self.point(product))

    def point(self, product: Product) -> float:
        """Return the sparsity above which the sparse product wins."""
        wide, narrow, direct = _BREAK_EVEN[product.block_rows]
        if product.direct:
            return direct
        return narrow if product.columns < 64 else wide

    def border(self, elements: int) -> float:
        """Return nothing: the rule does not know it."""
        return 0.0
