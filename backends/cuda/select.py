"""Which layers a packed kernel takes, in which format, and why the others stay dense."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.backends.cuda import formats, nvcc
from sparsec.backends.cuda.cost import Estimate, estimate
from sparsec.backends.cuda.formats import Packed
from sparsec.backends.cuda.formats.block import MAX_COLUMNS
from sparsec.backends.cuda.formats.nm24 import DTYPES, numpy_dtype
from sparsec.backends.cuda.variants import BLOCK, FORMATS, MAX_N
from sparsec.ir.chain import Operand, after
from sparsec.ir.codes import Code
from sparsec.ir.patterns import NM, Block, Pattern
from sparsec.ir.sites import WeightSite, sparsity
from sparsec.ir.target import Target

_MAX_WORDS = 2**31 - 1  # kernels index with 32 bits
_FLOAT32 = "float32"


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """What becomes of one site: packed, or dense with the reason."""

    site: WeightSite
    sparsity: float
    code: Code
    reason: str
    packed: Packed | None = None
    estimate: Estimate | None = None


def choose(site: WeightSite, target: Target) -> Choice:
    """Decide on one site: the format whose kernel is modelled as the fastest, or dense.

    Raises
    ------
    PatternError
        If the weights do not follow the pattern that the file claims for them.
    """
    matrix = site.matrix()
    zeros = sparsity(matrix)
    if site.pattern is None:
        return Choice(site, zeros, Code.DENSE, "not pruned to a pattern: dense")
    if refusal := _refusal(site):
        return Choice(site, zeros, *refusal)
    site.pattern.check(matrix, site.name)
    values = _values(site, matrix)
    lost = ~np.isfinite(values.astype(np.float32)) & np.isfinite(matrix)
    if lost.any():
        largest = float(np.abs(matrix[lost]).max())
        reason = f"a weight of size {largest:.3g} exceeds the range of float16, which kernels read"
        return Choice(site, zeros, Code.NO_KERNEL, reason)
    rows = _rows(site)
    found = [
        estimate(form, site.shape, _stored_sparsity(form, values), rows or MAX_N, target.limits)
        for form in candidates(site.pattern, site.shape, target)
    ]
    if not found:
        reason = f"no kernel of {target.name} reads {site.pattern} of {list(site.shape)}"
        return Choice(site, zeros, Code.NO_KERNEL, f"{reason}; its zeros are multiplied densely")
    best = min(found, key=lambda each: each.packed_seconds)
    regime = f"for {rows} rows of x" if rows else f"for decoding, at most {MAX_N} rows of x"
    times = f"modelled {regime}: {best}"
    held = _stored_bytes(site)
    if best.packed_loses:
        why = _why_slower(best, target)
        return Choice(site, zeros, Code.MODELLED_SLOWER, f"{times}{why}; kept dense", estimate=best)
    packed = Packed.of(formats.get(best.format), values, values.dtype.name)
    if held is not None and held < packed.nbytes:
        reason = (
            f"it is stored in {held} bytes, fewer than the {packed.nbytes} of packed 16-bit values; "
            "kept dense"
        )
        return Choice(site, zeros, Code.NO_KERNEL, reason)
    rounded = "" if site_dtype(site) in DTYPES else f"; weights rounded to {packed.values}"
    zeros = sparsity(values)  # of what is stored: rounding may have made more of them
    return Choice(site, zeros, Code.MODELLED, f"{times}; unmeasured{rounded}", packed, best)


def candidates(pattern: Pattern, shape: tuple[int, int], target: Target) -> list[str]:
    """Return the formats that hold a pattern and have a kernel for the target.

    ``lps`` and ``bm32`` hold them all: an N:M that has no format of its own, or blocks of other sizes.
    Where two are modelled alike, the earlier one is taken.
    """
    amd = architecture(target).startswith("gfx")
    native = why_no_native(target) is None
    found = []
    match pattern:
        case NM(2, 4):
            found += ["nm24_sp", "nm24"] if native else ["nm24"]
        case NM(1, 4) if native and shape[1] % 4 == 0:
            found += ["nm14_sp", "nm1_4"]
        case NM(n, m) if f"nm{n}_{m}" in FORMATS:
            found.append(f"nm{n}_{m}")
        case Block(high, _) if shape[1] <= MAX_COLUMNS:
            found += ["block16x1"] if high % 16 == 0 else []
            # Matrix instructions of AMD are no lower than 16.
            found += ["block8x1"] if high % 8 == 0 and not amd else []
    return [*found, *(["lps"] if native else []), "bm32"]


def architecture(target: Target) -> str:
    """Return what kernels are compiled for: ``"sm80"``, ``"gfx942"``."""
    return next(each for each in sorted(target.features) if each.startswith(("sm", "gfx")))


def why_no_native(target: Target) -> str | None:
    """Return why CUDA C++ kernels are no candidates for a target, with the way out, or None."""
    arch = architecture(target)
    if not arch.startswith("sm"):
        return f"CUDA C++ kernels do not run on {arch}"
    return nvcc.why_not(int(arch[2:]))


def _stored_sparsity(form: str, values: NDArray[Any]) -> float:
    """Return the share of elements that a format does not store."""
    if form not in BLOCK:
        return float(1 - np.count_nonzero(values) / values.size)
    high = int(form.removeprefix("block").split("x")[0])
    rows, columns = values.shape
    padded = np.zeros((-(-rows // high) * high, columns), bool)
    padded[:rows] = values != 0
    kept = np.count_nonzero(padded.reshape(-1, high, columns).any(axis=1))
    return 1 - kept * high / padded.size


def _why_slower(best: Estimate, target: Target) -> str:
    if best.rows > MAX_N:
        return ""
    return f" ({best.format} is bound by its instructions on {target.name})"


def _stored_bytes(site: WeightSite) -> int | None:
    """Return the bytes of a weight that is stored in fewer than 16 bits an element, or None."""
    stored = site.weight.const_value
    return None if stored is None or stored.nbytes >= 2 * math.prod(site.shape) else stored.nbytes


def site_dtype(site: WeightSite) -> str:
    """Return the numpy name of the type that the site's nodes compute in."""
    stored = site.weight.const_value
    assert stored is not None
    shape = tuple(int(size) for size in stored.shape.numpy())
    start = Operand(shape, np.dtype(stored.dtype.numpy()))
    operand = functools.reduce(lambda each, step: after(step, each), site.steps, start)
    return np.dtype(operand.dtype).name


def constant_bias(node: ir.Node, out: int) -> NDArray[np.float32] | None:
    """Return beta * C of a Gemm as float32 [out]; None if there is no C.

    Raises
    ------
    ValueError
        If C is no constant of one value an output.
    """
    c = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
    if c is None:
        return None
    if c.const_value is None:
        raise ValueError("its C is computed at run time")
    array = c.const_value.numpy().astype(np.float32)
    if array.size not in (1, out) or array.shape[-1:] not in ((), (1,), (out,)):
        raise ValueError(f"its C {list(array.shape)} is not one value an output")
    beta = np.float32(node.attributes.get_float("beta", 1.0) or 0.0)
    return np.ascontiguousarray(np.broadcast_to(beta * array.reshape(-1), (out,)))


def _refusal(site: WeightSite) -> tuple[Code, str] | None:
    """Return why no kernel can compute the nodes of a site, or None."""
    if site.op not in ("MatMul", "Gemm"):
        return (
            Code.NO_KERNEL,
            f"no GPU kernel for {site.op} yet: its zeros are kept, and computed densely",
        )
    dtype = site_dtype(site)
    if dtype not in (*DTYPES, _FLOAT32):
        return Code.NO_KERNEL, f"no GPU kernel computes in {dtype}"
    out, reduction = site.shape
    if not out or not reduction or out * reduction > _MAX_WORDS:
        return Code.SHAPE_UNSUPPORTED, f"{out}x{reduction} weights cannot be indexed with 32 bits"
    if len({_alpha(node) for node in site.nodes}) > 1:
        return Code.SHAPE_UNSUPPORTED, "its nodes scale the shared weight by different alpha"
    for node in site.nodes:
        if reason := _unlike_linear(node, site):
            return Code.SHAPE_UNSUPPORTED, f"{reason}; the kernel computes x @ W.T + bias only"
    return None


def _unlike_linear(node: ir.Node, site: WeightSite) -> str | None:
    """Return why a MatMul or Gemm is not ``x @ W.T + bias`` with a constant bias, or None."""
    if len(site.operand_shape) != 2:
        return f"its weight is a batch of matrices {list(site.operand_shape)}"
    if not _leads_to(node.inputs[1], site.weight, len(site.steps)):
        return "its weight is the left operand"
    if node.attributes.get_int("transA", 0):
        return "it transposes x"
    try:
        constant_bias(node, site.shape[0])
    except ValueError as error:
        return str(error)
    return None


def _leads_to(value: ir.Value | None, weight: ir.Value, steps: int) -> bool:
    """Whether ``value`` comes from ``weight`` through exactly ``steps`` nodes."""
    if value is None or not steps:
        return value is weight
    producer = value.producer()
    return producer is not None and any(
        _leads_to(each, weight, steps - 1) for each in producer.inputs
    )


def _values(site: WeightSite, matrix: NDArray[np.floating]) -> NDArray[Any]:
    """Return alpha * W in the 16-bit type that the kernel reads: bfloat16 if the graph does."""
    to = numpy_dtype("bfloat16" if site_dtype(site) == "bfloat16" else "float16")
    with np.errstate(over="ignore"):
        return (matrix * np.float32(_alpha(site.node))).astype(to)


def _alpha(node: ir.Node) -> float:
    alpha = node.attributes.get_float("alpha", 1.0) if node.op_type == "Gemm" else 1.0
    return 1.0 if alpha is None else float(alpha)


def _rows(site: WeightSite) -> int | None:
    """Return N, the most rows of x over the site's nodes, or None where it is not fixed."""
    counts = []
    for node in site.nodes:
        x = node.inputs[0]
        if x is None or x.shape is None:
            return None
        leading = [size for size in x.shape.dims[:-1] if isinstance(size, int)]
        if len(leading) != len(x.shape.dims) - 1:
            return None
        counts.append(math.prod(leading))
    return max(counts)
