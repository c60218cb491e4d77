"""The exact tier: units that go without a change of what the model returns."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from sparsec.ir.atoms import Labels
from sparsec.ir.certificate import certify
from sparsec.ir.cleanup.rewire import display_name
from sparsec.ir.codes import Code
from sparsec.ir.edits import emptied, remove
from sparsec.ir.exact import idle_units, merge_duplicates
from sparsec.ir.fold_channels import fold_constant_channels
from sparsec.ir.groups import Group, Groups, find_groups, prepare
from sparsec.ir.replay import replay
from sparsec.passes.base import Pass, PassContext, PassResult, Skipped
from sparsec.passes.channel.rows import group_rows


@dataclasses.dataclass(frozen=True)
class PruneExactPass(Pass):
    """Remove channels that are zero or constant, that nobody reads, or that are copies of others."""

    name: ClassVar[str] = "prune-exact"
    exact: ClassVar[bool] = True

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """Remove in place; the notes say how many units of each kind went."""
        prepare(model)
        folded = fold_constant_channels(find_groups(model))
        groups = find_groups(model)
        result = PassResult()
        result.skipped = [Skipped(g.name, Code.BARRIER, g.reason or "") for g in groups.frozen]
        result.skipped += [Skipped(n, Code.BARRIER, why) for n, why in folded.left.items()]
        units = np.empty(0, np.int64)
        named = []
        counts = dict.fromkeys(_KINDS, 0)
        for group in groups:
            gone = np.empty(0, np.int64)
            for kind, candidates in zip(_KINDS, _unneeded(groups, group), strict=True):
                found = _removable(groups, candidates, units)
                units, gone = np.append(units, found), np.append(gone, found)
                counts[kind] += found.size
            if gone.size:
                removed = np.flatnonzero(np.isin(group.units, gone))
                named.append((group.name, group.size, tuple(int(i) for i in removed)))
                result.changed += [display_name(node) for node in group.makers]
        lost = {name: len(removed) for name, _, removed in named}
        result.groups = group_rows(groups, lost, result.skipped)
        if not units.size:
            return result
        before = model.clone()
        removal = remove(groups.lattice, units)
        certificate = certify(self.name, named, removal, before, model)
        replay(certificate, seed=context.seed)
        result.certificates.append(certificate)
        result.changed = list(dict.fromkeys(result.changed))
        # What was folded is unread now.
        counts |= {"constant": folded.count, "unread": counts["unread"] - folded.count}
        result.notes |= {kind: float(count) for kind, count in counts.items()}
        return result


_KINDS = ("zero", "unread", "duplicates")


def _unneeded(groups: Groups, group: Group) -> tuple[Labels, Labels, Labels]:
    """Return the units that are zero, that nobody reads, and whose twins now stand for them too."""
    zero, unread = idle_units(groups, group)
    return zero, unread, merge_duplicates(groups, group, np.concatenate([zero, unread]))


def _removable(groups: Groups, candidates: Labels, going: Labels) -> Labels:
    """Return the candidates that may go with ``going``: what is all there is of an axis has to stay."""
    found = np.empty(0, np.int64)
    for unit in candidates:
        more = np.concatenate([going, found, [unit]])
        if not emptied(groups.lattice, groups.lattice.atoms.gone(more)):
            found = np.append(found, unit)
    return found
