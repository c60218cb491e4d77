"""Ending on a signal as on Ctrl-C: what was begun is removed before the process goes."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Terminated(KeyboardInterrupt):
    """The system asked the process to end; code that cleans up after Ctrl-C does so now, too."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number  # what a shell reports of a process that the signal ended


@contextlib.contextmanager
def ending_cleanly() -> Iterator[None]:
    """Raise :class:`Terminated` where a signal would end the process without a word."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # A signal that is ignored (nohup) stays so.
    before = {each: signal.getsignal(each) for each in _SIGNALS}
    ours = [each for each, handler in before.items() if handler is signal.SIG_DFL]
    for each in ours:
        signal.signal(each, _raise)
    try:
        yield
    finally:
        for each in ours:
            signal.signal(each, before[each])


def _raise(number: int, frame: FrameType | None) -> None:
    raise Terminated(number)
