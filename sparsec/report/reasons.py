"""What each code means, in one sentence; the layer's own reason stands beside it."""

from __future__ import annotations

from sparsec.ir.codes import Code

# A layer with one of these runs a kernel that profits from its zeros.
SPARSE = frozenset({Code.MEASURED_FASTER, Code.MODELLED})

SENTENCES: dict[str, str] = {
    Code.EXCLUDED: "The recipe leaves it alone.",
    Code.REDUCTION_NOT_MULTIPLE: "Its reduction axis does not divide into whole blocks.",
    Code.ROWS_NOT_MULTIPLE: "Its outputs do not divide into whole blocks.",
    Code.ALREADY_SPARSE: "It already carries a pattern.",
    Code.NOT_FLOAT: "It is stored as integers or otherwise not as prunable numbers.",
    Code.NOT_FINITE: "It holds NaN or infinity.",
    Code.NOT_CONSTANT: "Its weight is computed while the model runs.",
    Code.TOO_SMALL: "It is too small for the pattern.",
    Code.DEPTHWISE: "Each output reads a single input channel.",
    Code.FIXED_TRANSFORM: "It is a fixed signal transform, not something learned.",
    Code.SHARED: "Its tensor is also used in a way that contradicts this one.",
    Code.NOT_OBSERVABLE: "Nothing could be recorded of what it is multiplied with.",
    Code.BARRIER: "Its channels meet an operator that needs all of them, or cannot be followed.",
    Code.ROUNDED: "Rounded to the multiple that hardware likes, no channel would go.",
    Code.NOT_A_SITE: "No pass can prune this operator yet.",
    Code.DENSE: "No pass pruned it.",
    Code.PORTABLE: "The target runs stock operators only, and those gain nothing from zeros.",
    Code.MEASURED_FASTER: "Its sparse kernel was timed where it was compiled and is faster.",
    Code.MEASURED_SLOWER: "Its sparse kernel was timed where it was compiled, and dense is faster.",
    Code.MODELLED: "It cannot be timed here; the model of the target does not say that it loses.",
    Code.MODELLED_SLOWER: "It cannot be timed here; the model of the target says that it loses.",
    Code.NO_KERNEL: "There is no kernel for this operator with this pattern on the target.",
    Code.SHAPE_UNSUPPORTED: "There is a kernel, but not for this shape.",
    Code.NO_MACHINE: "The machine that compiled it lacks what the kernel needs.",
}
