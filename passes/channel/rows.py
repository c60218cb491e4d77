"""What became of every pruning group, for reports: in the order of the network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sparsec.ir.groups import Groups
from sparsec.passes.base import GroupRow, Skipped


def group_rows(
    groups: Groups, removed: Mapping[str, int], skipped: Iterable[Skipped]
) -> list[GroupRow]:
    """Return a row for every group.

    Parameters
    ----------
    groups : Groups
        Of the graph before the removal.
    removed : mapping of str to int
        How many units went, by the name of the group.
    skipped : iterable of Skipped
        Why none went.
    """
    reasons = {item.site: item for item in skipped}
    places = {node: place for place, node in enumerate(groups.lattice.model.graph)}
    rows = []
    for group in sorted(
        (*groups.groups, *groups.frozen), key=lambda group: places.get(group.makers[0], len(places))
    ):
        why = reasons.get(group.name)
        rows.append(
            GroupRow(
                group.name,
                group.size,
                group.size - removed.get(group.name, 0),
                None if why is None else why.code,
                None if why is None else why.reason,
            )
        )
    return rows
