"""Moving explicit zero padding into the convolution that reads it.

A convolution pads with zeros itself; a separate Pad costs a copy of the whole activation. The two
add up exactly: ``Conv(Pad(x, p), pads=q) == Conv(x, pads=p + q)`` for zero padding of spatial
axes only.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsec.ir.cleanup.operators import has_parameter, is_standard, parameter
from sparsec.ir.cleanup.rewire import display_name


def fold_padding(model: ir.Model) -> list[str]:
    """Fold Pad into the Conv behind it, in place, where that is exact.

    Returns
    -------
    list of str
        Names of the Pad nodes that are gone.
    """
    folded = []
    for conv in list(ir.traversal.RecursiveGraphIterator(model.graph)):
        data = conv.inputs[0] if conv.inputs else None
        pad = data.producer() if data is not None else None
        if pad is None or not is_standard(conv, "Conv") or not is_standard(pad, "Pad"):
            continue
        outer = _zero_padding(pad)
        if outer is None or conv.graph is not pad.graph or pad.graph is None:
            continue
        if conv.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", ""):
            continue
        own = conv.attributes.get_ints("pads") or [0] * len(outer)
        if len(own) != len(outer):
            continue
        total = [int(a) + int(b) for a, b in zip(outer, own, strict=True)]
        conv.attributes["pads"] = ir.AttrInt64s("pads", total)
        conv.replace_input_with(0, pad.inputs[0])
        padded = pad.outputs[0]
        if not padded.uses() and not padded.is_graph_output():
            pad.graph.remove(pad, safe=True)
            folded.append(display_name(pad))
    return folded


def _zero_padding(pad: ir.Node) -> list[int] | None:
    """Return the pads of the spatial axes [begins..., ends...]; None if Pad does anything else."""
    pads = parameter(pad, 1, "pads")
    if pads is None or pads.ndim != 1 or pads.size < 6 or pads.size % 2 or np.any(pads < 0):
        return None
    if pad.attributes.get_string("mode", "constant") != "constant":
        return None
    if has_parameter(pad, 3, "axes"):
        return None
    if has_parameter(pad, 2, "value"):
        value = parameter(pad, 2, "value")
        if value is None or np.any(value != 0):
            return None
    begins, ends = pads[: pads.size // 2], pads[pads.size // 2 :]
    if np.any(begins[:2]) or np.any(ends[:2]):
        return None
    return [*begins[2:].tolist(), *ends[2:].tolist()]
