"""Times that were taken before: one file for each machine in the folder of ``--cache``.

A time is found again by what was timed (shapes, wiring, patterns, sparsities, kernels), and holds on the
machine, with the library and with the ONNX Runtime that it was taken with: all of these name the file. A
file that is damaged is as good as none.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime as ort

from sparsec.backends.cpu.library import features, library_path
from sparsec.ir.machine import available_cpus, cpu_name

_FORMAT = 1
Seconds = Mapping[str, float]


def machine() -> dict[str, Any]:
    """Return what times depend on: the processor, the library, the runtime they are compared with."""
    path = library_path()
    assert path is not None
    return {
        "cpu": cpu_name(),
        "cpus": available_cpus(),
        "isa": features()[0],
        "system": f"{platform.system()} {platform.machine()}",
        "library": hashlib.sha256(path.read_bytes()).hexdigest()[:16],
        "onnxruntime": ort.__version__,
    }


class Times:
    """Seconds by contestant, for each contest that was held.

    Parameters
    ----------
    folder : Path, optional
        Where files of all machines lie; None keeps the times in memory only.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.machine = machine()
        self.taken = 0  # contests that were held
        self.recalled = 0  # answers from memory or the file, to what was held just now too
        self._held: dict[str, Seconds] = {}
        self._file: Path | None = None
        if folder is not None:
            self._file = folder / f"cpu-times-{_digest(self.machine)[:16]}.json"
            self._held.update(self._stored())

    def get(self, what: object) -> Seconds | None:
        """Return the times of a contest; None if it was not held yet.

        Parameters
        ----------
        what : object
            Says by its repr what was timed, and nothing else.
        """
        seconds = self._held.get(_digest(what))
        self.recalled += seconds is not None
        return seconds

    def add(self, what: object, seconds: Seconds) -> None:
        """Remember the times of a contest."""
        self._held[_digest(what)] = dict(seconds)
        self.taken += 1

    def save(self) -> None:
        """Write what is new, beside what another compilation may have written meanwhile."""
        if self._file is None or not self.taken:
            return
        times = self._stored() | self._held
        text = json.dumps({"format": _FORMAT, "machine": self.machine, "times": times}, indent=1)
        draft = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        draft.write_text(text, encoding="utf-8")
        draft.replace(self._file)

    def _stored(self) -> dict[str, Seconds]:
        assert self._file is not None
        try:
            data = json.loads(self._file.read_text(encoding="utf-8"))
            if data["format"] != _FORMAT or data["machine"] != self.machine:
                return {}
            return {
                str(key): {str(name): _positive(time) for name, time in times.items()}
                for key, times in data["times"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}


def _positive(value: Any) -> float:
    if not isinstance(value, float) or not 0 < value < float("inf"):
        raise ValueError("no time")
    return value


def _digest(what: object) -> str:
    text = json.dumps(what, sort_keys=True) if isinstance(what, dict) else repr(what)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
