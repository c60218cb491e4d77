"""What machine this is: a fingerprint that says when two times may be compared."""

from __future__ import annotations

import platform
from typing import Any

from sparsec.ir.machine import available_cpus, cpu_name


def fingerprint() -> dict[str, Any]:
    """Return what a measured time depends on: processor, its features, system, runtime version."""
    import onnxruntime

    from sparsec.backends.cpu.library import features, why_no_library

    return {
        "cpu": cpu_name(),
        "cpus": available_cpus(),
        "features": [] if why_no_library() else list(features()),
        "system": f"{platform.system()} {platform.machine()}",
        "onnxruntime": onnxruntime.__version__,
    }
