"""The rounding that packed layers bring, put into a graph of stock operators.

A deep model can answer a change in the last bit of float16 with a change of its outputs far beyond
any tolerance. To tell that from a wrong lowering, the reference has to round where the target does.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from sparsec.backends.cuda.formats.nm24 import DTYPES
from sparsec.backends.cuda.rewrite import Maker, insert_behind
from sparsec.backends.cuda.select import site_dtype
from sparsec.ir.sites import WeightSite, weight_sites


def round_layers(model: ir.Model, names: Collection[str]) -> None:
    """Round weights and x of the named sites to float16, in place; results stay float32.

    Parameters
    ----------
    names : collection of str
        Sites that were packed, as in their layer rows. A 16-bit graph rounds by itself and is left
        as it is.
    """
    make = Maker(model)
    rounded: dict[tuple[ir.Graph, ir.Value], ir.Value] = {}
    for site in weight_sites(model):
        if site.name in names and site_dtype(site) not in DTYPES:
            site.write_matrix(site.matrix().astype(np.float16).astype(np.float32))
            _round_inputs(site, rounded, make)


def _round_inputs(
    site: WeightSite, rounded: dict[tuple[ir.Graph, ir.Value], ir.Value], make: Maker
) -> None:
    for node in site.nodes:
        x, graph = node.inputs[0], node.graph
        assert x is not None
        assert isinstance(graph, ir.Graph)
        if (graph, x) not in rounded:
            narrow = make.node("Cast", [x], f"{x.name}.narrow", to=ir.DataType.FLOAT16)
            wide = make.node("Cast", narrow.outputs, f"{x.name}.rounded", to=ir.DataType.FLOAT)
            insert_behind(x, graph, [narrow, wide])
            rounded[graph, x] = wide.outputs[0]
        node.replace_input_with(0, rounded[graph, x])
