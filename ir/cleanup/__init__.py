"""Clean-ups: smaller graphs that compute the same.

Each is a function of a model that works in place and returns the names of what it removed. All keep
the names of graph inputs and outputs, the names and metadata of initializers, and ties between
weights. None reads a weight, except :func:`fold_batch_norm`.
"""

from __future__ import annotations

import onnx_ir as ir

from sparsec.ir.cleanup.batch_norm import fold_batch_norm
from sparsec.ir.cleanup.constants import fold_constants
from sparsec.ir.cleanup.dead import remove_dead
from sparsec.ir.cleanup.duplicates import merge_duplicates
from sparsec.ir.cleanup.identities import eliminate_identities
from sparsec.ir.cleanup.padding import fold_padding
from sparsec.ir.cleanup.reshapes import fix_reshapes
from sparsec.ir.cleanup.sequences import replace_sequences
from sparsec.ir.cleanup.views import fold_views

__all__ = [
    "clean_up",
    "eliminate_identities",
    "fix_reshapes",
    "fold_batch_norm",
    "fold_constants",
    "fold_padding",
    "fold_views",
    "merge_duplicates",
    "remove_dead",
    "replace_sequences",
]

_ROUNDS = 8  # one folding uncovers the next; three rounds settle every model seen so far


def clean_up(model: ir.Model) -> list[str]:
    """Apply every exact clean-up, in place, until none finds anything.

    No number is changed or rounded anew, so every kernel returns what it returned before; a
    runtime may pick another kernel for a weight that is now stored as it is read
    (:mod:`sparsec.ir.cleanup.views`). BatchNormalization is not folded: that rounds.

    Returns
    -------
    list of str
        Names of the nodes and initializers that are gone, in order.
    """
    removed: list[str] = []
    for _ in range(_ROUNDS):
        round_removed: list[str] = []
        for step in (
            eliminate_identities,
            fold_constants,
            fix_reshapes,
            fold_views,
            fold_padding,
            replace_sequences,
            merge_duplicates,
            remove_dead,
        ):
            round_removed += step(model)
        if not round_removed:
            break
        removed += round_removed
    return removed
