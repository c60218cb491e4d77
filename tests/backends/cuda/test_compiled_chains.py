"""Chains of compiled kernels: what is launched with which memory. The driver is a stand-in that computes."""

import ctypes

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="chains launch on torch tensors")
from sparsec.backends.cuda import compiled, formats  # noqa: E402
from sparsec.backends.cuda.loader import Kernel, extents  # noqa: E402
from sparsec.backends.cuda.variants import variants_for  # noqa: E402
from sparsec.ir.errors import ArtifactError  # noqa: E402


def pointer(name, dtype, *shape):
    return {"name": name, "kind": "pointer", "dtype": dtype, "shape": list(shape), "align": 2}


def scratch(name, dtype, *shape):
    return {**pointer(name, dtype, *shape), "kind": "scratch", "zero": False}


ARGUMENTS = {
    "transpose": [pointer("x", "float16", "N", "K"), scratch("xt", "float16", "K", 4)],
    "split": [
        scratch("xt", "float16", "K", 4),
        pointer("w", "float16", "M", "K"),
        scratch("partial", "float32", "split", "N", "M"),
    ],
    "sum": [
        scratch("partial", "float32", "split", "N", "M"),
        pointer("bias", "float32", "M"),
        pointer("y", "float32", "N", "M"),
    ],
    "whole": [
        pointer("x", "float16", "N", "K"),
        pointer("w", "float16", "M", "K"),
        pointer("y", "float32", "N", "M"),
    ],
}


class Computing(Kernel):
    """A kernel of plain numpy on the addresses that it is given."""

    def __init__(self, entry, n_max):
        self.entry = entry
        grid = [1, {"of": "N", "per": n_max}, 1]
        self.launch_data = {"name": entry, "n_max": n_max, "arguments": ARGUMENTS[entry]}
        self.launch_data["grid"] = grid
        self.launched = []

    def launch(self, pointers, sizes, stream):
        self.launched.append(dict(sizes))
        arrays = {
            each["name"]: as_array(
                pointers[each["name"]],
                each["dtype"],
                extents(each["shape"], sizes),
            )
            for each in self.launch_data["arguments"]
        }
        getattr(self, f"do_{self.entry}")(arrays, sizes)

    def do_transpose(self, arrays, sizes):
        arrays["xt"][:] = 0
        arrays["xt"][:, : sizes["N"]] = arrays["x"].T

    def do_split(self, arrays, sizes):
        width = -(-sizes["K"] // sizes["split"])
        for share in range(sizes["split"]):
            part = slice(share * width, (share + 1) * width)
            x, w = arrays["xt"][part, : sizes["N"]], arrays["w"][:, part]
            arrays["partial"][share] = x.T.astype(np.float32) @ w.T.astype(np.float32)

    def do_sum(self, arrays, sizes):
        arrays["y"][:] = arrays["partial"].sum(0) + arrays["bias"]

    def do_whole(self, arrays, sizes):
        arrays["y"][:] = arrays["x"].astype(np.float32) @ arrays["w"].T.astype(np.float32)


def as_array(address, dtype, shape):
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = (ctypes.c_ubyte * count).from_address(address)
    return np.frombuffer(raw, dtype).reshape(shape)


@pytest.fixture
def kernels(monkeypatch):
    found = {
        "transpose": Computing("transpose", 4),
        "split": Computing("split", 4),
        "sum": Computing("sum", 1),
        "whole": Computing("whole", 2),
    }
    monkeypatch.setattr(compiled, "_LOADED", found)
    return found


def operands(n, m=6, k=10):
    rng = np.random.default_rng(n)
    x = torch.from_numpy(rng.standard_normal((n, k)).astype(np.float16))
    w = torch.from_numpy(rng.standard_normal((m, k)).astype(np.float16))
    bias = torch.from_numpy(rng.standard_normal(m).astype(np.float32))
    return x, w, bias, torch.full((n, m), torch.nan)


@pytest.mark.parametrize("n", [1, 4, 5, 11])
def test_a_chain_transposes_splits_and_sums(kernels, n):
    x, w, bias, y = operands(n)
    text = compiled.as_text(["transpose split sum"], [3])
    assert compiled.loaded(text)
    compiled.linear(text, x, {"w": w}, y, bias=bias)
    torch.testing.assert_close(y, x.float() @ w.float().T + bias, rtol=1e-5, atol=1e-5)
    rows = [sizes["N"] for sizes in kernels["split"].launched]  # a bucket at a time
    assert rows == [4] * (n // 4) + ([n % 4] if n % 4 else [])
    assert {sizes["split"] for sizes in kernels["split"].launched} == {3}


@pytest.mark.parametrize(("n", "entry"), [(1, "whole"), (2, "whole"), (3, "split"), (9, "split")])
def test_the_smallest_bucket_that_holds_all_rows_is_taken(kernels, n, entry):
    x, w, _, y = operands(n)
    zero = torch.zeros(w.shape[0]) if entry == "split" else None  # the other one takes none
    text = compiled.as_text(["transpose split sum", "whole"], [2, 1])
    compiled.linear(text, x, {"w": w}, y, bias=zero)
    torch.testing.assert_close(y, x.float() @ w.float().T, rtol=1e-5, atol=1e-5)
    assert [
        name for name, each in kernels.items() if each.launched and name in ("whole", "split")
    ] == [entry]


def test_many_rows_of_a_kernel_that_spreads_them_are_one_launch(kernels):
    x, w, _, y = operands(9)
    compiled.linear("whole:1", x, {"w": w}, y)
    assert [sizes["N"] for sizes in kernels["whole"].launched] == [9]
    torch.testing.assert_close(y, x.float() @ w.float().T, rtol=1e-5, atol=1e-5)


def test_more_rows_than_a_grid_holds_are_several_launches(kernels, monkeypatch):
    """The kernel that adds shares has a block for each row, the others one for each bucket."""
    monkeypatch.setattr(compiled, "_MOST_BLOCKS", 3)
    x, w, _, y = operands(15)
    compiled.linear("whole:1", x, {"w": w}, y)
    assert [sizes["N"] for sizes in kernels["whole"].launched] == [6, 6, 3]
    torch.testing.assert_close(y, x.float() @ w.float().T, rtol=1e-5, atol=1e-5)
    kernels["whole"].launched.clear()
    kernels["whole"].launch_data["grid"][1]["per"] = 1
    compiled.linear("whole:1", x, {"w": w}, y)
    assert [sizes["N"] for sizes in kernels["whole"].launched] == [2] * 7 + [1]


def test_what_the_node_has_not_is_an_error_that_names_it(kernels):
    x, w, _, y = operands(3)
    with pytest.raises(ArtifactError, match="'bias'"):
        compiled.linear(compiled.as_text(["transpose split sum"], [1]), x, {"w": w}, y)
    with pytest.raises(ArtifactError, match="compiled for float16"):
        compiled.linear("whole:1", x, {"w": w.float()}, y)


def test_what_the_kernels_leave_out_is_an_error_that_names_it(kernels):
    x, w, bias, y = operands(3)
    with pytest.raises(ArtifactError, match="without the bias and residual of the node"):
        compiled.linear("whole:1", x, {"w": w}, y, bias=bias, residual=y)
    with pytest.raises(ArtifactError, match="without the activation relu of the node"):
        compiled.linear("whole:1", x, {"w": w}, y, act="relu")
    kernels["whole"].launch_data["activation"] = "relu"
    with pytest.raises(ArtifactError, match="without the activation none of the node"):
        compiled.linear("whole:1", x, {"w": w}, y)


def test_kernels_that_are_not_there_are_not_loaded(kernels):
    assert not compiled.loaded("")
    assert not compiled.loaded("whole absent:1")


class Recording:
    """A driver that writes down what it is called with."""

    def __init__(self):
        self.grids = []

    def within(self, name, *arguments):
        if name == "cuLaunchKernel":
            self.grids.append(arguments[1:4])


@pytest.mark.parametrize(("form", "launches"), [("block16x1", 3), ("nm24", 2)])
def test_launch_data_of_triton_chains_is_complete(monkeypatch, form, launches):
    """What the compiler writes into manifests, not what this file makes up."""
    m, n, k, shares = 64, 5, 256, 3
    dense = np.zeros((m, k), np.float16)
    dense[:16, ::2] = 1
    packed = formats.get(form).pack(dense)
    variants = variants_for(k, "float16", "sm90", form=form, out="float32", bias=True)
    variant = next(each for each in variants if each.bucket >= n)
    before = variant.before()
    chain = [*([before] if before else []), *variant.split_form()]
    driver = Recording()
    for each in chain:
        data = {"name": each.name, "entry": each.kernel, "arguments": each.arguments()}
        data |= {"grid": each.grid(), "threads": 128, "shared_bytes": 0, "n_max": each.bucket}
        monkeypatch.setitem(compiled._LOADED, each.name, Kernel(driver, b"", data))
    arrays = {name: torch.from_numpy(array) for name, array in packed.items()}
    x, bias, y = torch.ones(n, k).half(), torch.ones(m), torch.zeros(n, m)
    text = compiled.as_text([" ".join(each.name for each in chain)], [shares])
    compiled.linear(text, x, arrays, y, bias=bias)
    assert len(driver.grids) == launches
    assert driver.grids[-2][2] == shares


@pytest.mark.parametrize("size", ["ceil(Z/2)", "K+1", "ceil(K/x)", ""])
def test_other_extents_are_refused(size):
    with pytest.raises(ArtifactError, match="no extent"):
        extents([size], {"K": 4})
