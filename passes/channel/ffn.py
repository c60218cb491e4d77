"""Pruning of the hidden units of feed-forward layers."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from sparsec.ir.groups import Group
from sparsec.passes.channel.structure import StructurePass


@dataclasses.dataclass(frozen=True)
class FeedForwardPass(StructurePass):
    """Remove hidden units between linear layers, gated or not; attention and convolutions stay."""

    name: ClassVar[str] = "ffn"

    def takes(self, group: Group) -> bool:
        """Units that linear layers alone make, outside of attention."""
        linear = all(node.op_type in ("MatMul", "Gemm") for node in group.makers)
        return linear and not group.kinds & {"head", "head_dim"}
