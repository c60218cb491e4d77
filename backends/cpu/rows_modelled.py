"""What became of each weight site where a model decided, in the words of the report."""

from __future__ import annotations

from collections.abc import Iterable

from sparsec.backends.cpu.choose_modelled import Cost, ModelledOutcome
from sparsec.backends.cpu.cost_model import CostModel
from sparsec.backends.cpu.rows import DENSE_KERNEL, dense_row, no_kernel, what_would_pay
from sparsec.ir.codes import Code
from sparsec.ir.layers import CostEntry, LayerRow
from sparsec.ir.sites import Sites, WeightSite, sparsity


def modelled_row(site: WeightSite, outcome: ModelledOutcome, costs: CostModel) -> LayerRow:
    """Return the row of one site."""
    row, pattern = dense_row(site), site.pattern
    if pattern is None:
        return row
    tried = outcome.tried.get(site.name)
    if tried is None:
        row.code, row.reason = Code.NO_KERNEL, no_kernel(site)
        return row
    alone = tried.layers[site.name]
    if costs.in_seconds:
        row.dense_seconds, row.sparse_seconds = alone.dense, alone.sparse
    count = len(tried.region.items)
    what = "" if count == 1 else f"the products of a region of {count} operators, "
    said = f"{costs.basis}: {what}{_ratio(tried.cost, costs)}"
    if tried in outcome.kept:
        row.kernel, row.code, row.reason = tried.kernels[site.name], Code.MODELLED, said
    else:
        row.code = Code.MODELLED_SLOWER
        row.reason = f"{said}; {what_would_pay(pattern, row.sparsity)}"
    return row


def modelled_entries(
    sites: Sites, outcome: ModelledOutcome, costs: CostModel, threads: int
) -> Iterable[CostEntry]:
    """Yield the modelled times of every layer, dense and sparse; none where costs are no times."""
    if not costs.in_seconds:
        return
    for site in sites:
        tried = outcome.tried.get(site.name)
        if tried is None:
            continue
        cost, zeros = tried.layers[site.name], sparsity(site.matrix())
        for kernel, seconds in (
            (DENSE_KERNEL, cost.dense),
            (tried.kernels[site.name], cost.sparse),
        ):
            yield CostEntry(
                site.op, site.shape, str(site.pattern), zeros, kernel, threads, seconds, "modelled"
            )


def _ratio(cost: Cost, costs: CostModel) -> str:
    text = f"{cost.ratio:.2f} times the dense speed"
    if not costs.in_seconds:
        return text
    return f"{text} ({cost.sparse * 1e3:.3f} against {cost.dense * 1e3:.3f} ms on one thread)"
