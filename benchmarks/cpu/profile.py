"""Where the time of a lowered model goes: operators of its plans, and ONNX Runtime's nodes."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from sparsec.backends.cpu.library import LoadedPlan, library_path
from sparsec.backends.cpu.plan import NONE, Blocks, OpCode, Plan
from sparsec.ir.run import Feeds, OrtRunner

_RUNS = 40


def profile(model: ir.Model, feeds: Feeds) -> dict[str, float]:
    """Return seconds by kind of work on one thread, the least of 40 runs.

    Parameters
    ----------
    model : ir.Model
        With ``sparsec::Region`` nodes, whose plans are run alone on the operands that they get.
    """
    regions = [node for node in model.graph if node.domain == "sparsec"]
    found: dict[str, float] = {}
    probe = model.clone()
    wanted = [v.name or "" for node in regions for v in node.inputs[1:] if v is not None]
    inside = {v.name: v for node in probe.graph for v in node.outputs}
    known = {v.name for v in probe.graph.outputs}
    probe.graph.outputs.extend(
        inside[name] for name in dict.fromkeys(wanted) if name in inside and name not in known
    )
    library = library_path()
    assert library is not None
    data = dict(feeds) | OrtRunner(probe, libraries=[library]).run(feeds)
    for node in regions:
        weights = node.inputs[0]
        assert weights is not None
        assert weights.const_value is not None
        for part, seconds in _region(weights.const_value.numpy(), node, data).items():
            found[part] = found.get(part, 0.0) + seconds
    for part, seconds in _nodes(model, feeds, library).items():
        found[part] = found.get(part, 0.0) + seconds
    return found


def _region(plan: np.ndarray, node: ir.Node, data: Feeds) -> dict[str, float]:
    operands = [
        np.ascontiguousarray(data[v.name or ""] if v.const_value is None else v.const_value.numpy())
        for v in node.inputs[1:]
        if v is not None
    ]
    loaded = LoadedPlan(plan)
    run = loaded.prepare(*operands)
    least = np.full(loaded.ops + 2, np.inf)
    for _ in range(_RUNS):
        seconds = np.zeros(loaded.ops + 2)
        run(seconds)
        least = np.minimum(least, seconds)
    read = Plan.from_bytes(plan.tobytes())
    found = {"region: read inputs": least[-2], "region: write outputs": least[-1]}
    for op, seconds in zip(read.ops, least, strict=False):
        sparse = op.weight != NONE and isinstance(read.tensors[op.weight], Blocks)
        kind = {OpCode.LINEAR: "product", OpCode.CONV: "window product"}.get(op.code)
        name = (
            f"region: {'sparse' if sparse else 'dense'} {kind}"
            if kind
            else f"region: {op.code.name.lower()}"
        )
        found[name] = found.get(name, 0.0) + seconds
    return found


def _nodes(model: ir.Model, feeds: Feeds, library: Path) -> dict[str, float]:
    """Return what ONNX Runtime's own nodes take, from its profile."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_profiling = True
    options.register_custom_ops_library(str(library))
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options)
        for _ in range(_RUNS):
            session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    took: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            kind = event["args"]["op_name"]
            if kind != "Region":
                took.setdefault((kind, event["name"]), []).append(event["dur"] * 1e-6)
    found: dict[str, float] = {}
    for (kind, _), seconds in took.items():
        found[f"ONNX Runtime: {kind}"] = found.get(f"ONNX Runtime: {kind}", 0.0) + min(seconds)
    return found
