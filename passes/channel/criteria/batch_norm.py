"""The scale of BatchNormalization: what slimming drives to zero.

Source: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming",
arXiv:1708.06519, section 3.2.
"""

from __future__ import annotations

from sparsec.passes.base import PassContext
from sparsec.passes.channel.criteria import Scores, UnitCriterion
from sparsec.passes.channel.criteria.norms import l2, sum_of_magnitudes
from sparsec.passes.channel.slices import Slices


def _scales(slices: Slices, context: PassContext) -> list[list[Scores]]:
    """Return the magnitudes of the scales; of groups without any, the norms of the weights."""
    found: list[list[Scores]] = [[] for _ in slices.chosen]
    for tensor, places in slices.tensors("scales"):
        for place in places:
            found[place.group].append(sum_of_magnitudes(place.of(tensor)))
    bare = [number for number, scores in enumerate(found) if not scores]
    others = slices.subset(bare)
    for number, scores in zip(bare, l2.score(others, context), strict=True):
        found[number] = scores
    return found


batch_norm = UnitCriterion(_scales, needs_batch_norm=True)
