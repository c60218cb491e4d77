"""Statistics of every kind of layer equal those of a plain run with everything exposed."""

from __future__ import annotations

import numpy as np
import pytest

from sparsec.ir.run import OrtRunner
from sparsec.ir.sites import weight_sites
from sparsec.passes.calibration.calibration import Calibration
from sparsec.passes.calibration.statistics import Needs
from tests.calibration import nets, oracle
from tests.graphs import matmul, normal, only_site

GRAM = Needs(gram=True)

CONVOLUTIONS = {
    "plain": ([2, 3, 7, 9], (4, 3, 3, 3), {}),
    "padded": ([1, 3, 7, 9], (4, 3, 3, 3), {"pads": [1, 2, 0, 1]}),
    "strided": ([1, 3, 8, 9], (4, 3, 3, 2), {"strides": [2, 3]}),
    "dilated": ([1, 3, 9, 9], (4, 3, 3, 3), {"dilations": [2, 1], "pads": [2, 1, 2, 1]}),
    "grouped": ([2, 6, 5, 5], (4, 3, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
    "depthwise": ([1, 4, 6, 6], (8, 1, 3, 3), {"group": 4}),
    "pointwise": ([2, 5, 4, 3], (6, 5, 1, 1), {}),
    "pointwise strided": ([1, 5, 5, 5], (6, 5, 1, 1), {"strides": [2, 2]}),
    "pointwise grouped": ([1, 6, 4, 3], (4, 3, 1, 1), {"group": 2}),
    "one axis": ([2, 3, 11], (4, 3, 4), {"strides": [2], "pads": [1, 2]}),
    "three axes": ([1, 2, 4, 5, 6], (3, 2, 2, 3, 2), {"pads": [0, 1, 0, 1, 0, 1]}),
}

PRODUCTS = {
    "matmul right": ("MatMul", [2, 5, 6], (6, 4), 1, {}),
    "matmul left": ("MatMul", [2, 6, 5], (4, 6), 0, {}),
    "matmul batched": ("MatMul", [2, 3, 5, 6], (3, 6, 4), 1, {}),
    "matmul batched, shared input": ("MatMul", [5, 6], (3, 6, 4), 1, {}),
    "matmul batched left": ("MatMul", [3, 6, 5], (3, 4, 6), 0, {}),
    "matmul of a vector": ("MatMul", [6], (6, 4), 1, {}),
    "gemm": ("Gemm", [5, 6], (6, 4), 1, {}),
    "gemm transB": ("Gemm", [5, 6], (4, 6), 1, {"transB": 1}),
    "gemm transA": ("Gemm", [6, 5], (6, 4), 1, {"transA": 1}),
    "gemm left": ("Gemm", [6, 5], (4, 6), 0, {}),
    "gemm left, both": ("Gemm", [5, 6], (6, 4), 0, {"transA": 1, "transB": 1}),
}


def collected(model, feeds, needs=GRAM, **options):
    with Calibration(feeds, **options).parallel(model, list(weight_sites(model)), needs) as found:
        return dict(found)


def equal(found, rows: np.ndarray, tolerance: float = 1e-5) -> None:
    """Compare with rows float64 [groups, rows, columns]."""
    assert found.count == rows.shape[1]
    expected = np.swapaxes(rows, 1, 2) @ rows
    scale = np.sqrt(np.einsum("gii->gi", expected)).max() ** 2 + 1e-30
    assert np.max(np.abs(found.gram() - expected)) <= tolerance * scale
    norms = np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(found.norms, norms, rtol=1e-4, atol=tolerance * norms.max())
    mean = rows.mean(axis=1)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-4, atol=tolerance * np.abs(rows).max())


@pytest.mark.parametrize(("x", "weight", "attributes"), CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolutions(x, weight, attributes):
    model = nets.single("Conv", x, normal(*weight), **attributes)
    feeds = [{"x": normal(*x, seed=i) + 1} for i in range(3)]
    (site,) = weight_sites(model)
    rows = np.concatenate([oracle.rows(site, feed["x"]) for feed in feeds], axis=1)
    found = collected(model, feeds, Needs(gram=True, extremes=True))[site.name]
    equal(found, rows)
    np.testing.assert_array_equal(found.minimum, rows.min(axis=1).astype(np.float32))
    np.testing.assert_array_equal(found.maximum, rows.max(axis=1).astype(np.float32))


@pytest.mark.parametrize(
    ("op", "x", "weight", "index", "attributes"), PRODUCTS.values(), ids=PRODUCTS
)
def test_products(op, x, weight, index, attributes):
    model = nets.single(op, x, normal(*weight), index, **attributes)
    feeds = [{"x": normal(*x, seed=i) + 1} for i in range(3)]
    (site,) = weight_sites(model)
    rows = np.concatenate([oracle.rows(site, feed["x"]) for feed in feeds], axis=1)
    found = collected(model, feeds)[site.name]
    equal(found, rows)
    _energy(model, site, feeds, found)


@pytest.mark.parametrize("pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize(("size", "kernel", "stride"), [(7, 3, 2), (8, 4, 3), (9, 3, 1), (8, 2, 1)])
def test_automatic_padding(pad, size, kernel, stride):
    """The output energy w^T H w tells: it needs the padding that the runtime itself applies."""
    model = nets.single(
        "Conv",
        [1, 2, size, size],
        normal(3, 2, kernel, kernel),
        auto_pad=pad,
        strides=[stride, stride],
    )
    (site,) = weight_sites(model)
    feeds = [{"x": normal(1, 2, size, size, seed=i)} for i in range(2)]
    _energy(model, site, feeds, collected(model, feeds)[site.name])


def _energy(model, site, feeds, found) -> None:
    """``sum y^2`` of the whole graph must equal the trace of ``W H W^T``: independent of any im2col."""
    runner = OrtRunner(model, optimise=False)
    energy = sum(np.square(runner.run(feed)["y"].astype(np.float64)).sum() for feed in feeds)
    groups = site.layout.groups
    matrix = site.matrix().astype(np.float64).reshape(groups, -1, site.shape[1])
    predicted = np.einsum("gri,gij,grj->", matrix, found.gram(), matrix)
    assert predicted == pytest.approx(energy, rel=1e-4)


@pytest.mark.parametrize(
    ("model", "feeds"),
    [
        (nets.residual(), nets.vectors(3, 8)),
        (nets.recurrent(), nets.vectors(3, 6)),
        (nets.network(), nets.images(3)),
        (nets.sequence(), nets.vectors(3, 6)),
    ],
    ids=["residual", "recurrent", "network", "sequence"],
)
def test_whole_graphs(model, feeds):
    sites = list(weight_sites(model))
    seen = oracle.exposed(model, [v for s in sites for n in s.nodes for v in _inputs(n)], feeds)
    found = collected(model, feeds)
    assert len(found) == len(sites) >= 2
    for site in sites:
        rows = [
            oracle.rows(site, values[v.name])
            for values in seen
            for n in site.nodes
            for v in _inputs(n)
        ]
        equal(found[site.name], np.concatenate(rows, axis=1))


def _inputs(node):
    return [v for v in node.inputs[:2] if not v.is_initializer()]


def test_a_product_of_constants():
    """Each operand is a weight whose input is the other one, once a sample."""
    from onnx import helper

    from sparsec.ir.load import load_model
    from tests.graphs import proto

    nodes = [
        helper.make_node("MatMul", ["a", "b"], ["ab"], "product"),
        helper.make_node("MatMul", ["x", "ab"], ["y"], "layer"),
    ]
    weights = {"a": normal(5, 6), "b": normal(6, 4, seed=1)}
    model = load_model(proto(nodes, {"x": ["n", 5]}, ["y"], weights))
    found = collected(model, nets.vectors(2, 5))
    assert set(found) == {"a", "b"}
    equal(found["b"], np.concatenate([weights["a"]] * 2).astype(np.float64)[None])
    equal(found["a"], np.concatenate([weights["b"].T] * 2).astype(np.float64)[None])


def test_branches_count_what_went_through_them():
    model = nets.branching()
    feeds = nets.choices()
    found = collected(model, feeds)
    rows = [len(feed["x"]) for feed in feeds]
    assert found["before"].count == sum(rows)
    assert found["then"].count == rows[0] + rows[1] + rows[3]
    assert found["deep"].count == rows[0] + rows[3]
    assert found["else"].count == rows[2]
    before = (
        next(s for s in weight_sites(model) if s.name == "before").matrix().T.astype(np.float64)
    )
    equal(found["deep"], np.concatenate([f["x"] @ before for f in (feeds[0], feeds[3])])[None])
    equal(found["else"], (feeds[2]["x"] @ before)[None])


def test_a_branch_that_is_never_taken_has_no_rows():
    feeds = [feed for feed in nets.choices() if feed["first"]]
    found = collected(nets.branching(), feeds)
    assert found["else"].count == 0
    assert not found["else"].gram().any()


def test_experts_count_the_tokens_that_reached_them():
    model, feeds = nets.experts(), nets.vectors(3, 8, rows=20)
    x = np.concatenate([feed["x"] for feed in feeds])
    router = next(s for s in weight_sites(model) if s.name == "router").matrix()
    chosen = (x @ router.T).argmax(axis=1)
    found = collected(model, feeds)
    for expert in range(4):
        mine = x[chosen == expert].astype(np.float64)
        equal(found[f"up{expert}"], mine[None])
        assert found[f"down{expert}"].count == len(mine)
    assert len({found[f"up{e}"].count for e in range(4)}) > 1


def test_loops_count_every_iteration():
    model, feeds = nets.looping(), nets.iterations()
    found = collected(model, feeds)
    weights = {site.name: site.matrix().T.astype(np.float64) for site in weight_sites(model)}
    rows, last = [], []
    for feed in feeds:
        state = feed["x"].astype(np.float64) @ weights["before"]
        for _ in range(int(feed["times"])):
            rows.append(state)
            state = np.tanh(state @ weights["step"])
        last.append(state)
    equal(found["step"], np.concatenate(rows)[None])
    equal(found["after"], np.concatenate(last)[None])


def test_bodies_of_old_opsets_are_hidden_with_a_reason():
    model = nets.branching(opset=12)
    sites = list(weight_sites(model))
    hidden = Calibration(nets.choices()).hidden(model, sites)
    assert set(hidden) == {"then", "deep", "else"}
    assert "opset 13" in hidden["then"]


def test_padding_is_left_out():
    model = nets.single("MatMul", [2, 4, 6], normal(6, 3))
    model.graph.inputs.append(_mask_input())
    x = normal(2, 4, 6)
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0]], np.int64)
    found = collected(model, [{"x": x, "attention_mask": mask}])["layer"]
    equal(found, x[mask != 0].astype(np.float64)[None])
    ignored = collected(model, [{"x": x, "attention_mask": mask}], mask="another")["layer"]
    assert ignored.count == 8


def test_padding_is_left_out_of_flattened_tokens():
    model = nets.single("MatMul", [8, 6], normal(6, 3))
    model.graph.inputs.append(_mask_input())
    x, mask = normal(8, 6), np.array([[1, 1, 1, 0], [1, 0, 0, 0]], np.int64)
    found = collected(model, [{"x": x, "attention_mask": mask}])["layer"]
    assert found.count == 4


def _mask_input():
    import onnx_ir as ir

    return ir.Value(name="attention_mask", type=ir.TensorType(ir.DataType.INT64))


def test_wrong_numbers_name_the_value_and_the_sample():
    from sparsec.ir.errors import CalibrationError

    model = nets.residual()
    feeds = nets.vectors(3, 8)
    feeds[1]["x"][0, 0] = np.inf
    with pytest.raises(CalibrationError, match=r"NaN or infinite numbers in calibration sample 1"):
        collected(model, feeds)


def test_half_precision_is_collected_in_single():
    from onnx import TensorProto, helper

    from sparsec.ir.load import load_model
    from tests.graphs import proto

    layer = helper.make_node("MatMul", ["x", "w"], ["y"], "layer")
    weight = normal(6, 3).astype(np.float16)
    model = load_model(
        proto([layer], {"x": ["n", 6]}, ["y"], {"w": weight}, dtype=TensorProto.FLOAT16)
    )
    x = (normal(50, 6) * 300).astype(np.float16)
    found = collected(model, [{"x": x}])["layer"]
    equal(found, x.astype(np.float64)[None])


@pytest.mark.parametrize(
    ("needs", "nbytes"),
    [
        (Needs(), 24 * 30),
        (Needs(gram=True), 12 * 30 * 30 + 12 * 30),
        (Needs(extremes=True), 24 * 30 + 8 * 30),
    ],
)
def test_what_collecting_takes_is_known_before_anything_runs(needs: Needs, nbytes: int):
    """The numbers of docs/calibration.md, for a reduction of 30."""
    (planned,) = Calibration([]).plan([only_site(matmul(normal(30, 7)))], needs)
    assert (planned.site, planned.groups, planned.columns) == ("layer", 1, 30)
    assert planned.nbytes == nbytes
