"""What became of each weight site, in the words of the report."""

from __future__ import annotations

from collections.abc import Iterable

from sparsec.backends.cpu.candidate import Candidate
from sparsec.backends.cpu.choose import Outcome, sites_of
from sparsec.backends.cpu.recognise import is_quantised
from sparsec.ir.codes import Code
from sparsec.ir.layers import CostEntry, LayerRow
from sparsec.ir.patterns import Block, Pattern
from sparsec.ir.sites import WeightSite, sparsity

DENSE_KERNEL = "onnxruntime"


def dense_row(site: WeightSite) -> LayerRow:
    """Return the row of a site that stays with ONNX Runtime."""
    return LayerRow(
        name=site.name,
        op=site.op,
        shape=site.shape,
        pattern=site.pattern_text,
        sparsity=sparsity(site.matrix()),
        kernel=DENSE_KERNEL,
        code=Code.DENSE,
        reason="not pruned",
    )


def layer_row(site: WeightSite, outcome: Outcome) -> LayerRow:
    """Return the row of one site."""
    row, pattern = dense_row(site), site.pattern
    if pattern is None:
        return row
    alone, region = outcome.layers.get(site.name), outcome.regions.get(site.name)
    if alone is not None:
        row.dense_seconds, row.sparse_seconds = alone.dense_seconds, alone.sparse_seconds
    home = next((c for c in outcome.kept if site in sites_of(c.region)), None)
    if home is not None:
        row.kernel, row.code = home.kernels[site.name], Code.MEASURED_FASTER
        count = len(home.region.items)
        row.reason = (
            f"{_ratio(home)}" if count == 1 else f"in a region of {count} operators: {_ratio(home)}"
        )
    elif alone is not None or region is not None:
        tried = alone if alone is not None else region
        assert tried is not None
        row.code = Code.MEASURED_SLOWER
        if tried.gains:
            row.reason = f"alone {_ratio(tried)}, but the whole model was not faster with it"
        else:
            row.reason = f"{_ratio(tried)}; {what_would_pay(pattern, row.sparsity)}"
    else:
        row.code = Code.SHAPE_UNSUPPORTED if site.name in outcome.expressible else Code.NO_KERNEL
        row.reason = no_kernel(site)
    return row


def no_kernel(site: WeightSite) -> str:
    """Return why no plan can hold a site."""
    if is_quantised(site):
        return "its weight is quantised and stays so: there are no sparse int8 kernels yet"
    return f"no CPU kernel for this form of {site.op}"


def cost_entries(outcome: Outcome, threads: int) -> Iterable[CostEntry]:
    """Yield the measured times of every layer, dense and sparse."""
    for candidate in outcome.layers.values():
        for site in sites_of(candidate.region):
            zeros, pattern = sparsity(site.matrix()), str(site.pattern)
            for kernel, seconds in (
                (DENSE_KERNEL, candidate.dense_seconds),
                (candidate.kernels[site.name], candidate.sparse_seconds),
            ):
                yield CostEntry(
                    site.op, site.shape, pattern, zeros, kernel, threads, seconds, "measured"
                )


def _ratio(tried: Candidate) -> str:
    ratio = tried.dense_seconds / tried.sparse_seconds
    return (
        f"{ratio:.2f} times the speed of ONNX Runtime's dense form "
        f"({tried.sparse_seconds * 1e3:.3f} against {tried.dense_seconds * 1e3:.3f} ms)"
    )


def what_would_pay(pattern: Pattern, zeros: float) -> str:
    """Return what would make a layer that loses gain."""
    if isinstance(pattern, Block):
        return "a higher sparsity would pay"
    if zeros < 0.6:
        return (
            "unstructured zeros pay from a sparsity of about 0.6 to 0.7 on; "
            "block:rows=4,cols=1 pays earlier"
        )
    return "block:rows=4,cols=1 would pay at this sparsity"
