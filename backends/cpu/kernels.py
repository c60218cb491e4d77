"""Which microkernels run the layers of a region, by the names that ``sparsec doctor`` lists them under."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx_ir as ir

from sparsec.backends.cpu.assemble import Region
from sparsec.backends.cpu.items import Item, Scene
from sparsec.backends.cpu.plan import Blocks, Kind, OpCode, Plan, Tensor

DIRECT_COLUMNS = 3  # so many columns at most are products of a weight as it is stored
_SIMPLE = {OpCode.LINEAR, OpCode.ADD, OpCode.MULTIPLY, OpCode.ACTIVATION, OpCode.RMS_NORM}


def is_direct(scene: Scene, region: Region, plan: Plan) -> bool:
    """Whether the library reads the plan's weights without tiles: rows, few of them, simple operators."""
    return all(
        item.kind is Kind.ROWS
        and item.code in _SIMPLE
        and columns_of(scene, item) <= DIRECT_COLUMNS
        for item, op in zip(region.items, plan.ops, strict=True)
    )


def columns_of(scene: Scene, item: Item) -> int:
    """Return the pixels or tokens that an item writes."""
    return elements_of(scene, item.output) // item.channels


def elements_of(scene: Scene, value: ir.Value) -> int:
    """Return the number of elements of a value; 0 if its shape is not known."""
    return math.prod(scene.shape(value) or (0,))


def site_kernels(scene: Scene, region: Region, plan: Plan) -> Mapping[str, str]:
    """Return the family of microkernels of each pruned site, by its name."""
    direct = is_direct(scene, region, plan)
    return {
        item.site.name: _family(
            plan.tensors[op.weight],
            direct or (item.code is OpCode.LINEAR and columns_of(scene, item) <= DIRECT_COLUMNS),
        )
        for item, op in zip(region.items, plan.ops, strict=True)
        if item.site is not None and item.site.pattern is not None
    }


def _family(weight: Tensor, direct: bool) -> str:
    if not isinstance(weight, Blocks):
        return "f32_gemv_dense" if direct else "f32_spmm_block4x1"  # with all blocks kept
    # For tiles narrow values are widened when they are packed, and blocks of 8 rows run as two of 4.
    rows = weight.block_rows if direct else min(weight.block_rows, 4)
    form = "unstructured" if rows == 1 else f"block{rows}x1"
    return f"{_prefix(weight)}_gemv_{form}" if direct else f"f32_spmm_{form}"


def _prefix(weight: Blocks) -> str:
    kind, size = weight.values.dtype.kind, 8 * weight.values.dtype.itemsize
    return f"{kind}{size}"
