"""Goals: ``metric=change``, such as ``latency=-40%`` or ``top1=-0.01``.

For what should shrink (latency, bytes, macs, params, nonzero) the change is to be reached at least.
For a quality the change is what may be lost at most; a quality that grows when it gets worse
(perplexity) has a positive one.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from sparsec.ir.errors import UsageError, did_you_mean

COSTS = ("latency", "bytes", "macs", "params", "nonzero")

_EXPR = re.compile(
    r"(?P<metric>[A-Za-z][\w.-]*)=(?P<change>[+-]?(?:\d+\.?\d*|\.\d+))(?P<percent>%?)"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Goal:
    """One goal.

    Parameters
    ----------
    text : str
        As given.
    metric : str
    change : float
        Wanted change: a fraction of the value before if ``relative``, else an absolute one.
    relative : bool
    """

    text: str
    metric: str
    change: float
    relative: bool

    @classmethod
    def parse(cls, text: str) -> Goal:
        """Read an expression.

        Raises
        ------
        UsageError
            If it is none, or can never be missed or met.

        Examples
        --------
        >>> Goal.parse("latency=-40%")
        Goal(text='latency=-40%', metric='latency', change=-0.4, relative=True)
        """
        match = _EXPR.fullmatch(text.strip())
        if match is None:
            raise UsageError(
                f"goal {text!r}: write metric=change, such as latency=-40% or top1=-0.01",
                where=text,
            )
        change = float(match["change"]) / (100 if match["percent"] else 1)
        if match["metric"] in COSTS and change >= 0:
            raise UsageError(
                f"goal {text!r}: {match['metric']} is to shrink, so its change must be negative",
                where=text,
            )
        if match["metric"] in COSTS and match["percent"] and change < -1:
            raise UsageError(
                f"goal {text!r}: nothing shrinks by more than 100 %; for half as much write "
                f"{match['metric']}=-50%",
                where=text,
            )
        return cls(text.strip(), match["metric"], change, bool(match["percent"]))

    @property
    def is_cost(self) -> bool:
        """Whether the metric is to shrink by at least the change."""
        return self.metric in COSTS

    def check(self, before: float | None, after: float | None) -> dict[str, Any]:
        """Compare the values with the goal.

        Returns
        -------
        dict
            ``{"goal", "before", "after", "met"}``; met is None if a value is unknown.
        """
        met: bool | None = None
        if before is not None and after is not None:
            change = after - before
            if self.relative:
                change = change / abs(before) if before else 0.0
            grows = "=+" in self.text  # +0 says so too, which the number has no sign for
            worse_is_more = self.is_cost or grows or self.change > 0
            slack = 1e-9 * max(1.0, abs(self.change))
            met = change <= self.change + slack if worse_is_more else change >= self.change - slack
        return {"goal": self.text, "before": before, "after": after, "met": met}


def check_measurable(goals: tuple[Goal, ...], evaluates: bool) -> None:
    """Refuse goals of a quality before any work is done, if nothing will be evaluated.

    Raises
    ------
    UsageError
    """
    for goal in goals:
        if not (goal.is_cost or evaluates):
            known = did_you_mean(goal.metric, COSTS)
            raise UsageError(
                f"goal {goal.text!r}: {goal.metric!r} is no cost ({known}); give --eval SOURCE to "
                "have it evaluated",
                where=goal.text,
            )


def check_goals(
    goals: tuple[Goal, ...],
    before: Mapping[str, float],
    after: Mapping[str, float],
    latency: Mapping[str, Any] | None,
    accuracy: Mapping[str, Mapping[str, float]] | None,
) -> list[dict[str, Any]]:
    """Compare every goal with what was reached.

    Raises
    ------
    UsageError
        If a goal names a quality that was not evaluated.
    """
    results = []
    for goal in goals:
        old: float | None
        new: float | None
        if goal.metric == "latency":
            old, new = (latency["dense_ms"], latency["sparse_ms"]) if latency else (None, None)
        elif goal.is_cost:
            old, new = before.get(goal.metric), after.get(goal.metric)
        else:
            known = accuracy["before"] if accuracy else {}
            if goal.metric not in known:
                have = ", ".join(sorted(known))
                raise UsageError(
                    f"goal {goal.text!r}: {goal.metric!r} was not evaluated (evaluated: {have})",
                    where=goal.text,
                )
            assert accuracy is not None
            old, new = known[goal.metric], accuracy["after"][goal.metric]
        results.append(goal.check(old, new))
    return results
