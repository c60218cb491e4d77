"""Head pruning: whole attention heads, with their queries, keys, values and outputs."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from sparsec.ir.groups import Group
from sparsec.passes.channel.structure import StructurePass


@dataclasses.dataclass(frozen=True)
class HeadsPass(StructurePass):
    """Remove attention heads.

    With grouped queries a key-value head goes with all query heads that read it, or one query head
    of every key-value head goes, whichever leaves more to choose from.
    """

    name: ClassVar[str] = "heads"

    round: int | None = 1

    def takes(self, group: Group) -> bool:
        """Heads, of whatever kind."""
        return "head" in group.kinds
