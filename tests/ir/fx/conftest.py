"""One-node models, run by ONNX Runtime and by the FX bridge, and compared."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnx_ir as ir
import onnxruntime
import pytest

if importlib.util.find_spec("torch") is None:
    collect_ignore_glob = ["test_*.py"]  # the bridge is an extra: without torch there is no test


def _ort_run(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


def _assert_same(got: Any, want: Any, rtol: float, atol: float) -> None:
    if isinstance(want, list):
        assert len(got) == len(want)
        for g, w in zip(got, want, strict=True):
            _assert_same(g, w, rtol, atol)
        return
    want = np.asarray(want)
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    np.testing.assert_allclose(
        got.astype(np.float64), want.astype(np.float64), rtol=rtol, atol=atol
    )


@pytest.fixture
def ort_run() -> Callable[..., Any]:
    """Return a function that runs a model in ONNX Runtime as it stands."""
    return _ort_run


@pytest.fixture
def assert_same() -> Callable[..., None]:
    """Return a function that compares results: shape, type and values."""
    return _assert_same


def _one_node(
    op: str,
    inputs: Sequence[Any],
    *,
    opset: int,
    n_outputs: int = 1,
    domain: str = "",
    constant: Sequence[int] = (),
    **attrs: Any,
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Build a model of one node; inputs in ``constant`` are initializers, None is absent."""
    arrays = {f"x{i}": np.asarray(x) for i, x in enumerate(inputs) if x is not None}
    names = [f"x{i}" if x is not None else "" for i, x in enumerate(inputs)]
    fixed = [f"x{i}" for i in constant if inputs[i] is not None]
    node = oh.make_node(
        op, names, [f"y{i}" for i in range(n_outputs)], domain=domain, name="node", **attrs
    )
    graph = oh.make_graph(
        [node],
        "one_node",
        [
            oh.make_tensor_value_info(n, oh.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in arrays.items()
            if n not in fixed
        ],
        [onnx.ValueInfoProto(name=f"y{i}") for i in range(n_outputs)],
        [onnx.numpy_helper.from_array(arrays[n], n) for n in fixed],
    )
    opsets = [oh.make_opsetid("", opset)]
    if domain:
        opsets.append(oh.make_opsetid(domain, 1))
    model = oh.make_model(graph, opset_imports=opsets, ir_version=10)
    return model, {n: a for n, a in arrays.items() if n not in fixed}


@pytest.fixture
def one_node() -> Callable[..., Any]:
    """Return a function that builds a model of one node and its feeds."""
    return _one_node


@pytest.fixture
def check() -> Callable[..., None]:
    """Compare one node with ONNX Runtime, its operands first all fed, then all but one constant."""

    def run(
        op: str,
        *inputs: Any,
        opset: int,
        n_outputs: int = 1,
        domain: str = "",
        rtol: float = 1e-5,
        atol: float = 1e-6,
        ort_leaves: bool = False,
        **attrs: Any,
    ) -> None:
        from sparsec.ir.fx import FxExecutor

        for constant in (range(0), range(1, len(inputs))):
            model, feeds = _one_node(
                op,
                inputs,
                opset=opset,
                n_outputs=n_outputs,
                domain=domain,
                constant=constant,
                **attrs,
            )
            want = _ort_run(model, feeds)
            executor = FxExecutor(ir.from_proto(model), ort_leaves=ort_leaves)
            got = executor.run(feeds)
            for g, w in zip(got.values(), want, strict=True):
                _assert_same(g, w, rtol, atol)

    return run


@pytest.fixture
def run_one() -> Callable[..., Any]:
    """Return a function that runs one node by the FX bridge alone and returns its first output."""

    def run(op: str, *inputs: Any, opset: int, **attrs: Any) -> Any:
        from sparsec.ir.fx import FxExecutor

        model, feeds = _one_node(op, inputs, opset=opset, **attrs)
        return FxExecutor(ir.from_proto(model)).run(feeds)["y0"]

    return run


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Return a generator seeded by the test's own name: stable, and different for each case."""
    return np.random.default_rng(list(request.node.name.encode()))
