"""Recipes: a compilation as data. The manifest stores one, and ``--recipe`` reads one.

::

    sparsec: 1
    target: cpu
    seed: 0
    calib: null
    eval: null
    goals: [latency=-40%]
    passes:
      - nm24
      - unstructured: {sparsity: 0.9, exclude: [head]}
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from sparsec.goals import Goal
from sparsec.ir.errors import UsageError, did_you_mean
from sparsec.passes.base import Pass
from sparsec.passes.spec import build_pass, parse_spec

VERSION = 1
_KEYS = ("sparsec", "target", "seed", "calib", "eval", "goals", "passes")


@dataclasses.dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides a compilation but the model and the output path."""

    passes: tuple[Pass, ...] = ()
    target: str = "cpu"
    seed: int = 0
    calib: str | None = None
    eval: str | None = None
    goals: tuple[Goal, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as stored in a manifest, every option spelled out."""
        return {
            "sparsec": VERSION,
            "target": self.target,
            "seed": self.seed,
            "calib": self.calib,
            "eval": self.eval,
            "goals": [goal.text for goal in self.goals],
            "passes": [{item.name: item.options()} for item in self.passes],
        }

    @classmethod
    def from_json(cls, data: Any, where: str) -> Recipe:
        """Read a recipe from parsed data.

        Raises
        ------
        UsageError
            If a key is unknown, missing or of the wrong type.
        PassConfigError
            If a pass cannot be built.
        """
        if not isinstance(data, dict):
            raise UsageError(
                f"{where}: a recipe is a mapping, got {type(data).__name__}", where=where
            )
        for key in data:
            if key not in _KEYS:
                raise UsageError(f"{where}: unknown key {key!r}; {did_you_mean(str(key), _KEYS)}",
                                 where=where)  # fmt: skip
        if data.get("sparsec") != VERSION:
            raise UsageError(
                f"{where}: needed 'sparsec: {VERSION}' (the recipe's version), got "
                f"{data.get('sparsec')!r}",
                where=where,
            )
        seed = data.get("seed", 0)
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise UsageError(
                f"{where}: seed must be a whole number from 0, got {seed!r}", where=where
            )
        return cls(
            passes=tuple(_pass(item, where) for item in _list(data, "passes", where)),
            target=_text(data, "target", where) or "cpu",
            seed=seed,
            calib=_text(data, "calib", where),
            eval=_text(data, "eval", where),
            goals=tuple(Goal.parse(str(goal)) for goal in _list(data, "goals", where)),
        )

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read a recipe file.

        Raises
        ------
        UsageError
            If it is missing, no YAML, or no recipe.
        """
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: cannot be read: {error}", where=str(path)) from error
        except yaml.YAMLError as error:
            raise UsageError(
                f"{path}: not valid YAML: {' '.join(str(error).split())}", where=str(path)
            ) from error
        return cls.from_json(data, str(path))


def _list(data: dict[str, Any], key: str, where: str) -> Sequence[Any]:
    value = data.get(key) or []
    if not isinstance(value, list):
        raise UsageError(f"{where}: {key!r} must be a list, got {value!r}", where=where)
    return value


def _text(data: dict[str, Any], key: str, where: str) -> str | None:
    value = data.get(key)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{where}: {key!r} must be a text, got {value!r}", where=where)
    return value


def _pass(item: Any, where: str) -> Pass:
    if isinstance(item, str):
        return parse_spec(item)
    if isinstance(item, dict) and len(item) == 1:
        ((name, options),) = item.items()
        if isinstance(name, str) and isinstance(options or {}, dict):
            return build_pass(name, options or {})
    raise UsageError(
        f"{where}: a pass is a SPEC or one name with its options, got {item!r}", where=where
    )
