"""Weight sites: every weight of a graph seen as a logical matrix [out, reduction].

A site is a stored tensor together with all nodes that read it as a weight, whatever stands between:
Conv of any rank and group, Gemm with transA/transB, MatMul with the weight on either side
(:mod:`sparsec.ir.layout`), through Transpose, Cast, Mul, Identity and DequantizeLinear
(:mod:`sparsec.ir.chain`), in the main graph or in the body of an If or Loop. A tensor that several
nodes share is one site. What has weights but is no site is returned too
(:mod:`sparsec.ir.not_sites`).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.chain import Operand, Step, after, step_of
from sparsec.ir.codes import Code
from sparsec.ir.errors import ShapeError
from sparsec.ir.layout import STANDARD_DOMAIN, Layout
from sparsec.ir.layout import matrix_layout as matrix_layout
from sparsec.ir.memory import release
from sparsec.ir.not_sites import NotASite, constant_values, not_a_site
from sparsec.ir.patterns import KEY, Pattern, from_metadata, to_metadata

# Readers of a weight that look at its shape only: zeroing values changes nothing for them.
_SHAPE_ONLY = {"Shape", "Size"}


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
    operand_shape : tuple of int
        Shape of the weight as the nodes read it.
    dtype : numpy.dtype
        Type of the weight as the nodes read it: what they compute in.
    """

    name: str
    op: str
    nodes: tuple[ir.Node, ...]
    weight: ir.Value
    steps: tuple[Step, ...]
    layout: Layout
    operand_shape: tuple[int, ...]
    dtype: np.dtype[Any]

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
        copy = array.astype(np.promote_types(array.dtype, np.float32))
        release(self.weight.const_value)  # a large model is never wholly in memory
        return copy

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

        A value that was not changed stays as it is stored, bit for bit, whatever stands between.

        Raises
        ------
        ShapeError
            If the matrix has another shape.
        """
        stored = _stored(self.weight)
        array = self._backward(self.to_operand(matrix))
        if self.steps:  # rounding on the way there and back must not touch what was not edited
            array = np.where(array == self._backward(self.operand()), stored, array)
        array = np.ascontiguousarray(array, dtype=stored.dtype)
        self.weight.const_value = ir.tensor(array, name=self.weight.name)

    @property
    def reduction_axes(self) -> tuple[int, ...]:
        """Axes of the stored tensor that are summed over, behind every transposition."""
        return _stored_axes(self.layout, self.steps)[self.layout.row_axes :]

    def to_stored(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """Return numbers of the weights, [out, reduction], in the order of the stored tensor."""
        operand = self.to_operand(matrix)
        axes = [_stored_axis(axis, self.steps) for axis in range(operand.ndim)]
        return operand.transpose(np.argsort(axes))

    def index_in(self, node: ir.Node) -> int:
        """Return which input of ``node``, one of the site's, is the weight."""
        return next(i for i, value in enumerate(node.inputs) if _derives(value, self.weight))

    def along_reduction(self, axis: int, numbers: NDArray[Any]) -> NDArray[Any]:
        """Return for every column of the matrix, [reduction], the number of its position.

        Parameters
        ----------
        axis : int
            Of the stored tensor; one of :attr:`reduction_axes`.
        numbers : array [positions]
            One for each position along it.
        """
        sizes = [self.operand_shape[each] for each in self.layout.perm[self.layout.row_axes :]]
        spread = [1] * len(sizes)
        spread[self.reduction_axes.index(axis)] = len(numbers)
        return np.broadcast_to(numbers.reshape(spread), sizes).reshape(-1)

    def kept(self, removed: Mapping[int, NDArray[np.int64]]) -> NDArray[np.bool_]:
        """Return which weights are left, bool [out, reduction], if positions of the tensor go.

        Parameters
        ----------
        removed : mapping of int to int [n]
            Positions by axis of the stored tensor.
        """
        axes = _stored_axes(self.layout, self.steps)
        mask = np.ones([self.operand_shape[axis] for axis in self.layout.perm], np.bool_)
        for axis, positions in removed.items():
            mask[(slice(None),) * axes.index(axis) + (positions,)] = False
        return mask.reshape(self.shape)

    def _backward(self, operand: NDArray[Any]) -> NDArray[Any]:
        """Map an operand to the stored tensor."""
        for step in reversed(self.steps):
            operand = step.backward(operand)
        return operand

    @property
    def pattern(self) -> Pattern | None:
        """The pattern that the file claims for the weight; None for a dense one."""
        text = self.weight.metadata_props.get(KEY)
        return None if text is None else from_metadata(text)

    @property
    def pattern_text(self) -> str:
        """The pattern as reports and manifests write it: ``dense`` for none."""
        return "dense" if self.pattern is None else str(self.pattern)

    def mark(self, pattern: Pattern) -> None:
        """Record on the stored tensor that the weight follows ``pattern``."""
        self.weight.metadata_props[KEY] = to_metadata(pattern, self.stored_reduction_axis)

    @property
    def stored_reduction_axis(self) -> int:
        """Axis of the stored tensor that holds the reduction, behind every transposition."""
        return _stored_axes(self.layout, self.steps)[-1]


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

    Nothing is read but shapes and scales: a model of any size costs its number of nodes.
    """
    order = {node: i for i, node in enumerate(ir.traversal.RecursiveGraphIterator(model.graph))}
    names = Counter(node.name for node in order)
    found: list[WeightSite] = []
    others: list[tuple[int, NotASite]] = []
    seen: set[ir.Node] = set()
    for weight in _initializers(model.graph, order):
        uses, strangers = _follow(weight)
        if not uses:
            continue
        uses.sort(key=lambda use: order[use.node])
        site = _site(weight, uses, names)
        seen.update(site.nodes)
        if reason := _contradiction(uses, strangers):
            entry = NotASite(site.name, site.op, Code.SHARED, reason)
            others.append((order[site.node], entry))
        else:
            found.append(site)
    constants = constant_values(order)
    for node, where in order.items():
        if node not in seen and (other := not_a_site(node, names, constants)):
            others.append((where, other))
    found.sort(key=lambda site: order[site.node])
    others.sort(key=lambda item: item[0])
    return Sites(tuple(_uniquely_named(found)), tuple(other for _, other in others))


def _uniquely_named(sites: list[WeightSite]) -> Iterator[WeightSite]:
    """Call sites after their tensors where one node reads two, as a product of constants does."""
    count = Counter(site.name for site in sites)
    for site in sites:
        name = site.name if count[site.name] == 1 else site.weight.name or site.name
        yield dataclasses.replace(site, name=name)


@dataclasses.dataclass(frozen=True, slots=True)
class _Use:
    """One node that reads a stored tensor as its weight."""

    node: ir.Node
    steps: tuple[Step, ...]
    layout: Layout
    operand: Operand

    def same_view(self, other: _Use) -> bool:
        """Whether both see the same matrix in the same stored tensor."""
        mine = _stored_axes(self.layout, self.steps), self.layout.row_axes, self.layout.groups
        theirs = _stored_axes(other.layout, other.steps), other.layout.row_axes, other.layout.groups
        return mine == theirs


def _stored_axes(layout: Layout, steps: tuple[Step, ...]) -> tuple[int, ...]:
    """Return ``layout.perm`` in axes of the stored tensor."""
    return tuple(_stored_axis(axis, steps) for axis in layout.perm)


def _stored_axis(axis: int, steps: tuple[Step, ...]) -> int:
    """Return the axis of the stored tensor that an axis of the operand comes from."""
    for step in reversed(steps):
        axis = step.source_axis(axis)
    return axis


# What may stand between a stored tensor and the operand: see sparsec.ir.chain.
_CHAIN = {"Transpose", "Cast", "Mul", "Identity", "DequantizeLinear"}


def _derives(value: ir.Value | None, weight: ir.Value) -> bool:
    """Whether an operand is the stored tensor, seen through a chain of steps."""
    pending = [value]
    while pending:
        current = pending.pop()
        if current is weight:
            return True
        producer = None if current is None else current.producer()
        if producer is not None and producer.op_type in _CHAIN:
            pending += producer.inputs
    return False


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


def _follow(weight: ir.Value) -> tuple[list[_Use], list[str]]:
    """Return the uses of a stored tensor as a weight, and what reads it as something else."""
    constant = weight.const_value
    assert constant is not None
    if len(constant.shape) == 0 or constant.dtype in (ir.DataType.STRING, ir.DataType.BOOL):
        return [], []
    start = Operand(tuple(constant.shape.numpy()), np.dtype(constant.dtype.numpy()))
    uses: list[_Use] = []
    strangers: list[str] = []
    pending: list[tuple[ir.Value, tuple[Step, ...], Operand]] = [(weight, (), start)]
    while pending:
        value, steps, operand = pending.pop()
        if value.is_graph_output():
            strangers.append(f"the graph output {value.name!r}")
        for node, index in value.uses():
            layout = matrix_layout(node, index, operand.shape)
            if layout is not None and operand.is_float:
                uses.append(_Use(node, steps, layout, operand))
            elif step := step_of(node, index, operand):
                pending.append((node.outputs[0], (*steps, step), after(step, operand)))
            elif node.op_type not in _SHAPE_ONLY or node.domain not in STANDARD_DOMAIN:
                strangers.append(node.op_type)
    return uses, strangers


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
        operand_shape=first.operand.shape,
        dtype=first.operand.dtype,
    )


def _contradiction(uses: list[_Use], strangers: list[str]) -> str | None:
    """Return why the uses of one tensor cannot be edited as one matrix, or None."""
    if strangers:
        readers = ", ".join(sorted(set(strangers)))
        return f"its tensor is also read by {readers}, which pruning would change"
    for use in uses[1:]:
        if not uses[0].same_view(use):
            return f"{uses[0].node.op_type} and {use.node.op_type} read its tensor along other axes"
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
