"""Small graphs for tests, and a reference that runs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from sparsec.ir.load import load_model
from sparsec.ir.run import OrtRunner
from sparsec.ir.sites import WeightSite, weight_sites

OPSET = 20


def proto(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[Any]],
    outputs: Sequence[str],
    weights: Mapping[str, np.ndarray] | None = None,
    *,
    opset: int = OPSET,
    dtype: int = TensorProto.FLOAT,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """Build a model from nodes, inputs by shape, output names and weights by value."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, dtype, None) for name in outputs],
        [tensor(name, array) for name, array in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def tensor(name: str, array: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(array), name)


def model(*args: Any, **options: Any) -> ir.Model:
    """Build a model and load it into the canonical form."""
    return load_model(proto(*args, **options))


def matmul(weight: np.ndarray, **options: Any) -> ir.Model:
    """``y = x @ w``."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "layer")
    return model([node], {"x": ["n", weight.shape[0]]}, ["y"], {"w": weight}, **options)


def only_site(graph: ir.Model) -> WeightSite:
    (site,) = weight_sites(graph)
    return site


def run(graph: ir.Model, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return OrtRunner(graph, optimise=False).run(feeds)


def normal(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)
