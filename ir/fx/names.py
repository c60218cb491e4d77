"""Python names for the values of a graph, whose own names may be any text."""

from __future__ import annotations

import keyword
import re

import torch

_BARE = torch.nn.Module()


def identifier(name: str) -> str:
    """Return a Python identifier that resembles a name; the empty string if nothing is left.

    Examples
    --------
    >>> identifier("input:0"), identifier("3"), identifier("class"), identifier("::")
    ('input_0', '_3', '_class', '')
    """
    word = re.sub(r"[^A-Za-z0-9_]", "_", name).strip("_")
    if not word:
        return ""
    return f"_{word}" if word[0].isdigit() or keyword.iskeyword(word) else word


class Names:
    """The names that one module has given away: of FX nodes, parameters and sub-modules."""

    def __init__(self) -> None:
        self._used: set[str] = set()
        self._paths: set[str] = set()

    def unique(self, name: str) -> str:
        """Return an identifier that resembles ``name`` and is given once."""
        base = identifier(name) or "v"
        candidate, count = base, 0
        while candidate in self._used:
            count += 1
            candidate = f"{base}_{count}"
        self._used.add(candidate)
        return candidate

    def path(self, name: str, *, torch_name: bool) -> str:
        """Return an attribute path for a constant: a dotted torch name stays as it is if it can.

        Other names get a prefix: torch's exporter numbers its own values ``val_3``, and would
        confuse them with a parameter of that name.
        """
        parts = name.split(".")
        plain = all(re.fullmatch(r"\w+", p, re.ASCII) and not hasattr(_BARE, p) for p in parts)
        if plain and (torch_name or len(parts) > 1) and not self._clashes(name):
            self._used.add(parts[0])
            self._paths.add(name)
            return name
        return self.unique(name if name.startswith("c_") else f"c_{name}")

    def _clashes(self, name: str) -> bool:
        """Say whether a parameter would have to be a module as well, or is there already."""
        parts = name.split(".")
        if any(".".join(parts[:i]) in self._paths for i in range(1, len(parts) + 1)):
            return True
        if any(path.startswith(f"{name}.") for path in self._paths):
            return True
        return parts[0] in self._used and not any(
            path.partition(".")[0] == parts[0] for path in self._paths
        )
