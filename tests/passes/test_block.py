"""Block pruning: whole blocks go, none straddles groups, kernel positions or batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from sparsec.ir.errors import PassConfigError
from sparsec.passes.base import PassContext
from sparsec.passes.spec import parse_spec
from tests.graphs import matmul, model, normal, only_site

N = helper.make_node


def prune(graph, spec):
    return parse_spec(spec).run(graph, PassContext())


@given(
    rows=st.integers(1, 5),
    cols=st.sampled_from([1, 2, 4]),
    out=st.integers(2, 17),
    sparsity=st.floats(0.05, 0.95),
    scope=st.sampled_from(["layer", "global"]),
)
def test_the_weakest_blocks_go_as_a_whole(rows, cols, out, sparsity, scope):
    if rows * cols < 2:
        rows = 2
    weight = normal(8, out)
    graph = matmul(weight)
    prune(graph, f"block:rows={rows},cols={cols},sparsity={sparsity!r},scope={scope}")
    matrix, original = only_site(graph).matrix(), weight.T
    alive, energy = [], []
    for i in range(0, out, rows):
        for j in range(0, 8, cols):
            block = matrix[i : i + rows, j : j + cols]
            was = original[i : i + rows, j : j + cols]
            assert not block.any() or (block == was).all()
            alive.append(bool(block.any()))
            energy.append(np.square(was.astype(np.float64)).sum())
    lost = len(alive) - sum(alive)
    wanted = round(len(alive) * sparsity)
    assert lost == (min(wanted, len(alive) - 1) if scope == "global" else wanted)
    if lost and lost < len(alive):
        alive, energy = np.array(alive), np.array(energy)
        assert energy[~alive].max() <= energy[alive].min()


def test_the_pattern_is_recorded():
    graph = matmul(normal(8, 8))
    prune(graph, "block41:sparsity=0.5")
    assert str(only_site(graph).pattern) == "block:4x1"


def grouped(out, channels):
    node = N("Conv", ["x", "w"], ["y"], "conv", group=2)
    return model(
        [node], {"x": [1, 2 * channels, 4, 4]}, ["y"], {"w": normal(2 * out, channels, 3, 3)}
    )


@pytest.mark.parametrize(
    ("graph", "code"),
    [
        (grouped(6, 4), "rows_not_multiple"),
        (grouped(8, 3), "reduction_not_multiple"),
        (matmul(normal(7, 8)), "reduction_not_multiple"),
        (
            model(
                [N("MatMul", ["x", "w"], ["y"], "m")],
                {"x": [3, 2, 8]},
                ["y"],
                {"w": normal(3, 8, 6)},
            ),
            "rows_not_multiple",
        ),
    ],
)
def test_blocks_that_would_straddle_are_refused(graph, code):
    result = prune(graph, "block:rows=4,cols=2,sparsity=0.5")
    assert result.changed == []
    assert [str(skip.code) for skip in result.skipped] == [code]


def test_grouped_blocks_that_fit_are_pruned():
    assert prune(grouped(8, 4), "block:rows=4,cols=2,sparsity=0.5").changed == ["conv"]


@pytest.mark.parametrize("options", ["rows=0", "rows=1,cols=1", "rows=4,cols=-1"])
def test_what_is_no_block_is_refused(options):
    with pytest.raises(PassConfigError, match="block: need rows and cols"):
        parse_spec(f"block:{options},sparsity=0.5")


@pytest.mark.parametrize(("values", "steps"), [("float16", None), ("int8", 255)])
def test_values_are_rounded_after_the_mask(values, steps):
    graph, plain = matmul(normal(64, 32)), matmul(normal(64, 32))
    result = prune(graph, f"block:rows=8,cols=1,sparsity=0.5,values={values}")
    prune(plain, "block:rows=8,cols=1,sparsity=0.5")
    matrix, exact = only_site(graph).matrix(), only_site(plain).matrix()
    assert result.notes["rounded"] == 1
    assert (matrix != exact).any()
    assert np.abs(matrix - exact).max() <= np.abs(exact).max() / 200
    assert not matrix[exact == 0].any()
    if steps is None:
        np.testing.assert_array_equal(matrix.astype(np.float16).astype(np.float32), matrix)
    else:
        assert all(len(np.unique(row)) <= steps for row in matrix)


def test_values_beyond_float16_stay():
    graph = matmul(normal(16, 8) * 1e6)
    result = prune(graph, "block:rows=8,cols=1,sparsity=0.5,values=float16")
    assert result.notes["rounded"] == 0
    assert np.isfinite(only_site(graph).matrix()).all()


def test_unknown_values_are_refused():
    with pytest.raises(PassConfigError, match="values must be float32, float16 or int8"):
        parse_spec("block:sparsity=0.5,values=int4")
