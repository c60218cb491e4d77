"""Work in a process of its own, which may raise, crash or hang without taking the benchmark along.

A kernel that reads a wrong address ends every later call of its process on the device, not only its own.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

_STOP_SECONDS = 10.0
_starting = threading.Lock()  # the list of a process's children is not made for threads


class FailedError(Exception):
    """A call did not return; ``fresh`` says that the next one runs in a new process."""

    def __init__(self, reason: str, fresh: bool) -> None:
        super().__init__(reason)
        self.fresh = fresh


class Worker:
    """Calls functions one after the other in one process, in a new one after it was lost.

    Functions are those of modules, arguments and results what can be pickled.
    """

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._process: Any = None
        self._pipe: Connection | None = None

    def call(self, function: Callable[..., Any], *arguments: Any, seconds: float) -> Any:
        """Return what ``function`` returns.

        Raises
        ------
        FailedError
            If it raises, if its process ends, or if it takes longer than ``seconds``.
        """
        if self._pipe is None:
            self._pipe, theirs = self._context.Pipe()
            self._process = self._context.Process(target=_serve, args=(theirs,), daemon=True)
            with _starting:
                self._process.start()
            theirs.close()
        try:
            self._pipe.send((function, arguments))
            if not self._pipe.poll(seconds):
                self.close(patience=0.0)
                raise FailedError(f"no result within {seconds:.0f} s", fresh=True)
            result, error, usable = self._pipe.recv()
        except (EOFError, OSError):  # it ended: now, or after its last answer
            self._process.join(_STOP_SECONDS)
            code = self._process.exitcode
            self.close(patience=0.0)
            raise FailedError(f"its process ended with {code}", fresh=True) from None
        if not usable:
            self.close(patience=0.0)
        if error is not None:
            raise FailedError(error, fresh=not usable)
        return result

    def close(self, patience: float = _STOP_SECONDS) -> None:
        """End the process; one that still works after ``patience`` seconds is killed."""
        if self._pipe is None:
            return
        with contextlib.suppress(OSError):
            self._pipe.send(None)
        self._process.join(patience)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(_STOP_SECONDS)
        self._pipe.close()
        self._pipe = None

    def kill(self) -> None:
        """End the process from another thread than the one that calls, which then learns of it."""
        if (process := self._process) is not None:
            process.kill()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _serve(pipe: Connection) -> None:
    while (task := pipe.recv()) is not None:
        function, arguments = task
        answer: tuple[Any, str | None, bool]
        try:
            answer = (function(*arguments), None, True)
        except Exception as error:  # whatever it is, the next call may do better
            text = f"{type(error).__name__}: {error}".strip()
            answer = (None, text[:1000], _device_works())
        pipe.send(answer)
        if not answer[2]:
            os._exit(1)


def _device_works() -> bool:
    """Whether the device still takes work from this process; true before its first use."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return True
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True
