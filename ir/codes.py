"""The fixed list of reasons why a site or a layer is what it is.

Scripts match on the code; people read the sentence beside it. A code is added here before it is
used, and never changes its meaning.
"""

from __future__ import annotations

import enum


class Code(enum.StrEnum):
    """Why a pass left a site alone, or why a layer got the kernel it got."""

    # A pass left the site alone.
    EXCLUDED = "excluded"  # by include/exclude/ops
    REDUCTION_NOT_MULTIPLE = "reduction_not_multiple"  # K is not a multiple of M or of the block
    ROWS_NOT_MULTIPLE = "rows_not_multiple"  # out is not a multiple of the block's rows
    ALREADY_SPARSE = "already_sparse"  # it already carries a pattern
    NOT_FLOAT = "not_float"  # integer or otherwise not prunable storage
    NOT_FINITE = "not_finite"  # NaN or Inf among the weights
    NOT_CONSTANT = "not_constant"  # the operand is computed at run time
    TOO_SMALL = "too_small"  # fewer than two reduction elements, or empty
    DEPTHWISE = "depthwise"  # one input channel per group
    FIXED_TRANSFORM = "fixed_transform"  # a signal transform (STFT, mel) stored as a weight
    SHARED = "shared"  # the tensor has a use whose axes contradict the others
    NOT_OBSERVABLE = "not_observable"  # its inputs cannot be looked at, which the criterion needs
    BARRIER = "barrier"  # structure: an operator that needs every channel, or cannot be followed
    ROUNDED = (
        "rounded"  # structure: too few units to remove any in steps of the hardware's multiple
    )
    NOT_A_SITE = "not_a_site"  # an operator with weights that no pass can prune yet

    # What the lowering did with a layer.
    DENSE = "dense"  # not pruned, nothing to gain
    PORTABLE = "portable"  # the target runs stock operators only
    MEASURED_FASTER = "measured_faster"
    MEASURED_SLOWER = "measured_slower"
    MODELLED = "modelled"  # cannot be timed here; the model does not say it loses
    MODELLED_SLOWER = "modelled_slower"  # cannot be timed here; the model says it loses
    NO_KERNEL = "no_kernel"  # no kernel for this operator and pattern
    SHAPE_UNSUPPORTED = "shape_unsupported"  # kernel exists, but not for this shape
    NO_MACHINE = "no_machine"  # this machine lacks what the kernel needs
