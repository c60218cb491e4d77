"""One registry for everything that can be extended: passes, criteria, rules, targets, backends.

Built-ins are listed by name and imported when they are first asked for, so that listing them costs
nothing. Plug-ins are found through the entry points of installed distributions; a name that two
distributions claim, and a plug-in that does not import, are errors that say so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from sparsec.ir.errors import SparsecError, UsageError, did_you_mean

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """Where a registered object comes from."""

    name: str
    target: str  # "module:attribute"
    distribution: str


class Registry(Generic[T]):
    """Names of one kind of object, loaded lazily.

    Parameters
    ----------
    kind : str
        What the objects are, in the singular, for messages: ``"pass"``.
    group : str
        Entry-point group that plug-ins use: ``"sparsec.passes"``.
    builtins : mapping of name to ``"module:attribute"``
    check : callable, optional
        Given the name and the loaded object; raises if the object is not fit for use.
    error : type of SparsecError
        Raised for an unknown name.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        builtins: Mapping[str, str],
        check: Callable[[str, T], None] | None = None,
        error: type[SparsecError] = UsageError,
    ) -> None:
        self.kind = kind
        self.group = group
        self._builtins = dict(builtins)
        self._check = check
        self._error = error
        self._entries: dict[str, Entry] | None = None
        self._loaded: dict[str, T] = {}

    def entries(self) -> Mapping[str, Entry]:
        """Return every known name with its origin; nothing is imported."""
        if self._entries is None:
            found = {name: Entry(name, at, "sparsec") for name, at in self._builtins.items()}
            for point in entry_points(group=self.group):
                dist = point.dist.name if point.dist else "an unknown distribution"
                if (other := found.get(point.name)) and other.target != point.value:
                    raise SparsecError(
                        f"two distributions provide the {self.kind} {point.name!r}: "
                        f"{other.distribution} and {dist}; uninstall or rename one",
                        where=point.name,
                    )
                found[point.name] = Entry(point.name, point.value, dist)
            self._entries = found
        return self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.entries()))

    def __contains__(self, name: object) -> bool:
        return name in self.entries()

    def get(self, name: str) -> T:
        """Return the object called ``name``, importing it if need be.

        Raises
        ------
        SparsecError
            If the name is unknown (with a suggestion), or a plug-in cannot be imported.
        """
        if name in self._loaded:
            return self._loaded[name]
        entry = self.entries().get(name)
        if entry is None:
            raise self._error(
                f"unknown {self.kind} {name!r}; {did_you_mean(name, self.entries())}", where=name
            )
        try:
            loaded: T = EntryPoint(name, entry.target, self.group).load()
        except Exception as error:
            if entry.distribution == "sparsec":
                raise
            raise SparsecError(
                f"the {self.kind} {name!r} of the distribution {entry.distribution} cannot be "
                f"imported from {entry.target}: {type(error).__name__}: {error}",
                where=entry.distribution,
            ) from error
        if self._check:
            self._check(name, loaded)
        self._loaded[name] = loaded
        return loaded
