"""The Gluon kernel for sparse tensor cores: its own source on numpy arrays, and its machine code.

Gluon has no interpreter for inline assembly. The body of the kernel runs as the Python that it is, on
arrays in place of tensors; ``mma.sp`` is given the meaning that the PTX manual gives it, for 32 lanes.
"""

import functools
import itertools
import re
import types

import numpy as np
import pytest
from nm24_cases import nm24_matrix

from sparsec.backends.cuda import aot, formats
from sparsec.backends.cuda.variants import variants_for
from sparsec.ir.errors import UnsupportedTargetError

pytest.importorskip("triton", reason="the kernel is written in Gluon: pip install sparsec[cuda]")
from sparsec.backends.cuda.kernels import sp_matmul as source

LANE = np.arange(32)
G, T = LANE // 4, LANE % 4


class Tensor(np.ndarray):
    """An array with the one method of tensors that the kernel calls."""

    def to(self, dtype):
        return self.astype(dtype)


class Pointer:
    """Addresses in one array; every access has to stay inside."""

    def __init__(self, array, at=0):
        self.array, self.at = array.reshape(-1), at

    def __add__(self, offset):
        return Pointer(self.array, self.at + offset)

    def load(self, mask=True, other=0):
        inside = (self.at >= 0) & (self.at < self.array.size)
        assert np.all(inside | ~np.asarray(mask)), "read outside"
        return np.where(mask, self.array[np.where(mask, self.at, 0)], other).view(Tensor)

    def store(self, value, mask):
        at, value = np.broadcast_arrays(self.at, value)
        mask = np.broadcast_to(mask, at.shape)
        assert len(np.unique(at[mask])) == mask.sum(), "written twice"
        self.array[at[mask]] = value[mask]


def halves(words, brain):
    """Return the two numbers in each 32-bit word, the low one first."""
    words = np.asarray(words).astype(np.int64) & 0xFFFFFFFF
    both = np.stack([words & 0xFFFF, words >> 16], axis=-1)
    if brain:
        return (both.astype(np.uint32) << 16).view(np.float32)
    return both.astype(np.uint16).view(np.float16)


def mma_sp(a, b, c, meta, selector, brain):
    """``mma.sp.m16n8k32`` for arrays [4, ..., 32] of a lane's registers, metadata [..., 32]."""
    lead = a.shape[1:-1]
    dense = np.zeros((*lead, 16, 32))
    for register, u in itertools.product(range(4), range(4)):  # u: lane of a quad
        high, group = register & 1, u + 4 * (register >> 1)
        kept = halves(a[register][..., 4 * np.arange(8) + u], brain)
        words = meta[..., 4 * np.arange(8) + 2 * selector + group // 4].astype(np.int64)
        places = words >> (16 * high + 4 * (group % 4)) & 15
        assert np.all(places & 3 < places >> 2), "columns have to ascend"
        for index in range(2):
            column = 4 * group + (places >> (2 * index) & 3)
            rows = dense[..., 8 * high : 8 * high + 8, :]
            np.put_along_axis(rows, column[..., None], kept[..., index : index + 1], axis=-1)
    x = np.zeros((*lead, 32, 8))
    for register in range(4):
        pair = halves(b[register], brain)
        for index in range(2):
            x[..., 2 * T + index + 8 * register, G] = pair[..., index]
    product = dense @ x
    return np.stack([c[r] + product[..., G + 8 * (r // 2), 2 * T + r % 2] for r in range(4)])


def inline_asm_elementwise(text, constraints, args, dtype, is_pure, pack):
    """Run the text of ``mma.sp`` instructions on tensors [..., 32, 4]."""
    *_, shape = [np.broadcast_shapes(*(each.shape for each in args))]
    kinds = constraints.split(",")
    assert (pack, shape[-2:], kinds.count("=&f")) == (4, (32, 4), 4)
    assert len(kinds) == 4 * (1 + len(args))
    registers = {}
    for index, each in enumerate(args):
        wide = np.broadcast_to(each, shape)
        assert kinds[4 + 4 * index] == ("f" if wide.dtype.kind == "f" else "r")
        for r in range(4):
            registers[f"${4 + 4 * index + r}"] = wide[..., r]
    lines = [each.split(None, 1) for each in text.split(";") if each.strip()]
    for opcode, operands in lines:
        match = re.fullmatch(
            r"mma\.sp::ordered_metadata\.sync\.aligned\.m16n8k32\.row\.col\.f32\.(b?f16)\.\1\.f32",
            opcode,
        )
        d, a, b, c = (re.findall(r"\$\d+", each) for each in re.findall(r"\{([^}]*)\}", operands))
        meta, selector = re.search(r"\}, (\$\d+), (0x[01])\s*$", operands).groups()
        read = [np.stack([registers[name] for name in names]) for names in (a, b, c)]
        result = mma_sp(*read, registers[meta], int(selector, 16), match[1] == "bf16")
        registers |= dict(zip(d, result.astype(np.float32), strict=True))
    return np.stack([registers[f"${r}"] for r in range(4)], axis=-1).view(Tensor)


def run(x, packed, m, k, shares, rows, bucket, brain):
    """Return [shares, N, M], the partial sums, by the source of the kernel."""
    n = len(x)
    y = np.full((shares, n, m), np.nan, np.float32)
    program = [0, 0, 0]
    gl = types.SimpleNamespace(
        arange=lambda low, high, layout: np.arange(low, high).view(Tensor),
        expand_dims=np.expand_dims, static_range=range, minimum=np.minimum, int64=np.int64,
        cdiv=lambda a, b: -(-a // b), program_id=lambda axis: program[axis],
        num_programs=lambda axis: shares, float32=np.float32,
        full=lambda shape, value, dtype, layout: np.full(shape, value, dtype).view(Tensor),
        load=lambda at, mask=True, other=0: at.load(mask, other),
        store=lambda at, value, mask: at.store(value, mask),
        BlockedLayout=lambda *args: None, inline_asm_elementwise=inline_asm_elementwise,
    )  # fmt: skip
    names = {"gl": gl, "along": lambda layout, axis: None}
    for name in ("number", "multiply_f16", "multiply_bf16", "sp_matmul"):
        names[name] = types.FunctionType(getattr(source, name).fn.__code__, names, name)
    pairs = np.ascontiguousarray(x).view(np.int32)
    for program[0] in range(-(-m // rows)):
        for program[1] in range(-(-n // bucket)):
            for program[2] in range(shares):
                names["sp_matmul"](
                    Pointer(pairs), Pointer(packed), Pointer(y), m, n, k,
                    rows, bucket, brain, k % 64 == 0,
                )  # fmt: skip
    return y


@pytest.mark.parametrize("brain", [False, True], ids=["float16", "bfloat16"])
@pytest.mark.parametrize(
    ("m", "n", "k", "shares", "bucket"),
    [(128, 16, 128, 1, 16), (33, 5, 100, 1, 16), (130, 17, 448, 3, 32), (20, 70, 60, 2, 64)],
)
def test_the_source_computes_the_product(m, n, k, shares, bucket, brain):
    values = "bfloat16" if brain else "float16"
    form = formats.get("nm24_sp")
    weight = nm24_matrix(m, k, "float16", seed=m).astype(np.float32)
    weight[: min(m, 9)] = 0
    packed = form.pack(weight, values)
    exact_weight = form.unpack(packed, (m, k), values).astype(np.float64)
    x = np.random.default_rng(n).standard_normal((n, k)).astype(np.float32)
    bits = x.view(np.uint32) >> 16 if brain else x.astype(np.float16).view(np.uint16)
    exact_x = (bits << 16).view(np.float32) if brain else bits.view(np.float16)
    y = run(bits.astype(np.uint16), packed["packed"], m, k, shares, 128, bucket, brain)
    exact = exact_x.astype(np.float64) @ exact_weight.T
    assert np.abs(y.sum(0) - exact).max() <= 1e-5 * np.abs(exact).max()


@functools.cache
def compiled(arch, bucket, columns=4096, dtype="float16"):
    variants = variants_for(columns, dtype, arch, form="nm24_sp", bias=True)
    return aot.compile_variant(next(v for v in variants if v.bucket == bucket).split_form()[0])


@pytest.mark.parametrize("arch", ["sm80", "sm90", "sm120"])
@pytest.mark.parametrize("bucket", [16, 64])
def test_it_compiles_to_sparse_tensor_cores_and_nothing_to_decode(arch, bucket):
    kernel = compiled(arch, bucket)
    loop = max(kernel.code.loops, key=lambda each: each.total())
    assert (
        loop["HMMA.SP.16832.F32"] == 2 * 2 * bucket // 8
    )  # halves of a strip and of a step, tiles
    assert not any(opcode.startswith("HMMA.16") for opcode in kernel.code.opcodes)
    assert loop["LDG.E.128"] == 4  # 32 rows x 64 columns, packed
    assert not any(opcode.startswith(("LDS", "STS", "BAR", "PRMT")) for opcode in loop)
    assert (kernel.code.stack, kernel.launch["shared_bytes"]) == (0, 0)
    assert kernel.code.registers <= 128
    elements = kernel.variant.rows * kernel.variant.step
    each = kernel.code.loop_per_element(elements, kernel.launch["threads"])
    assert 0.4 < each < (1.0 if bucket == 16 else 2.5)  # an H200 has time for 7.8


def test_ragged_reductions_and_bfloat16_compile_too():
    assert compiled("sm80", 16, 100).launch["k_multiple"] == 4
    opcodes = compiled("sm90", 16, dtype="bfloat16").code.opcodes
    assert opcodes["HMMA.SP.16832.F32.BF16"] == 8


def test_operators_take_it_where_no_cuda_compiler_is(monkeypatch):
    torch = pytest.importorskip("torch", reason="the operators are torch's")
    from sparsec.backends.cuda import dispatch, launch

    x, y = torch.zeros(3, 64).half(), torch.zeros(3, 64).half()
    packed = [torch.zeros(2, 1, 576, dtype=torch.int32)]
    asked = []
    monkeypatch.setattr(dispatch, "device_sm", lambda device: 90)
    monkeypatch.setattr(launch, "packed_linear", lambda form, *args, **what: asked.append(form))
    monkeypatch.setattr(
        dispatch, "native_linear", lambda form, *args, **what: asked.append("native")
    )
    for reason in (None, "no nvcc"):
        monkeypatch.setattr(dispatch.nvcc, "why_not", lambda sm, reason=reason: reason)
        dispatch.linear("nm24_sp", x, packed, y, "float16", "")
        dispatch.linear("lps", x, [packed[0]] * 3, y, "float16", "")
    assert asked == ["native", "native", "nm24_sp", "native"]  # which says why it cannot


def test_a_launch_hands_pairs_of_columns_and_partial_sums_on(monkeypatch):
    torch = pytest.importorskip("torch", reason="launches take torch tensors")
    from sparsec.backends.cuda import launch

    ran = []
    monkeypatch.setattr(
        launch, "_run", lambda variant, tensors, sizes, asm: ran.append((variant, tensors))
    )
    x, packed = torch.zeros(5, 128).half(), torch.zeros(4, 2, 576, dtype=torch.int32)
    launch.packed_linear("nm24_sp", x, {"packed": packed}, 100, act="gelu", split=2)
    (first, given), (second, summed) = ran
    assert (first.kernel, second.kernel, second.act) == ("sp_matmul", "reduce_partials", "gelu")
    assert (given["x"].shape, given["x"].dtype) == ((5, 64), torch.int32)
    assert given["y"].shape == (2, 5, 100)
    assert summed["partial"] is given["y"]
    with pytest.raises(UnsupportedTargetError, match="16-bit values"):
        launch.packed_linear("nm24_sp", x, {"packed": packed}, 100, "int8")
