"""The importer: an ONNX graph as a :class:`torch.fx.GraphModule`, one call per node.

Every node becomes a call of the registered function of its operator, with attributes as keyword
arguments, so the printed module reads like the graph. Constants become parameters, buffers or
literals (:mod:`sparsec.ir.fx.params`, :mod:`sparsec.ir.fx.host`); bodies of control flow become
modules (:mod:`sparsec.ir.fx.control`).
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterator
from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as common_passes
import torch

from sparsec.ir.fx import control, registry
from sparsec.ir.fx import host as hv
from sparsec.ir.fx import operators as _operators  # noqa: F401  (fills the registry)
from sparsec.ir.fx.constants import attributes_of, constant_of, small_literal
from sparsec.ir.fx.dtypes import TORCH_DTYPES, to_torch
from sparsec.ir.fx.names import Names, identifier
from sparsec.ir.fx.ort_leaf import OrtLeaf
from sparsec.ir.fx.params import METADATA_KEY, Origin, Provenance, trains
from sparsec.ir.fx.support import check_support, domain_of, opset_of

#: Operators whose result is a host value whatever they are given.
_HOST_SOURCES = {"Shape", "Size", "SequenceLength"}


@dataclasses.dataclass(frozen=True, slots=True)
class NodeOrigin:
    """What an FX node computes: a value of the graph, and the node that makes it."""

    value: str
    node: str
    op_type: str


def to_fx(model: ir.Model, *, ort_leaves: bool = False) -> torch.fx.GraphModule:
    """Import a model as an FX graph module.

    The module takes the graph's inputs by position and returns its output, a tuple if there are
    several. It computes what inference computes: statistics of BatchNormalization do not move, and
    Dropout drops nothing unless the graph says so.

    Parameters
    ----------
    model : onnx_ir.Model
        Not changed. Its functions are inlined in a copy.
    ort_leaves : bool
        Run operators that have no torch form in ONNX Runtime; gradients cannot pass them.

    Returns
    -------
    torch.fx.GraphModule
        ``meta["sparsec.inputs"]`` and ``meta["sparsec.outputs"]`` hold the graph's names in order;
        every node's ``meta["sparsec.origin"]`` is a :class:`NodeOrigin`.

    Raises
    ------
    UnsupportedOpError
        If operators have no torch form; the message names all of them.
    """
    if model.functions:
        model = model.clone()
        common_passes.InlinePass()(model)
    opsets = dict(model.opset_imports)
    leaves = check_support(model, opsets, ort_leaves)
    constants = model.graph.initializers.values()
    from_torch = any(METADATA_KEY in value.metadata_props for value in constants)
    return _Builder(model.graph, _Context(opsets, leaves, from_torch), None).build()


@dataclasses.dataclass(frozen=True, slots=True)
class _Context:
    opsets: dict[str, int]
    leaves: frozenset[ir.Node]
    from_torch: bool  # constants say where in a torch module they come from


class _Builder:
    """Builds the module of one graph; ``parent`` is the builder of the graph around it."""

    def __init__(self, source: ir.Graph, context: _Context, parent: _Builder | None) -> None:
        self.source = source
        self.context = context
        self.parent = parent
        self.fx = torch.fx.Graph()
        self.values: dict[ir.Value, Any] = {}
        self.captures: list[ir.Value] = []
        self.attributes: dict[str, Any] = {}  # attribute path -> parameter, buffer or module
        self.origins: dict[str, Origin] = {}
        self.hosted: set[torch.fx.Node] = set()  # nodes whose value may be a host value
        self.names = Names()
        self._last_placeholder: torch.fx.Node | None = None

    def build(self) -> torch.fx.GraphModule:
        names = []
        for value in self.source.inputs:
            if value.name not in self.source.initializers:
                node = self._placeholder(value)
                names.append(value.name)
                if self.parent is not None:
                    self.hosted.add(node)
        for node in self.source:
            self._import(node)
        outputs = tuple(self.resolve(value) for value in self.source.outputs)
        if self.parent is None:
            outputs = tuple(self._as_tensor(o) for o in outputs)
            self.fx.output(outputs[0] if len(outputs) == 1 else outputs)
        else:
            self.fx.output(outputs)
        module = torch.fx.GraphModule(self.attributes, self.fx, self._class_name())
        module.meta["sparsec.inputs"] = tuple(names)
        module.meta["sparsec.outputs"] = tuple(v.name for v in self.source.outputs)
        module.meta["sparsec.origins"] = dict(self.origins)
        return module.eval()

    def _class_name(self) -> str:
        return identifier(self.source.name or "") or "Graph"

    # Values

    def resolve(self, value: ir.Value | None) -> Any:
        """Return the FX node or literal that stands for a value, capturing it if it is outside."""
        if value is None or value.name == "":
            return None
        if value in self.values:
            return self.values[value]
        tensor = constant_of(value)
        if tensor is not None:
            literal = small_literal(tensor)
            if literal is not None and "sparsec.param" not in value.metadata_props:
                return literal
            if self._owns(value):
                self.values[value] = self._constant(value, tensor)
                return self.values[value]
        self.captures.append(value)
        node = self._placeholder(value)
        self.hosted.add(node)
        return node

    def _owns(self, value: ir.Value) -> bool:
        producer = value.producer()
        return (producer.graph if producer is not None else value.graph) is self.source

    def _placeholder(self, value: ir.Value) -> torch.fx.Node:
        with (
            self.fx.inserting_after(self._last_placeholder)
            if self._last_placeholder is not None
            else self.fx.inserting_before()
        ):
            node = self.fx.placeholder(self.names.unique(value.name or "input"))
        node.meta["sparsec.origin"] = NodeOrigin(value.name or "", "", "")
        self._last_placeholder = node
        self.values[value] = node
        return node

    def _constant(self, value: ir.Value, tensor: ir.TensorProtocol) -> torch.fx.Node:
        provenance = Provenance.of(value)
        data = to_torch(tensor)
        name = provenance.name if provenance else value.name or "constant"
        path = self.names.path(name, torch_name=provenance is not None)
        named = provenance is not None or not self.context.from_torch
        if named and trains(data, provenance, self._frozen(value)):
            free = provenance is None or provenance.kind != "frozen"
            self.attributes[path] = torch.nn.Parameter(data, requires_grad=free)
        else:
            self.attributes[path] = data
        self.origins[path] = Origin(value.name or "", provenance)
        node = self.fx.get_attr(path)
        node.meta["sparsec.origin"] = NodeOrigin(value.name or "", "", "Constant")
        return node

    def _frozen(self, value: ir.Value) -> bool:
        """Say whether every use of a constant is one that training must not move."""
        uses = value.uses()
        for node, index in uses:
            domain = domain_of(node)
            entry = registry.find(node.op_type, domain, opset_of(node, self.context.opsets))
            if entry is None or index not in entry.frozen_inputs:
                return False
        return bool(uses)

    def _as_tensor(self, value: Any) -> Any:
        if isinstance(value, torch.fx.Node) and value not in self.hosted:
            return value
        return self.fx.call_function(hv.to_tensor, (value,))

    # Nodes

    def _import(self, node: ir.Node) -> None:
        if node in self.context.leaves:
            self._leaf(node)
        elif domain_of(node) == "" and node.op_type in _CONTROL:
            if node.op_type != "Constant":
                self._control(node)
        else:
            self._call(node)

    def _call(self, node: ir.Node) -> None:
        entry = registry.find(node.op_type, domain_of(node), opset_of(node, self.context.opsets))
        assert entry is not None  # check_support has seen every node
        args = [self._argument(entry, i, value) for i, value in enumerate(node.inputs)]
        while args and args[-1] is None:
            args.pop()
        attributes = attributes_of(node)
        if entry.wants_outputs:
            attributes["n_outputs"] = len(node.outputs)
        result = self._emit("call_function", entry.call, args, attributes, node, entry.many)
        hosted = node.op_type in _HOST_SOURCES or (
            entry.on_host and all(a is None or self._may_be_host(a) for a in args)
        )
        self._bind(node, result, many=entry.many, hosted=hosted)

    def _argument(self, entry: registry.Operator, index: int, value: ir.Value | None) -> Any:
        if value is not None and index in entry.inline_inputs:
            tensor = constant_of(value)
            if tensor is not None and tensor.dtype in TORCH_DTYPES:
                return hv.to_host(to_torch(tensor))
        return self.resolve(value)

    def _may_be_host(self, argument: Any) -> bool:
        return not isinstance(argument, torch.fx.Node) or argument in self.hosted

    def _emit(
        self,
        kind: str,
        target: Any,
        args: list[Any],
        kwargs: dict[str, Any],
        node: ir.Node,
        many: bool,
    ) -> torch.fx.Node:
        first = next((v.name for v in node.outputs if v.name), node.name)
        result = self.fx.create_node(
            kind, target, tuple(args), kwargs, self.names.unique(first or node.op_type)
        )
        value = "" if many else first or ""  # a tuple is no value of the graph; its parts are
        result.meta["sparsec.origin"] = NodeOrigin(value, node.name or "", node.op_type)
        return result

    def _bind(self, node: ir.Node, result: torch.fx.Node, *, many: bool, hosted: bool) -> None:
        """Let the outputs of a node stand for what a call returned."""
        for index, value in enumerate(node.outputs):
            if not value.name or not (value.uses() or value.is_graph_output()):
                continue
            part = result
            if many:
                part = self.fx.create_node(
                    "call_function",
                    operator.getitem,
                    (result, index),
                    name=self.names.unique(value.name),
                )
                part.meta["sparsec.origin"] = NodeOrigin(value.name, node.name or "", node.op_type)
            if hosted:
                self.hosted.add(part)
            self.values[value] = part

    def _call_module(
        self, node: ir.Node, module: torch.nn.Module, args: list[Any], *, many: bool, hosted: bool
    ) -> None:
        path = self.names.unique(f"{node.op_type.lower()}_{node.name or ''}")
        self.attributes[path] = module
        result = self._emit("call_module", path, args, {}, node, many)
        self._bind(node, result, many=many, hosted=hosted)

    def _leaf(self, node: ir.Node) -> None:
        args = [self.resolve(v) for v in node.inputs]
        leaf = OrtLeaf(node, self.context.opsets)
        self._call_module(node, leaf, args, many=len(node.outputs) > 1, hosted=False)

    # Control flow

    def _body(self, node: ir.Node, name: str) -> tuple[torch.fx.GraphModule, list[Any]]:
        """Import a body; return it with what its captures are out here."""
        builder = _Builder(node.attributes[name].as_graph(), self.context, self)
        module = builder.build()
        return module, [self.resolve(value) for value in builder.captures]

    def _control(self, node: ir.Node) -> None:
        args = [self.resolve(v) for v in node.inputs]
        module: torch.nn.Module
        if node.op_type == "If":
            then_branch, then_captures = self._body(node, "then_branch")
            else_branch, else_captures = self._body(node, "else_branch")
            module = control.If(then_branch, else_branch, len(then_captures))
            args += then_captures + else_captures
        elif node.op_type == "Loop":
            args += [None] * (2 - len(args))
            states = len(args) - 2
            body, captures = self._body(node, "body")
            outputs = node.attributes["body"].as_graph().outputs
            module = control.Loop(body, states, [_stacked(v) for v in outputs[1 + states :]])
            args += captures
        else:
            module, captures = self._scan(node, len(args))
            args += captures
        self._call_module(node, module, args, many=True, hosted=True)

    def _scan(self, node: ir.Node, operands: int) -> tuple[torch.nn.Module, list[Any]]:
        body, captures = self._body(node, "body")
        attributes = attributes_of(node)
        scanned = attributes["num_scan_inputs"]
        states = operands - scanned
        made = list(node.attributes["body"].as_graph().outputs)[states:]
        out_axes = attributes.get("scan_output_axes", (0,) * len(made))
        out_back = attributes.get("scan_output_directions", (0,) * len(made))
        stacked = [
            _stacked(value, axis, bool(back))
            for value, axis, back in zip(made, out_axes, out_back, strict=True)
        ]
        axes = attributes.get("scan_input_axes", (0,) * scanned)
        back = [bool(d) for d in attributes.get("scan_input_directions", (0,) * scanned)]
        return control.Scan(body, states, axes, back, stacked), captures


_CONTROL = {"Constant", "If", "Loop", "Scan"}


def _stacked(value: ir.Value, axis: int = 0, backward: bool = False) -> control.Stacked:
    dtype = TORCH_DTYPES.get(value.dtype, torch.float32) if value.dtype else torch.float32
    dims = value.shape.dims if value.shape is not None else ()
    shape = tuple(d if isinstance(d, int) else 0 for d in dims)
    return control.Stacked(dtype, shape, axis, backward)


def node_origins(gm: torch.fx.GraphModule) -> Iterator[tuple[torch.fx.Node, NodeOrigin]]:
    """Yield the FX nodes of the outermost graph that stand for a value, in order."""
    for node in gm.graph.nodes:
        origin = node.meta.get("sparsec.origin")
        if origin is not None and origin.value:
            yield node, origin
