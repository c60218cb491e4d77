"""Weight sites: every weight of a graph seen as a logical matrix [out, reduction].

A site is a stored tensor together with all nodes that read it as a weight, whatever stands between:
Conv of any rank and group, Gemm with transA/transB, MatMul with the weight on either side, through
Transpose, Cast, Mul and DequantizeLinear (:mod:`sparsec.ir.chain`), in the main graph or in the body of
an If or Loop. A tensor that several nodes share is one site. What has weights but is no site is
returned too, with the reason, so that no pass leaves anything out in silence.

Matrix forms (row = one output)::

    Conv    w [O, C/g, *kernel]   ->  [O, kernel * C/g]   channels fastest: N:M groups are channels
    Gemm    B [K, N] or [N, K]    ->  [N, K]              (A, when the constant is there: [M, K])
    MatMul  B [*b, K, N]          ->  [b * N, K]          (A [*b, M, K]: [b * M, K])
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.chain import Operand, Step, after, step_of
from sparsec.ir.codes import Code
from sparsec.ir.errors import ShapeError
from sparsec.ir.patterns import KEY, Pattern, from_metadata, to_metadata

# Operators with weights that no pass can prune; the reason names them.
_OTHER_WEIGHTS = {
    "ConvTranspose", "LSTM", "GRU", "RNN", "ConvInteger", "MatMulInteger", "QLinearConv",
    "QLinearMatMul", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulNBits", "QGemm",
    "QAttention", "Attention", "FusedMatMul", "FusedGemm", "FusedConv",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """How an operand becomes a matrix: transpose by ``perm``, then reshape to ``shape``.

    Parameters
    ----------
    perm : tuple of int
        Axes of the operand; those of the rows first, then those of the reduction.
    row_axes : int
        How many leading axes of ``perm`` are rows.
    run : int
        Consecutive reduction elements that differ in the last reduction axis only: what an N:M group
        or a block may span. For a convolution the channels of one group.
    groups : int
        ``group`` of a convolution: rows are in that many equal parts that read different inputs.
    """

    perm: tuple[int, ...]
    row_axes: int
    run: int
    groups: int = 1

    @property
    def reduction_axis(self) -> int:
        """Axis of the operand along which the fastest reduction index runs."""
        return self.perm[-1]


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class WeightSite:
    """One weight of the graph.

    Parameters
    ----------
    name : str
        The name of its node; of its tensor if the node is unnamed, not alone, or shares its name.
    op : str
        Operator type of its first node.
    nodes : tuple of onnx_ir.Node
        All nodes that read the weight, in graph order.
    weight : onnx_ir.Value
        The initializer that stores it.
    steps : tuple of Step
        From the stored tensor to the operand.
    layout : Layout
    """

    name: str
    op: str
    nodes: tuple[ir.Node, ...]
    weight: ir.Value
    steps: tuple[Step, ...]
    layout: Layout
    operand_shape: tuple[int, ...]

    @property
    def node(self) -> ir.Node:
        """The first node that reads the weight."""
        return self.nodes[0]

    @property
    def shape(self) -> tuple[int, int]:
        """``(out, reduction)``."""
        sizes = [self.operand_shape[axis] for axis in self.layout.perm]
        split = self.layout.row_axes
        return int(np.prod(sizes[:split])), int(np.prod(sizes[split:]))

    @property
    def size(self) -> int:
        """Number of weights."""
        return int(np.prod(self.operand_shape))

    @property
    def is_depthwise(self) -> bool:
        """Whether each output reads one channel only."""
        return self.layout.groups > 1 and self.layout.run == 1

    def operand(self) -> NDArray[Any]:
        """Return the operand as the node reads it; a copy, float32 or wider."""
        array = _stored(self.weight)
        for step in self.steps:
            array = step.forward(array)
        return array.astype(np.promote_types(array.dtype, np.float32))

    def matrix(self) -> NDArray[np.floating]:
        """Return a copy of the weight as float32 (or float64) [out, reduction], C-contiguous."""
        matrix = self.operand().transpose(self.layout.perm).reshape(self.shape)
        return np.ascontiguousarray(matrix)

    def to_operand(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """Return ``matrix`` [out, reduction], of any dtype, laid out as the operand."""
        if matrix.shape != self.shape:
            raise ShapeError(
                f"{self.name}: need a matrix {list(self.shape)}, got {list(matrix.shape)}",
                where=self.name,
            )
        sizes = [self.operand_shape[axis] for axis in self.layout.perm]
        return matrix.reshape(sizes).transpose(np.argsort(self.layout.perm))

    def write_matrix(self, matrix: NDArray[np.floating]) -> None:
        """Store ``matrix`` [out, reduction] in place of the weight, in the weight's own dtype.

        A value that was not changed comes back bit for bit, also behind a quantisation.

        Raises
        ------
        ShapeError
            If the matrix has another shape.
        """
        array = self.to_operand(matrix)
        for step in reversed(self.steps):
            array = step.backward(array)
        stored = _stored(self.weight)
        tensor = ir.tensor(np.ascontiguousarray(array, dtype=stored.dtype), name=self.weight.name)
        self.weight.const_value = tensor

    @property
    def pattern(self) -> Pattern | None:
        """The pattern that the file claims for the weight; None for a dense one."""
        text = self.weight.metadata_props.get(KEY)
        return None if text is None else from_metadata(text)

    @pattern.setter
    def pattern(self, pattern: Pattern) -> None:
        self.weight.metadata_props[KEY] = to_metadata(pattern, self.stored_reduction_axis)

    @property
    def stored_reduction_axis(self) -> int:
        """Axis of the stored tensor that holds the reduction, behind every transposition."""
        return _stored_axes(self.layout, self.steps)[-1]


@dataclasses.dataclass(frozen=True, slots=True)
class NotASite:
    """Something with weights that cannot be pruned, and why."""

    name: str
    op: str
    code: Code
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Sites:
    """All weight sites of a graph, in graph order, and what is none although it has weights."""

    sites: tuple[WeightSite, ...]
    others: tuple[NotASite, ...]

    def __iter__(self) -> Iterator[WeightSite]:
        return iter(self.sites)

    def __len__(self) -> int:
        return len(self.sites)


def weight_sites(model: ir.Model) -> Sites:
    """Find every weight of ``model``, subgraphs included.

    Nothing is read but shapes: a model of any size costs its number of nodes.
    """
    order = {node: i for i, node in enumerate(ir.traversal.RecursiveGraphIterator(model.graph))}
    names = Counter(node.name for node in order)
    found: list[tuple[int, WeightSite]] = []
    others: dict[str, tuple[int, NotASite]] = {}
    for weight in _initializers(model.graph, order):
        uses, strangers = _follow(weight)
        if uses:
            uses.sort(key=lambda use: order[use.node])
            site = _site(weight, uses, names)
            where = order[site.node]
            if reason := _contradiction(uses, strangers):
                others[site.name] = (where, NotASite(site.name, site.op, Code.SHARED, reason))
            else:
                found.append((where, site))
    taken = {node for _, site in found for node in site.nodes}
    for node, where in order.items():
        if node not in taken and (other := _other(node, names)) and other.name not in others:
            others[other.name] = (where, other)
    return Sites(
        tuple(site for _, site in sorted(found, key=lambda item: item[0])),
        tuple(other for _, other in sorted(others.values(), key=lambda item: item[0])),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Use:
    """One node that reads a stored tensor as its weight."""

    node: ir.Node
    steps: tuple[Step, ...]
    layout: Layout
    shape: tuple[int, ...]

    def same_view(self, other: _Use) -> bool:
        """Whether both see the same matrix in the same stored tensor."""
        mine = _stored_axes(self.layout, self.steps), self.layout.row_axes, self.layout.groups
        theirs = _stored_axes(other.layout, other.steps), other.layout.row_axes, other.layout.groups
        return mine == theirs


def _stored_axes(layout: Layout, steps: tuple[Step, ...]) -> tuple[int, ...]:
    """Return ``layout.perm`` in axes of the stored tensor."""
    axes = layout.perm
    for step in reversed(steps):
        axes = tuple(step.source_axis(axis) for axis in axes)
    return axes


def _initializers(graph: ir.Graph, order: dict[ir.Node, int]) -> Iterator[ir.Value]:
    """Yield every initializer with a value, of the graph and of all bodies inside it."""
    graphs: dict[ir.Graph, None] = {graph: None}
    for node in order:
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                graphs[attribute.as_graph()] = None
            elif attribute.type == ir.AttributeType.GRAPHS:
                graphs.update(dict.fromkeys(attribute.as_graphs()))
    for inner in graphs:
        yield from (value for value in inner.initializers.values() if value.const_value is not None)


def _follow(weight: ir.Value) -> tuple[list[_Use], list[ir.Node]]:
    """Return the uses of a stored tensor as a weight, and the nodes that read it as something else."""
    constant = weight.const_value
    assert constant is not None
    shape = tuple(int(size) for size in constant.shape.numpy())
    if len(shape) == 0 or constant.dtype in (ir.DataType.STRING, ir.DataType.BOOL):
        return [], []
    start = Operand(len(shape), np.dtype(constant.dtype.numpy()))
    uses: list[_Use] = []
    strangers: list[ir.Node] = []
    pending: list[tuple[ir.Value, tuple[Step, ...], Operand, tuple[int, ...]]] = [
        (weight, (), start, shape)
    ]
    while pending:
        value, steps, operand, shape = pending.pop()
        if value.is_graph_output() and (producer := value.producer()) is not None:
            strangers.append(producer)
        for node, index in value.uses():
            layout = matrix_layout(node, index, shape)
            if layout is not None and np.issubdtype(operand.dtype, np.floating):
                uses.append(_Use(node, steps, layout, shape))
            elif step := step_of(node, index, operand):
                reached = after(step, operand)
                pending.append((node.outputs[0], (*steps, step), reached, step.shape(shape)))
            else:
                strangers.append(node)
    return uses, strangers


def matrix_layout(node: ir.Node, index: int, shape: tuple[int, ...]) -> Layout | None:
    """Return how ``node`` reads a constant of ``shape`` at input ``index`` as a matrix.

    None if it does not read it as a weight. This is the only place that knows which axes of which
    operator are outputs and which are summed over.
    """
    if node.domain not in ("", "ai.onnx"):
        return None
    rank = len(shape)
    match node.op_type:
        case "Conv" if index == 1 and rank >= 3:
            groups = node.attributes.get_int("group", 1) or 1
            return Layout((0, *range(2, rank), 1), 1, shape[1], groups)
        case "Gemm" if index < 2 and rank == 2:
            transposed = bool(node.attributes.get_int("transA" if index == 0 else "transB", 0))
            rows_first = transposed == (index == 1)
            perm = (0, 1) if rows_first else (1, 0)
            return Layout(perm, 1, shape[perm[-1]])
        case "MatMul" if index < 2 and rank >= 2:
            batch = tuple(range(rank - 2))
            last = (rank - 2, rank - 1) if index == 0 else (rank - 1, rank - 2)
            return Layout((*batch, *last), rank - 1, shape[last[-1]])
    return None


def _site(weight: ir.Value, uses: list[_Use], names: Counter[str | None]) -> WeightSite:
    first = uses[0]
    nodes = tuple(dict.fromkeys(use.node for use in uses))
    own_name = first.node.name if len(nodes) == 1 and names[first.node.name] == 1 else None
    return WeightSite(
        name=own_name or weight.name or "",
        op=first.node.op_type,
        nodes=nodes,
        weight=weight,
        steps=first.steps,
        layout=first.layout,
        operand_shape=first.shape,
    )


def _contradiction(uses: list[_Use], strangers: list[ir.Node]) -> str | None:
    """Return why the uses of one tensor cannot be edited as one matrix, or None."""
    if strangers:
        readers = sorted({node.op_type for node in strangers})
        return f"its tensor is also read by {', '.join(readers)}, which pruning would change"
    for use in uses[1:]:
        if not uses[0].same_view(use):
            return f"{uses[0].node.op_type} and {use.node.op_type} read its tensor along other axes"
    return None


def _other(node: ir.Node, names: Counter[str | None]) -> NotASite | None:
    """Return why a node with weights is no site; None for a node without weights."""
    name = node.name if node.name and names[node.name] == 1 else (node.outputs[0].name or "")
    if node.op_type in _OTHER_WEIGHTS:
        constants = any(
            value is not None and value.const_value is not None for value in node.inputs
        )
        if constants:
            reason = f"no pass can prune the weights of {node.op_type}"
            return NotASite(name, node.op_type, Code.NOT_A_SITE, reason)
        return None
    if node.op_type == "Conv" and node.domain in ("", "ai.onnx"):
        reason = "its weight is computed at run time"
        return NotASite(name, node.op_type, Code.NOT_CONSTANT, reason)
    return None


def _stored(weight: ir.Value) -> NDArray[Any]:
    """Return the stored array; only values that are constants are ever sites."""
    assert weight.const_value is not None
    return weight.const_value.numpy()


def sparsity(matrix: NDArray[Any]) -> float:
    """Return the fraction of zeros of an array.

    Examples
    --------
    >>> sparsity(np.array([[0.0, 1.0], [0.0, 0.0]]))
    0.75
    """
    return 1.0 - float(np.count_nonzero(matrix)) / matrix.size if matrix.size else 0.0
