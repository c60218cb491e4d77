"""Channel pruning: fewer channels, a smaller graph, no kernel needed."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from sparsec.ir.groups import Group
from sparsec.passes.channel.structure import StructurePass


@dataclasses.dataclass(frozen=True)
class ChannelPass(StructurePass):
    """Remove channels of convolutions and linear layers, with everything that hangs on them.

    Channels inside attention heads are left alone; see ``heads``.
    """

    name: ClassVar[str] = "channel"

    def takes(self, group: Group) -> bool:
        """Whatever is not part of an attention head."""
        return not group.kinds & {"head", "head_dim"}
