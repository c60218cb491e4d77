"""Device memory that is zero before a launch, and that the launch leaves zero.

It comes from the driver, not from torch: during a capture, and in the warm-up of one, torch hands out
memory of the graph, which the graph would have to zero in every replay and which ends with it.
"""

from __future__ import annotations

import threading

from sparsec.backends.cuda.loader import Driver

_PUT_ASIDE = 1 << 20  # bytes: some thousand launches
_BORDER = 128  # bytes, where a piece starts


class Zeros:
    """Zeroed memory on one device.

    Launches of one stream follow each other and share a piece. A launch in a graph has a piece of its own,
    for graphs may be replayed beside each other; it is given away for good, since nothing tells when a
    graph is gone.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver, self._lock = driver, threading.Lock()
        self._next, self._left = 0, 0
        self._of_stream: dict[tuple[int, int], int] = {}

    def of_stream(self, stream: int, nbytes: int) -> int:
        """Return the address for launches on a stream; not to be called during a capture."""
        with self._lock:
            key = stream, nbytes
            if key not in self._of_stream:
                self._of_stream[key] = self._take(nbytes) or self._put_aside(nbytes)
            if self._left < _PUT_ASIDE // 2:
                self._next, self._left = self._allocated(_PUT_ASIDE), _PUT_ASIDE
            return self._of_stream[key]

    def of_graph(self, nbytes: int) -> int | None:
        """Return an address that nobody else gets; None if too little was put aside before the capture."""
        with self._lock:
            return self._take(nbytes) or None

    def _take(self, nbytes: int) -> int:
        size = -(-nbytes // _BORDER) * _BORDER
        if size > self._left:
            return 0
        address = self._next
        self._next, self._left = address + size, self._left - size
        return address

    def _put_aside(self, nbytes: int) -> int:
        self._next, self._left = self._allocated(size := max(nbytes, _PUT_ASIDE)), size
        return self._take(nbytes)

    def _allocated(self, nbytes: int) -> int:
        address = self._driver.allocate(nbytes)
        self._driver.zero(address, nbytes)
        return address
