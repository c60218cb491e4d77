"""Every weight is found once, as the matrix that its operator multiplies with."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from sparsec.ir.codes import Code
from sparsec.ir.errors import ShapeError
from sparsec.ir.patterns import NM
from sparsec.ir.sites import sparsity, weight_sites
from tests.graphs import matmul, model, normal, only_site, proto, run

N = helper.make_node


@given(
    rank=st.integers(1, 3),
    groups=st.integers(1, 3),
    out=st.integers(1, 3),
    channels=st.integers(1, 3),
    kernel=st.integers(1, 3),
)
def test_conv_matrix_times_patches_is_the_convolution(rank, groups, out, channels, kernel):
    """At output size 1 a convolution is one product of the matrix and the input, group by group."""
    shape = (out * groups, channels, *[kernel] * rank)
    weight = normal(*shape)
    node = N("Conv", ["x", "w"], ["y"], "conv", group=groups)
    graph = model([node], {"x": [1, channels * groups, *[kernel] * rank]}, ["y"], {"w": weight})
    site = only_site(graph)
    assert site.name == "conv"
    assert site.shape == (out * groups, channels * kernel**rank)
    assert (site.layout.run, site.layout.groups) == (channels, groups)

    x = normal(1, channels * groups, *[kernel] * rank, seed=1)
    patches = x.reshape(groups, channels, -1).transpose(0, 2, 1).reshape(groups, -1)
    blocks = site.matrix().reshape(groups, out, -1)
    expected = np.einsum("gok,gk->go", blocks, patches).ravel()
    np.testing.assert_allclose(run(graph, {"x": x})["y"].ravel(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_matrix_is_out_by_reduction(side, transposed):
    weight = normal(6, 4)
    names = ["w", "x"] if side == 0 else ["x", "w"]
    node = N("Gemm", names, ["y"], "g", **{"transA" if side == 0 else "transB": transposed})
    reduction = weight.shape[1 - side] if not transposed else weight.shape[side]
    x = normal(reduction, 5) if side == 0 else normal(5, reduction)
    graph = model([node], {"x": x.shape}, ["y"], {"w": weight})
    matrix = only_site(graph).matrix()
    expected = matrix @ x if side == 0 else (matrix @ x.T).T
    np.testing.assert_allclose(run(graph, {"x": x})["y"], expected, rtol=1e-5)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize("side", [0, 1])
def test_matmul_matrix_has_a_row_per_output(batch, side):
    weight = normal(*batch, 6, 4)
    node = N("MatMul", ["w", "x"] if side == 0 else ["x", "w"], ["y"], "m")
    x = normal(*batch, 4, 5) if side == 0 else normal(*batch, 5, 6)
    graph = model([node], {"x": x.shape}, ["y"], {"w": weight})
    site = only_site(graph)
    rows, reduction = (6, 4) if side == 0 else (4, 6)
    count = int(np.prod(batch))
    assert site.shape == (count * rows, reduction)
    assert site.layout.groups == count
    blocks = site.matrix().reshape(*batch, rows, reduction)
    expected = blocks @ x if side == 0 else x @ blocks.swapaxes(-1, -2)
    np.testing.assert_allclose(run(graph, {"x": x})["y"], expected, rtol=1e-4, atol=1e-5)


@given(seed=st.integers(0, 20), groups=st.integers(1, 2))
def test_writing_what_was_read_changes_nothing(seed, groups):
    weight = normal(4, 3, 2, 2, seed=seed)
    node = N("Conv", ["x", "w"], ["y"], "conv", group=groups)
    graph = model([node], {"x": [1, 3 * groups, 5, 5]}, ["y"], {"w": weight})
    site = only_site(graph)
    site.write_matrix(site.matrix())
    stored = site.weight.const_value.numpy()
    assert stored.dtype == weight.dtype
    assert stored.tobytes() == weight.tobytes()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_every_floating_type_is_a_site_and_keeps_its_type(dtype):
    weight = normal(8, 4).astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    site = only_site(matmul(weight, dtype=kind))
    assert site.dtype == np.dtype(dtype)
    matrix = site.matrix()
    assert matrix.dtype == (np.float64 if dtype is np.float64 else np.float32)
    matrix[:, ::2] = 0
    site.write_matrix(matrix)
    stored = site.weight.const_value.numpy()
    assert stored.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(stored[1::2], weight[1::2])
    assert not np.any(stored[::2])


def test_a_tensor_that_several_nodes_read_is_one_site_with_all_of_them():
    weight = normal(4, 4)
    nodes = [
        N("MatMul", ["x", "w"], ["a"], "first"),
        N("Relu", ["a"], ["b"]),
        N("MatMul", ["b", "w"], ["y"], "second"),
    ]
    site = only_site(model(nodes, {"x": ["n", 4]}, ["y"], {"w": weight}))
    assert [node.name for node in site.nodes] == ["first", "second"]
    assert site.name == "w"


def test_an_embedding_that_is_also_the_head_is_shared():
    nodes = [
        N("Gather", ["w", "ids"], ["a"], "embed"),
        N("Transpose", ["w"], ["wt"], perm=[1, 0]),
        N("MatMul", ["a", "wt"], ["y"], "head"),
    ]
    built = proto(nodes, {"ids": ["n"]}, ["y"], {"w": normal(8, 4)})
    built.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    from sparsec.ir.load import load_model

    found = weight_sites(load_model(built))
    assert len(found) == 0
    (other,) = found.others
    assert (other.name, other.code) == ("head", Code.SHARED)
    assert "Gather" in other.reason


def test_uses_along_different_axes_are_shared():
    nodes = [N("MatMul", ["x", "w"], ["a"], "m"), N("MatMul", ["w", "a"], ["y"], "left")]
    (other,) = weight_sites(model(nodes, {"x": [4, 4]}, ["y"], {"w": normal(4, 4)})).others
    assert other.code is Code.SHARED
    assert "other axes" in other.reason


def test_a_weight_that_is_also_an_output_is_shared():
    nodes = [N("MatMul", ["x", "w"], ["y"], "m")]
    (other,) = weight_sites(model(nodes, {"x": [4, 4]}, ["y", "w"], {"w": normal(4, 4)})).others
    assert other.code is Code.SHARED
    assert "output 'w'" in other.reason


def test_reading_the_shape_of_a_weight_does_not_share_it():
    nodes = [N("MatMul", ["x", "w"], ["y"], "m"), N("Shape", ["w"], ["s"])]
    built = proto(nodes, {"x": [4, 4]}, ["y"], {"w": normal(4, 4)})
    built.graph.output.append(helper.make_tensor_value_info("s", TensorProto.INT64, [2]))
    from sparsec.ir.load import load_model

    assert only_site(load_model(built)).name == "m"


def test_constant_nodes_hold_sites():
    from tests.graphs import tensor

    nodes = [
        N("Constant", [], ["w"], value=tensor("", normal(4, 4))),
        N("MatMul", ["x", "w"], ["y"], "m"),
    ]
    assert only_site(model(nodes, {"x": ["n", 4]}, ["y"])).name == "m"


def branches():
    from tests.graphs import tensor

    def body(name, seed):
        nodes = [
            N("Constant", [], [f"{name}_w"], value=tensor("", normal(4, 4, seed=seed))),
            N("MatMul", ["x", f"{name}_w"], [f"{name}_y"], f"{name}_layer"),
        ]
        out = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
        return helper.make_graph(nodes, name, [], [out])

    node = N("If", ["c"], ["y"], "if", then_branch=body("yes", 1), else_branch=body("no", 2))
    built = proto([node], {"x": ["n", 4]}, ["y"])
    built.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    from sparsec.ir.load import load_model

    return load_model(built)


def test_bodies_of_if_hold_sites():
    graph = branches()
    sites = list(weight_sites(graph))
    assert sorted(site.name for site in sites) == ["no_layer", "yes_layer"]
    x = normal(2, 4)
    before = run(graph, {"x": x, "c": np.array(True)})["y"]
    no = next(site for site in sites if site.name == "no_layer")
    no.write_matrix(np.zeros((4, 4), np.float32))
    np.testing.assert_array_equal(run(graph, {"x": x, "c": np.array(True)})["y"], before)
    assert not run(graph, {"x": x, "c": np.array(False)})["y"].any()


def test_bodies_of_loop_hold_sites_and_capture_outer_ones():
    body = helper.make_graph(
        [
            N("MatMul", ["h", "w"], ["h2"], "inner"),
            N("Identity", ["go"], ["go2"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, ["n", 4]),
        ],
        [
            helper.make_tensor_value_info("go2", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h2", TensorProto.FLOAT, ["n", 4]),
        ],
    )
    nodes = [N("MatMul", ["x", "w"], ["a"], "outer"), N("Loop", ["m", "", "a"], ["y"], body=body)]
    weights = {"w": normal(4, 4), "m": np.array(2, np.int64)}
    site = only_site(model(nodes, {"x": ["n", 4]}, ["y"], weights))
    assert {node.name for node in site.nodes} == {"outer", "inner"}


@pytest.mark.parametrize(
    ("nodes", "weights", "code", "word"),
    [
        ([N("Conv", ["x", "x"], ["y"], "n")], {}, Code.NOT_CONSTANT, "run time"),
        (
            [N("ConvTranspose", ["x", "w"], ["y"], "n")],
            {"w": normal(4, 2, 3, 3)},
            Code.NOT_A_SITE,
            "ConvTranspose",
        ),
        (
            [N("Sqrt", ["w"], ["r"]), N("MatMul", ["x", "r"], ["y"], "n")],
            {"w": normal(4, 4)},
            Code.NOT_A_SITE,
            "Sqrt",
        ),
        ([N("MatMul", ["x", "w"], ["y"], "n")], {"w": normal(4)}, Code.NOT_A_SITE, "rank 1"),
        (
            [N("Einsum", ["x", "w"], ["y"], "n", equation="abij,jk->abik")],
            {"w": normal(4, 4)},
            Code.NOT_A_SITE,
            "Einsum",
        ),
    ],
)
def test_what_has_weights_and_is_no_site_is_reported(nodes, weights, code, word):
    found = weight_sites(model(nodes, {"x": [1, 4, 4, 4]}, ["y"], weights))
    assert len(found) == 0
    (other,) = found.others
    assert (other.name, other.code) == ("n", code)
    assert word in other.reason


def test_a_product_of_activations_is_neither_site_nor_skip():
    found = weight_sites(model([N("MatMul", ["x", "x"], ["y"], "m")], {"x": [4, 4]}, ["y"]))
    assert not found.sites
    assert not found.others


def test_two_weights_of_one_node_have_two_names():
    weights = {"u": normal(4, 4), "v": normal(4, 4)}
    graph = model([N("MatMul", ["u", "v"], ["y"], "m")], {}, ["y"], weights)
    assert sorted(site.name for site in weight_sites(graph)) == ["u", "v"]


def test_a_matrix_of_another_shape_is_refused():
    site = only_site(matmul(normal(8, 4)))
    with pytest.raises(ShapeError, match=r"layer: need a matrix \[4, 8\], got \[8, 4\]"):
        site.write_matrix(normal(8, 4))


def test_the_pattern_names_the_stored_axis_behind_a_transposition():
    nodes = [N("Transpose", ["w"], ["t"], perm=[1, 0]), N("MatMul", ["x", "t"], ["y"], "m")]
    site = only_site(model(nodes, {"x": ["n", 4]}, ["y"], {"w": normal(8, 4)}))
    assert site.pattern is None
    site.mark(NM(2, 4))
    assert site.weight.metadata_props == {"sparsec.pattern": "2:4@1"}
    assert site.pattern == NM(2, 4)


def test_sparsity_of_nothing_is_zero():
    assert sparsity(np.zeros((0, 4))) == 0.0
