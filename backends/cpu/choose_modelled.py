"""Which regions to keep for a machine that is not this one: a cost model decides, nothing is timed.

Only the products with weights are counted. What else is in a region takes about as long in ONNX Runtime
as in a plan, so that it changes no decision; the ratio said of a region is that of its products.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import onnx_ir as ir

from sparsec.backends.base import LowerContext
from sparsec.backends.cpu.assemble import Region, build_plan, region_of
from sparsec.backends.cpu.choose import is_sparse, sites_of
from sparsec.backends.cpu.cost_model import DENSE, CostModel, Product
from sparsec.backends.cpu.items import Item, Scene
from sparsec.backends.cpu.kernels import columns_of, elements_of, is_direct, site_kernels
from sparsec.backends.cpu.observe import observe_shapes
from sparsec.backends.cpu.plan import Blocks, Kind, OpCode, Tensor
from sparsec.backends.cpu.recognise import recognise
from sparsec.backends.cpu.regions import grow_regions
from sparsec.ir.sites import Sites


@dataclasses.dataclass(frozen=True, slots=True)
class Cost:
    """Of something dense in ONNX Runtime, and of the same in a plan."""

    dense: float = 0.0
    sparse: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.dense + other.dense, self.sparse + other.sparse)

    @property
    def ratio(self) -> float:
        """How many times the dense speed the plan has."""
        return self.dense / self.sparse if self.sparse else float("inf")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Modelled:
    """A region with its plan and what the model says of it.

    Parameters
    ----------
    layers : mapping of site name to Cost
        Of each pruned site in the region.
    kernels : mapping of site name to str
        What would run each.
    """

    region: Region
    plan: bytes
    cost: Cost
    layers: dict[str, Cost]
    kernels: Mapping[str, str]


@dataclasses.dataclass(slots=True)
class ModelledOutcome:
    """What was decided: the regions that go into the graph, and those that were tried and do not."""

    kept: list[Modelled] = dataclasses.field(default_factory=list)
    tried: dict[str, Modelled] = dataclasses.field(default_factory=dict)


def choose_modelled(
    model: ir.Model, sites: Sites, context: LowerContext, costs: CostModel
) -> ModelledOutcome:
    """Keep the maximal regions that the model says gain; of rows, also single layers of the others."""
    context.progress("look for regions", 0.0)
    scene = Scene(model, observe_shapes(model, context.feeds))
    outcome = ModelledOutcome()
    grown = grow_regions(scene, recognise(scene, sites), is_sparse)
    for done, region in enumerate(grown):
        context.progress("model regions", done / len(grown))
        whole = _modelled(scene, region, costs)
        candidates = [whole]
        # A layer on images alone would take the network around it out of ONNX Runtime's own layout,
        # which costs more than it gains.
        if not _gains(whole, costs) and region.items[0].kind is Kind.ROWS:
            singles = [region_of([item]) for item in region.items if is_sparse(item)]
            candidates += [_modelled(scene, single, costs) for single in singles]
        for candidate in candidates:
            outcome.tried |= {site.name: candidate for site in sites_of(candidate.region)}
            if _gains(candidate, costs):
                outcome.kept.append(candidate)
    return outcome


def _gains(candidate: Modelled, costs: CostModel) -> bool:
    return candidate.cost.dense > costs.margin * candidate.cost.sparse


def _modelled(scene: Scene, region: Region, costs: CostModel) -> Modelled:
    plan = build_plan(scene, region)
    direct = is_direct(scene, region, plan)
    border = 0 if direct else sum(elements_of(scene, v) for v in (*region.inputs, *region.outputs))
    total = Cost(0.0, costs.border(border))
    layers: dict[str, Cost] = {}
    for item, op in zip(region.items, plan.ops, strict=True):
        if item.code not in (OpCode.LINEAR, OpCode.CONV):
            continue
        product = _product(scene, item, plan.tensors[op.weight], direct)
        dense = costs.dense(product)
        cost = Cost(dense, dense if product.block_rows == DENSE else costs.sparse(product))
        total += cost
        if item.site is not None and is_sparse(item):
            layers[item.site.name] = cost
    kernels = site_kernels(scene, region, plan)
    return Modelled(region, plan.to_bytes(), total, layers, kernels)


def _product(scene: Scene, item: Item, weight: Tensor, direct: bool) -> Product:
    rows, reduction = item.tensors["weight"].shape
    block_rows, kept = DENSE, rows * reduction
    if isinstance(weight, Blocks):
        block_rows, kept = weight.block_rows, weight.values.size
    return Product(rows, reduction, columns_of(scene, item), block_rows, kept, direct)
