"""Layers are visited on the results of those before, at the cost of one pass."""

from __future__ import annotations

import numpy as np
import pytest

from sparsec.ir.execute import segmented
from sparsec.ir.execute.segmented import SegmentedExecutor
from sparsec.ir.sites import weight_sites
from sparsec.passes.calibration.calibration import Calibration
from sparsec.passes.calibration.statistics import Needs
from tests.calibration import nets, oracle

CASES = {
    "residual": (nets.residual, nets.vectors(3, 8)),
    "recurrent": (nets.recurrent, nets.vectors(3, 6)),
    "network": (nets.network, nets.images(3)),
    "sequence": (nets.sequence, nets.vectors(3, 6)),
    "branching": (nets.branching, nets.choices()),
    "looping": (nets.looping, nets.iterations()),
}


def shrink(site, norms) -> None:
    """A rewrite that depends on the norms smoothly, so that rounding cannot flip a decision."""
    matrix = site.matrix()
    scale = norms / (1 + norms.mean())
    grouped = matrix.reshape(len(scale), -1, matrix.shape[1]) * np.tanh(scale)[:, None, :]
    site.write_matrix(grouped.reshape(matrix.shape).astype(np.float32))


def visit(model, feeds, **options):
    """Rewrite every site in sequential order; return the order and the final weights."""
    order = []

    def rewrite(site, statistics):
        order.append((site.name, statistics.count))
        shrink(site, statistics.norms)

    Calibration(feeds, **options).sequential(
        model, list(weight_sites(model)), Needs(), rewrite, method="shrink"
    )
    return order, {site.name: site.matrix() for site in weight_sites(model)}


@pytest.mark.parametrize("name", ["residual", "recurrent", "network", "sequence"])
def test_equals_running_everything_again_for_every_layer(name):
    build, feeds = CASES[name]
    order, weights = visit(build(), feeds)

    model = build()
    sites = {site.name: site for site in weight_sites(model)}
    assert [name for name, _ in order] == list(sites)  # these graphs list them in order
    for site_name, count in order:
        site = sites[site_name]
        inputs = [v for n in site.nodes for v in n.inputs[:2] if not v.is_initializer()]
        if name == "recurrent" and len(inputs) > 1:
            inputs = inputs[:1]  # the other one depends on the site
        seen = oracle.exposed(model, inputs, feeds)
        rows = [oracle.rows(site, values[v.name]) for values in seen for v in inputs]
        rows = np.concatenate(rows, axis=1)
        assert rows.shape[1] == count
        shrink(site, np.linalg.norm(rows, axis=1))
    for site_name, site in sites.items():
        np.testing.assert_allclose(weights[site_name], site.matrix(), rtol=1e-4, atol=1e-6)


def test_bodies_see_what_was_rewritten_before_and_are_rewritten_at_once():
    feeds = nets.choices()
    order, weights = visit(nets.branching(), feeds)
    first, *bodies, last = (name for name, _ in order)
    assert (first, set(bodies), last) == ("before", {"then", "deep", "else"}, "after")

    model = nets.branching()
    sites = {site.name: site for site in weight_sites(model)}
    x = np.concatenate([feed["x"] for feed in feeds])
    shrink(sites["before"], np.linalg.norm(x, axis=0)[None])
    hidden = [feed["x"] @ sites["before"].matrix().T for feed in feeds]
    for name, taken in (("then", [0, 1, 3]), ("deep", [0, 3]), ("else", [2])):
        shrink(
            sites[name], np.linalg.norm(np.concatenate([hidden[i] for i in taken]), axis=0)[None]
        )
    (after,) = [v for v in sites["after"].node.inputs if not v.is_initializer()]
    rows = np.concatenate([values[after.name] for values in oracle.exposed(model, [after], feeds)])
    shrink(sites["after"], np.linalg.norm(rows, axis=0)[None])
    for name, site in sites.items():
        np.testing.assert_allclose(weights[name], site.matrix(), rtol=1e-4, atol=1e-6)


def test_a_layer_in_a_loop_is_rewritten_before_what_follows():
    feeds = nets.iterations()
    order, weights = visit(nets.looping(), feeds)
    assert [name for name, _ in order] == ["before", "step", "after"]
    model = nets.looping()
    for site in weight_sites(model):
        site.write_matrix(weights[site.name] if site.name != "after" else site.matrix())
    last = next(site for site in weight_sites(model) if site.name == "after")
    (value,) = [v for v in last.node.inputs if not v.is_initializer()]
    rows = np.concatenate([v[value.name] for v in oracle.exposed(model, [value], feeds)])
    shrink(last, np.linalg.norm(rows, axis=0)[None])
    np.testing.assert_allclose(weights["after"], last.matrix(), rtol=1e-4, atol=1e-6)


@pytest.fixture
def runs(monkeypatch):
    """Which nodes each opened segment holds, by their first output."""
    opened = []
    true = segmented.cut_segment

    def record(dependencies, positions, *args, **options):
        names = [n.outputs[0].name for i, n in enumerate(dependencies.nodes) if positions >> i & 1]
        opened.append(names)
        return true(dependencies, positions, *args, **options)

    monkeypatch.setattr(segmented, "cut_segment", record)
    return opened


@pytest.mark.parametrize("name", ["residual", "recurrent", "network"])
def test_every_node_runs_once_at_most(name, runs):
    build, feeds = CASES[name]
    model = build()
    visit(model, feeds)
    nodes = [node for segment in runs for node in segment]
    assert len(nodes) == len(set(nodes))
    # What only the outputs need is not run at all.
    assert "y" not in nodes
    assert len(nodes) < len(list(model.graph))


def test_experts_share_their_stops(runs):
    """Four experts of two layers and a router: three segments, not nine."""
    order, _ = visit(nets.experts(), nets.vectors(3, 8, rows=20))
    assert len(order) == 9
    assert len(runs) <= 3


def test_only_a_piece_with_bodies_runs_twice(runs):
    visit(nets.branching(), nets.choices())
    nodes = [node for segment in runs for node in segment]
    assert {node for node in nodes if nodes.count(node) > 1} == {"i"}


def test_parallel_statistics_take_one_segment_if_they_fit(runs):
    model = nets.residual()
    with Calibration(nets.vectors(2, 8)).parallel(model, list(weight_sites(model)), Needs()):
        assert len(runs) == 1
    with Calibration(nets.vectors(2, 8), collected_bytes=1).parallel(
        model, list(weight_sites(model)), Needs()
    ) as found:
        assert len(runs) > 3
        assert len(found) == 5


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("live_bytes", [0, 300])
def test_spilling_changes_no_bit(name, live_bytes, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    build, feeds = CASES[name]
    _, expected = visit(build(), feeds)
    executor = SegmentedExecutor(live_bytes=live_bytes)
    _, found = visit(build(), feeds, executor=executor, collected_bytes=1)
    for key, matrix in expected.items():
        np.testing.assert_array_equal(found[key], matrix)
    assert list(tmp_path.iterdir()) == []


def test_progress_ends_at_one_and_never_goes_back():
    model, seen = nets.residual(), []
    Calibration(nets.vectors(3, 8)).sequential(
        model,
        list(weight_sites(model)),
        Needs(),
        lambda site, statistics: None,
        method="",
        progress=lambda text, done: seen.append((done, text)),
    )
    parts = [done for done, _ in seen]
    assert parts == sorted(parts)
    assert parts[-1] == pytest.approx(1.0)
    assert all("left" in text for _, text in seen)


def test_an_operator_of_another_domain_is_named():
    from onnx import helper

    from sparsec.ir.errors import UnsupportedOpError
    from sparsec.ir.load import load_model
    from tests.graphs import normal, proto

    nodes = [
        helper.make_node("Mystery", ["x"], ["h"], "strange", domain="vendor"),
        helper.make_node("MatMul", ["h", "w"], ["y"], "layer"),
    ]
    model = load_model(
        proto(nodes, {"x": ["n", 4]}, ["y"], {"w": normal(4, 4)}, domains=["vendor"])
    )
    with pytest.raises(UnsupportedOpError, match="Mystery"):
        visit(model, nets.vectors(1, 4))


def test_large_weights_are_fed_in_place_and_others_built_in(tmp_path):
    import onnx
    from onnx import helper

    from sparsec.ir.execute.dependencies import Dependencies
    from sparsec.ir.execute.segment import cut_segment
    from sparsec.ir.load import load_model
    from tests.graphs import normal, proto

    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "layer"),
        helper.make_node("Add", ["h", "b"], ["g"]),
        helper.make_node("Own", ["g", "v"], ["y"], domain="vendor"),
    ]
    weights = {"w": normal(256, 256), "b": normal(256), "v": normal(256, 256, seed=1)}
    path = tmp_path / "net.onnx"
    onnx.save(
        proto(nodes, {"x": ["n", 256]}, ["y"], weights, domains=["vendor"]),
        path,
        save_as_external_data=True,
        location="data",
        size_threshold=0,
    )
    model = load_model(path)
    dependencies = Dependencies(model)
    outputs = [dependencies.nodes[-1].outputs[0]]
    segment = cut_segment(dependencies, 0b111, outputs, [], lambda value: normal(2, 256))
    stored = model.graph.initializers["w"].const_value.numpy()
    assert list(segment.weights) == ["w"]
    assert np.shares_memory(segment.weights["w"], stored)
    inside = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in segment.proto.graph.initializer
    }
    assert set(inside) == {"b", "v"}
    np.testing.assert_array_equal(inside["v"], weights["v"])


def test_another_engine_fits():
    """Segments in torch, in float64: the way to a device, with the same walk."""
    torch = pytest.importorskip("torch")
    import onnx_ir as ir

    from sparsec.ir.fx.executor import FxExecutor

    class TorchEngine:
        def open(self, segment):
            model = ir.from_proto(segment.proto)
            for name, array in segment.weights.items():
                value = next(value for value in model.graph.inputs if value.name == name)
                model.graph.inputs.remove(value)
                value.const_value = ir.tensor(array, name=name)
                model.graph.register_initializer(value)
            executor = FxExecutor(model, dtype=torch.float64)
            names = [value.name for value in segment.outputs]
            return lambda feeds: [executor.run(feeds)[name] for name in names]

    feeds = nets.vectors(3, 8)
    _, expected = visit(nets.residual(), feeds)
    _, found = visit(nets.residual(), feeds, executor=SegmentedExecutor(TorchEngine()))
    for name, matrix in expected.items():
        np.testing.assert_allclose(found[name], matrix, rtol=1e-4, atol=1e-6)
