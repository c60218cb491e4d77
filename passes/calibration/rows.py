"""The input of a node as rows of the reduction: what each row of its weight is multiplied with.

``y = W x`` for a matrix W [out, reduction] holds for every supported operator once its input is
seen as rows of ``reduction`` numbers: the last axis for MatMul, patches for a convolution (im2col),
one set of rows a group for a grouped one. The columns are in the order of
:meth:`sparsec.ir.sites.WeightSite.matrix`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from sparsec.ir.execute.executor import Point
from sparsec.ir.sites import WeightSite

Array = NDArray[Any]

BLOCK_ELEMENTS = 1 << 22


class Rows(Protocol):
    """Turns the input of a node into rows; equal instances do the same."""

    def blocks(self, x: Array, keep: Array | None) -> Iterator[Array]:
        """Yield blocks of rows, float [groups, rows, columns], of bounded size.

        Parameters
        ----------
        x : array
            The input, as the executor shows it.
        keep : bool [batch, length], optional
            Rows of padding are False; ignored where ``x`` has no such axes.
        """
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class MatrixRows:
    """The input of Gemm or MatMul.

    Parameters
    ----------
    transposed : bool
        Whether the reduction is the last axis but one.
    batch : tuple of int
        Leading axes of the weight of a batched MatMul.
    """

    transposed: bool
    batch: tuple[int, ...] = ()

    def blocks(self, x: Array, keep: Array | None) -> Iterator[Array]:
        """Yield blocks of rows."""
        x = x[None] if x.ndim == 1 and not self.transposed else x
        x = x[:, None] if x.ndim == 1 else x
        rows = np.swapaxes(x, -1, -2) if self.transposed else x
        columns = rows.shape[-1]
        if int(np.prod(self.batch)) > 1:
            grouped = _by_group(rows, self.batch)
        else:
            mask = None if self.transposed else _token_mask(rows, keep)
            flat = rows.reshape(-1, columns)
            grouped = (flat if mask is None else flat[mask])[None]
        step = max(BLOCK_ELEMENTS // max(columns * grouped.shape[0], 1), 1)
        for start in range(0, grouped.shape[1], step):
            yield grouped[:, start : start + step]


def _by_group(rows: Array, batch: tuple[int, ...]) -> Array:
    """Return [*, M, K] as [groups, rows, K], broadcast to the leading axes of the weight."""
    lead = np.broadcast_shapes(rows.shape[:-2], batch)
    wide = np.broadcast_to(rows, (*lead, *rows.shape[-2:]))
    outer = len(lead) - len(batch)
    order = [*range(outer, len(lead)), *range(outer), len(lead), len(lead) + 1]
    return wide.transpose(order).reshape(int(np.prod(batch)), -1, rows.shape[-1])


def _token_mask(rows: Array, keep: Array | None) -> Array | None:
    """Return which flattened rows are no padding; None if the axes are not batch and length."""
    if keep is None:
        return None
    if rows.ndim >= 3 and rows.shape[:2] == keep.shape:
        inner = int(np.prod(rows.shape[2:-1]))
        return np.repeat(keep.reshape(-1), inner)
    if rows.ndim == 2 and rows.shape[0] == keep.size:
        return keep.reshape(-1)
    return None


@dataclasses.dataclass(frozen=True, slots=True)
class PatchRows:
    """The input of a convolution: one row for each place of the kernel, in each group."""

    groups: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str

    @classmethod
    def of(cls, node: ir.Node, kernel: tuple[int, ...]) -> PatchRows:
        """Read the attributes of a Conv node."""
        ones = (1,) * len(kernel)
        get = node.attributes.get_ints
        return cls(
            node.attributes.get_int("group", 1) or 1,
            kernel,
            tuple(get("strides") or ones),
            tuple(get("dilations") or ones),
            tuple(get("pads") or (0,) * (2 * len(kernel))),
            node.attributes.get_string("auto_pad", "NOTSET") or "NOTSET",
        )

    def blocks(self, x: Array, keep: Array | None) -> Iterator[Array]:
        """Yield blocks of rows: some lines of patches of one image at a time."""
        axes = len(self.kernel)
        begin, end = self._padding(x.shape[2:])
        if any(begin) or any(end):
            x = np.pad(x, [(0, 0), (0, 0), *zip(begin, end, strict=True)])
        reach = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        if any(size < r for size, r in zip(x.shape[2:], reach, strict=True)):
            return
        windows = sliding_window_view(x, reach, axis=tuple(range(2, 2 + axes)))
        step = (slice(None), slice(None), *(slice(None, None, s) for s in self.strides))
        windows = windows[(*step, *(slice(None, None, d) for d in self.dilations))]
        batch, channels, *out = windows.shape[: 2 + axes]
        of_group = channels // self.groups
        columns = of_group * int(np.prod(self.kernel))
        line = int(np.prod(out[1:])) * columns * self.groups
        lines = max(BLOCK_ELEMENTS // max(line, 1), 1)
        for image in windows.reshape(batch, self.groups, of_group, *out, *self.kernel):
            for start in range(0, out[0], lines):
                part = image[:, :, start : start + lines]
                # [groups, channels, *out, *kernel] -> [groups, *out, *kernel, channels]
                order = (0, *range(2, 2 + 2 * axes), 1)
                yield part.transpose(order).reshape(self.groups, -1, columns)

    def _padding(self, sizes: tuple[int, ...]) -> tuple[list[int], list[int]]:
        """Return the zeros before and behind each axis."""
        axes = len(self.kernel)
        if self.auto_pad in ("NOTSET", ""):
            return list(self.pads[:axes]), list(self.pads[axes:])
        if self.auto_pad == "VALID":
            return [0] * axes, [0] * axes
        begin, end = [], []
        for size, k, s, d in zip(sizes, self.kernel, self.strides, self.dilations, strict=True):
            total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
            small = total // 2
            first = total - small if self.auto_pad == "SAME_LOWER" else small
            begin.append(first)
            end.append(total - first)
        return begin, end


@dataclasses.dataclass(frozen=True, slots=True)
class Tap:
    """Where the input of a weight flows, and how it is seen as rows.

    Weights that read the same value in the same way (query, key and value of attention) share one.

    Parameters
    ----------
    point : Point
    rows : Rows
    groups, columns : int
        Of the blocks of rows.
    """

    point: Point
    rows: MatrixRows | PatchRows
    groups: int
    columns: int


def taps_of(site: WeightSite) -> tuple[Tap, ...]:
    """Return the tap of every node that reads the weight, in order."""
    return tuple(_tap(site, node) for node in site.nodes)


def _tap(site: WeightSite, node: ir.Node) -> Tap:
    index = site.index_in(node)
    value = node.inputs[1 - index]
    graph = node.graph
    assert value is not None
    assert isinstance(graph, ir.Graph)
    if value.dtype is None:  # what a node multiplies is of one type
        value.type = ir.TensorType(ir.DataType.from_numpy(site.dtype))
    groups, columns = site.layout.groups, site.shape[1]
    rows: MatrixRows | PatchRows
    if node.op_type == "Conv":
        rows = PatchRows.of(node, site.operand_shape[2:])
    elif node.op_type == "Gemm":
        flag = node.attributes.get_int("transA" if index == 1 else "transB", 0)
        rows = MatrixRows(transposed=bool(flag) == (index == 1))
    else:
        rows = MatrixRows(transposed=index == 0, batch=site.operand_shape[:-2])
    return Tap(Point(value, graph), rows, groups, columns)
