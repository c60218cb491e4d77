"""What became of each weight site, in the words of the report."""

from __future__ import annotations

from sparsec.backends.cpu.choose import Candidate
from sparsec.ir.codes import Code
from sparsec.ir.layers import LayerRow
from sparsec.ir.patterns import Block, Pattern
from sparsec.ir.sites import WeightSite, sparsity

DENSE_KERNEL = "onnxruntime"


def kernel_name(pattern: Pattern | None) -> str:
    """Return the family of microkernels that a pattern runs on."""
    if isinstance(pattern, Block) and pattern.rows in (2, 4, 8):
        return f"f32_spmm_block{pattern.rows}x1"
    return "f32_spmm_unstructured"


def layer_row(
    site: WeightSite, tried: Candidate | None, chosen: bool, expressible: bool
) -> LayerRow:
    """Return the row of one site.

    Parameters
    ----------
    tried : Candidate, optional
        The layer alone against ONNX Runtime, if it was timed.
    chosen : bool
        Whether a region holds the layer.
    expressible : bool
        Whether a plan could hold it.
    """
    pattern = site.pattern
    zeros = sparsity(site.matrix())
    row = LayerRow(
        name=site.name,
        op=site.op,
        shape=site.shape,
        pattern="dense" if pattern is None else str(pattern),
        sparsity=zeros,
        kernel=DENSE_KERNEL,
        code=Code.DENSE,
        reason="not pruned",
    )
    if tried is not None:
        row.dense_seconds, row.sparse_seconds = tried.dense_seconds, tried.sparse_seconds
    if chosen:
        row.kernel, row.code = kernel_name(pattern), Code.MEASURED_FASTER
        row.reason = _ratio(tried) if tried is not None else "inside a region that measures faster"
    elif pattern is not None and tried is not None:
        row.code = Code.MEASURED_SLOWER
        row.reason = f"{_ratio(tried)}; {_what_would_pay(pattern, zeros)}"
    elif pattern is not None:
        row.code = Code.SHAPE_UNSUPPORTED if expressible else Code.NO_KERNEL
        row.reason = f"no CPU kernel for this form of {site.op}"
    return row


def _ratio(tried: Candidate) -> str:
    ratio = tried.dense_seconds / tried.sparse_seconds
    return (
        f"{ratio:.2f} times the speed of ONNX Runtime's dense layer "
        f"({tried.sparse_seconds * 1e3:.3f} against {tried.dense_seconds * 1e3:.3f} ms)"
    )


def _what_would_pay(pattern: Pattern, zeros: float) -> str:
    if isinstance(pattern, Block):
        return "a higher sparsity would pay"
    if zeros < 0.6:
        return "unstructured zeros pay from a sparsity of about 0.6 to 0.7 on; block:rows=4,cols=1 pays earlier"
    return "block:rows=4,cols=1 would pay at this sparsity"
