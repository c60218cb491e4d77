"""The pipeline runs passes in order, verifies after each, and says who failed after whom."""

import dataclasses
from typing import ClassVar

import numpy as np
import pytest
from onnx import helper

from sparsec.ir.errors import PassConfigError, PassError, VerifyError
from sparsec.ir.sites import weight_sites
from sparsec.passes.base import Pass, PassContext, PassResult
from sparsec.passes.pipeline import Pipeline
from tests.graphs import matmul, model, normal, run

N = helper.make_node


@dataclasses.dataclass(frozen=True)
class Recording(Pass):
    """Say whether BatchNormalization was still there."""

    name: ClassVar[str] = "recording"

    def run(self, model, context):
        ops = [node.op_type for node in model.graph]
        return PassResult(notes={"batch_norms": float(ops.count("BatchNormalization"))})


@dataclasses.dataclass(frozen=True)
class NeedsBatchNorm(Recording):
    name: ClassVar[str] = "needs-bn"
    needs_batch_norm: ClassVar[bool] = True


@dataclasses.dataclass(frozen=True)
class Failing(Pass):
    name: ClassVar[str] = "failing"

    def run(self, model, context):
        raise ZeroDivisionError("no reason")


@dataclasses.dataclass(frozen=True)
class Breaking(Pass):
    name: ClassVar[str] = "breaking"

    def run(self, model, context):
        model.graph.outputs.clear()
        return PassResult()


def test_passes_run_in_order_and_report():
    graph = matmul(normal(8, 6))
    steps = Pipeline.parse(["nm24", "unstructured:sparsity=0.9"]).run(graph, PassContext())
    first, second = (step.to_json() for step in steps)
    assert (first["name"], first["changed"], first["skipped"]) == ("nm", ["layer"], [])
    assert (first["options"]["n"], first["options"]["m"]) == (2, 4)
    assert first["options"]["include"] == []
    (skip,) = second["skipped"]
    assert skip == {
        "site": "layer",
        "code": "already_sparse",
        "reason": "it already has the pattern 2:4",
    }


def conv_bn():
    parameters = {name: np.abs(normal(4, seed=i)) + 0.5 for i, name in enumerate("smv")}
    parameters["b"] = normal(4, seed=9)
    nodes = [
        N("Conv", ["x", "w"], ["a"], "conv"),
        N("BatchNormalization", ["a", "s", "b", "m", "v"], ["y"], "bn"),
    ]
    return model(nodes, {"x": [1, 8, 5, 5]}, ["y"], {"w": normal(4, 8, 3, 3), **parameters})


def test_batch_norm_is_folded_before_the_first_pass_that_can_do_without():
    graph = conv_bn()
    x = normal(1, 8, 5, 5, seed=5)
    before = run(graph, {"x": x})["y"]
    steps = Pipeline((NeedsBatchNorm(), Recording())).run(graph, PassContext())
    assert [step.result.notes["batch_norms"] for step in steps] == [1.0, 0.0]
    np.testing.assert_allclose(run(graph, {"x": x})["y"], before, rtol=1e-4, atol=1e-5)


def test_scores_are_those_of_the_folded_weights():
    """BatchNormalization scales rows: a global budget must see the scaled ones."""
    graph = conv_bn()
    Pipeline.parse(["unstructured:sparsity=0.5,scope=global"]).run(graph, PassContext())
    (site,) = weight_sites(graph)
    folded = conv_bn()
    Pipeline((Recording(),)).run(folded, PassContext())
    (dense,) = weight_sites(folded)
    matrix = dense.matrix()
    expected = np.where(
        np.abs(matrix) >= np.sort(np.abs(matrix).ravel())[matrix.size // 2], matrix, 0
    )
    np.testing.assert_array_equal(site.matrix(), expected)


def test_a_failing_pass_is_named_with_those_before_it():
    pipeline = Pipeline((Recording(), Failing()))
    with pytest.raises(PassError, match=r"failing \(after recording\) failed: ZeroDivisionError"):
        pipeline.run(matmul(normal(4, 4)), PassContext())


def test_a_pass_that_breaks_the_graph_is_caught_at_once():
    pipeline = Pipeline((Recording(), Breaking(), Failing()))
    with pytest.raises(
        VerifyError, match=r"breaking \(after recording\) left: the graph has no out"
    ):
        pipeline.run(matmul(normal(4, 4)), PassContext())


def test_a_bad_spec_is_refused_before_anything_runs():
    with pytest.raises(PassConfigError):
        Pipeline.parse(["nm24", "nm25"])


def test_progress_stays_between_0_and_1():
    seen = []
    context = PassContext(progress=lambda text, done: seen.append((text, done)))
    Pipeline.parse(["nm24"]).run(matmul(normal(8, 8)), context)
    assert seen
    assert all(text.startswith("nm: ") and 0 <= done <= 1 for text, done in seen)
