"""The artifact on disk: names, version, limits. ``docs/formats/artifact.md`` specifies it."""

from __future__ import annotations

import re

SUFFIX = ".sparsec"
FORMAT = "sparsec-artifact"
VERSION = 1

MANIFEST = "manifest.json"
MODEL = "model.onnx"
MODEL_DATA = "model.onnx.data"
WEIGHTS = "weights.safetensors"
REPORT = "report.html"
CERTIFICATES = "certificates"  # a folder

# A reader refuses more than this before it looks at anything else.
MAX_MANIFEST_BYTES = 64 << 20
MAX_FILES = 100_000
MAX_DEPTH = 8

# Relative, forward slashes, no empty or dotted part: such a path cannot leave the artifact.
_PART = r"(?!\.{1,2}(?:/|$))[A-Za-z0-9_.+-]+"
PATH = re.compile(rf"{_PART}(?:/{_PART})*")

# Tensors from this size on lie outside model.onnx, so that they can be memory-mapped and shared.
EXTERNAL_FROM_BYTES = 1024


def library_path(tag: str) -> str:
    """Return where the CPU library for the platform ``tag`` (``linux-x86_64``) lies."""
    return f"lib/{tag}/libsparsec_cpu.so"
