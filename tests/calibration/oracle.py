"""What statistics must be: the graph run at once, everything exposed, and float64 numpy, row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import onnx_ir as ir

from sparsec.ir.run import OrtRunner
from sparsec.ir.sites import WeightSite


def exposed(model: ir.Model, values: Sequence[ir.Value], feeds: Sequence[Mapping[str, np.ndarray]]):
    """Return every value of the main graph, for each sample, from one plain run of the whole graph."""
    inputs = {value.name for value in model.graph.inputs}
    before = list(model.graph.outputs)
    wanted = [v for v in dict.fromkeys(values) if v.name not in inputs and v not in before]
    try:
        model.graph.outputs.extend(wanted)
        runner = OrtRunner(model, optimise=False)
    finally:
        del model.graph.outputs[len(before) :]
    return [{**feed, **runner.run(feed)} for feed in feeds]


def rows(site: WeightSite, x: np.ndarray) -> np.ndarray:
    """Return what the rows of the site's matrix are multiplied with: float64 [groups, rows, columns]."""
    node, x = site.node, x.astype(np.float64)
    if node.op_type == "Conv":
        return _patches(site, x)
    if node.op_type == "Gemm":
        first = node.inputs[0].name == x_name(site)
        transposed = bool(node.attributes.get_int("transA" if first else "transB", 0))
        return (x.T if transposed == first else x)[None]
    weight_first = node.inputs[1].name == x_name(site)
    x = np.swapaxes(x, -1, -2) if weight_first else x
    if site.layout.groups == 1:
        return x.reshape(1, -1, x.shape[-1])
    lead = site.operand_shape[:-2]
    full = np.broadcast_to(x, (*np.broadcast_shapes(x.shape[:-2], lead), *x.shape[-2:]))
    matrix = (slice(None), slice(None))
    parts = [full[(..., *index, *matrix)] for index in product(*map(range, lead))]
    return np.array([part.reshape(-1, x.shape[-1]) for part in parts])


def x_name(site: WeightSite) -> str:
    """Return the name of the input of the first use that is not the weight."""
    constant = {site.weight.name} | {u.outputs[0].name for u, _ in site.weight.uses()}
    return next(v.name for v in site.node.inputs[:2] if v.name not in constant)


def _patches(site: WeightSite, x: np.ndarray) -> np.ndarray:
    """Collect patches one by one, as the definition of a convolution has it."""
    attributes = site.node.attributes
    kernel = site.operand_shape[2:]
    axes, groups = len(kernel), site.layout.groups
    strides = attributes.get_ints("strides") or [1] * axes
    dilations = attributes.get_ints("dilations") or [1] * axes
    pads = attributes.get_ints("pads") or [0] * (2 * axes)
    x = np.pad(x, [(0, 0), (0, 0), *zip(pads[:axes], pads[axes:], strict=True)])
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    out = [(n - r) // s + 1 for n, r, s in zip(x.shape[2:], reach, strides, strict=True)]
    of_group = x.shape[1] // groups
    found = [[] for _ in range(groups)]
    for image, group in product(range(len(x)), range(groups)):
        channels = x[image, group * of_group : (group + 1) * of_group]
        for place in product(*map(range, out)):
            row = []
            for step in product(*map(range, kernel)):
                at = [
                    p * s + k * d
                    for p, s, k, d in zip(place, strides, step, dilations, strict=True)
                ]
                row.append(channels[(slice(None), *at)])  # channels fastest
            found[group].append(np.concatenate(row))
    return np.array(found)
