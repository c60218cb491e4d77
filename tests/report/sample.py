"""Manifests for tests: complete, valid, and as different as compilations are."""

from __future__ import annotations

import copy
from typing import Any

_HASH = "0" * 64


def manifest(**changes: Any) -> dict[str, Any]:
    """Return a valid manifest of a measured compilation with ``changes`` in it."""
    layers = [
        layer(f"/encoder/layer.{i}/{part}/MatMul", shape, times)
        for i in range(6)
        for part, shape, times in (
            ("query", (384, 384), (2.1e-4, 1.2e-4)),
            ("intermediate", (1536, 384), (8.4e-4, 3.9e-4)),
            ("output", (384, 1536), (8.2e-4, 4.4e-4)),
        )
    ]
    layers.append(
        layer("/embeddings/Gather", (30522, 384), None)
        | {"pattern": "dense", "sparsity": 0.0, "kernel": "onnxruntime", "code": "no_kernel",
           "reason": "Gather reads rows, it multiplies nothing"}
    )  # fmt: skip
    layers.append(
        layer("/pooler/Gemm", (384, 384), (1.0e-5, 1.3e-5))
        | {"kernel": "onnxruntime", "code": "measured_slower",
           "reason": "sparse 0.013 ms, dense 0.010 ms at one row"}
    )  # fmt: skip
    sample: dict[str, Any] = {
        "format": "sparsec-artifact",
        "format_version": 1,
        "sparsec": "0.1.0",
        "tools": {"numpy": "2.4.6", "onnxruntime": "1.31.1"},
        "min_ort": "1.18",
        "target": "cpu",
        "backend": "cpu",
        "source": {"name": "minilm.onnx", "sha256": _HASH, "bytes": 90_900_000, "data": {}},
        "recipe": {
            "sparsec": 1,
            "target": "cpu",
            "seed": 0,
            "calib": None,
            "eval": None,
            "goals": ["latency=-30%"],
            "passes": [{"unstructured": {"sparsity": 0.9, "exclude": []}}],
        },
        "inputs": [{"name": "ids", "dtype": "int64", "shape": ["batch", 128]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", 384]}],
        "passes": [
            {
                "name": "unstructured",
                "options": {"sparsity": 0.9, "scope": "layer", "exclude": []},
                "changed": [row["name"] for row in layers if row["sparsity"]],
                "skipped": [
                    {"site": "/embeddings/Gather", "code": "not_a_site", "reason": "Gather"}
                ],
                "notes": {"sparsity": 0.9},
            },
            {
                "name": "channel",
                "options": {"sparsity": 0.5},
                "changed": ["/conv"],
                "skipped": [{"site": "/head", "code": "barrier", "reason": "it is an output"}],
                "notes": {"units": 24},
                "groups": [
                    {"name": "/conv", "units": 48, "kept": 24, "code": None, "reason": None},
                    {"name": "/stem", "units": 8, "kept": 8, "code": "rounded",
                     "reason": "its 8 units are too few"},
                    {"name": "/head", "units": 10, "kept": 10, "code": "barrier",
                     "reason": "it is an output"},
                ],
            },
        ],
        "layers": layers,
        "kernels": [],
        "certificates": [],
        "lowering_notes": [],
        "verify": {
            "passed": True,
            "samples": 2,
            "max_abs": 3.1e-6,
            "max_rel": 1.4e-6,
            "tolerance": 1e-4,
            "with": "device",
        },
        "fidelity": {"cosine": 0.968, "agreement": 0.91},
        "accuracy": {"before": {"top1": 0.8412}, "after": {"top1": 0.8297}},
        "before": {"params": 22_700_000, "nonzero": 22_700_000, "bytes": 90_900_000,
                   "macs": 1_390_000_000},
        "after": {"params": 22_700_000, "nonzero": 13_100_000, "bytes": 57_400_000,
                  "macs": 1_390_000_000},
        "latency": {
            "dense_ms": 24.31,
            "sparse_ms": 16.92,
            "speedup": 1.437,
            "speedup_p10": 1.39,
            "speedup_p90": 1.48,
            "rounds": 11,
            "threads": 1,
            "machine": {
                "cpu": "AMD EPYC 7B13",
                "cpus": 2,
                "features": ["avx2", "portable"],
                "system": "Linux x86_64",
                "onnxruntime": "1.31.1",
            },
        },
        "goals": [{"goal": "latency=-30%", "before": 24.31, "after": 16.92, "met": True}],
        "notes": [],
        "exit_code": 0,
        "files": {"model.onnx": {"sha256": _HASH, "bytes": 1}},
    }  # fmt: skip
    return copy.deepcopy(sample) | changes


def layer(name: str, shape: tuple[int, int], times: tuple[float, float] | None) -> dict[str, Any]:
    """Return the row of a layer with a sparse kernel."""
    row: dict[str, Any] = {
        "name": name,
        "op": "MatMul",
        "shape": list(shape),
        "pattern": "unstructured",
        "sparsity": 0.9,
        "kernel": "f32_spmm_unstructured_8x6__avx2",
        "code": "measured_faster",
        "reason": "measured faster than ONNX Runtime",
    }
    if times:
        row |= {"dense_seconds": times[0], "sparse_seconds": times[1]}
    return row
