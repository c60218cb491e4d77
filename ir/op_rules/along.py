"""Operators that work along one axis, or a few, and leave every other alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sparsec.ir.op_rules.rule import Axes, OpRule
from sparsec.ir.op_rules.view import NodeView, in_range


def _passing(view: NodeView, fixed: Sequence[int], why: str, vanishes: bool) -> Axes:
    """Freeze the axes ``fixed`` of the first operand and return its axes."""
    axes = view.known(0)
    at = {in_range(place, len(axes)) for place in fixed}
    view.freeze_all((axes[place] for place in at), why)
    return tuple(
        None if place in at else axis and axis.fading(vanishes) for place, axis in enumerate(axes)
    )


def _along(default: int, why: str, vanishes: bool = True) -> Callable[[NodeView], Sequence[Axes]]:
    """Return the rule of an operator whose attribute ``axis`` names the axis that it works on.

    Examples
    --------
    >>> from sparsec.ir.testing import couplings
    >>> print(couplings("TopK", x=[5, 8], k=[1], axis=-1))
    5 units: x.0 y.0
    """

    def couple(view: NodeView) -> Sequence[Axes]:
        out = _passing(view, [view.integer("axis", default)], why, vanishes)
        numbers = out and tuple(axis and axis.fading(False) for axis in out)
        return [out, *(numbers for _ in view.node.outputs[1:])]

    return couple


def cumulate(view: NodeView) -> Sequence[Axes]:
    """Couple CumSum and CumProd: a running sum does not miss what is zero; a product would."""
    axes, along = view.known(0), view.constant(1)
    if along is None:
        view.freeze_all(axes, "works along an axis that is computed")
        return [(None,) * len(axes)]
    place = in_range(int(along.reshape(-1)[0]), len(axes))
    axis = axes[place]
    sums = view.node.op_type == "CumSum" and axis is not None and axis.vanishes
    if not sums:
        return [_passing(view, [place], "multiplies or sums up all positions before", True)]
    assert axis is not None
    view.lattice.summed.append(axis.atoms)
    return [(*axes[:place], axis.fading(False), *axes[place + 1 :])]


def compress(view: NodeView) -> Sequence[Axes]:
    """Couple Compress: the axis that it picks from is fixed; all are where it flattens first."""
    axes = view.known(0)
    why = "picks positions that depend on data"
    if "axis" not in view.node.attributes:
        view.freeze_all(axes, why)
        return [(None,)]
    return [_passing(view, [view.integer("axis", 0)], why, True)]


def one_hot(view: NodeView) -> Sequence[Axes]:
    """Couple OneHot: a new axis comes in."""
    axes = [axis and axis.fading(False) for axis in view.known(0)]
    axes.insert(in_range(view.integer("axis", -1), len(axes) + 1), None)
    return [tuple(axes)]


def reverse(view: NodeView) -> Sequence[Axes]:
    """Couple ReverseSequence: steps and sequences are fixed, features pass."""
    fixed = [view.integer("time_axis", 0), view.integer("batch_axis", 1)]
    view.freeze_input(1, "is the length of each sequence")
    return [_passing(view, fixed, "reverses along it", True)]


def matrices(view: NodeView) -> Sequence[Axes]:
    """Couple Trilu and Det: matrices on the last two axes."""
    out = _passing(view, [-1, -2], "is a side of its matrices", True)
    return [out[:-2] if view.node.op_type == "Det" and out else out]


def fourier(view: NodeView) -> Sequence[Axes]:
    """Couple DFT: the transformed axis and that of real and imaginary parts are fixed."""
    along: int | None = view.integer("axis", 1 if view.lattice.opset < 20 else -2)
    if view.has(2):
        constant = view.constant(2)
        along = None if constant is None else int(constant.reshape(-1)[0])
    rank = len(view.known(0))
    fixed = range(rank) if along is None else (along, -1)
    return [_passing(view, list(fixed), "transforms along it", True)]


def crop(view: NodeView) -> Sequence[Axes]:
    """Couple CenterCropPad: the axes that are cut are fixed."""
    rank = len(view.known(0))
    cut = view.integers("axes") or list(range(rank))
    return [_passing(view, cut, "crops or pads it", True)]


def causal_conv(view: NodeView) -> Sequence[Axes]:
    """Couple CausalConvWithState: x [N, C, L], w [C, 1, k], b [C], past [N, C, k - 1]: all channels alike.

    Examples
    --------
    >>> from sparsec.ir.testing import couplings
    >>> print(couplings("CausalConvWithState", opset=27, x=[1, 8, 5], w=[8, 1, 3]))
    8 units: x.1 w.0 y.1
    """
    x, w = view.known(0), view.known(1)
    view.freeze_all((x[2], *w[1:]), "is a convolution along it")
    columns = [x[1], w[0]]
    columns += [view.known(i)[0 if i == 2 else 1] for i in (2, 3) if view.has(i)]
    made = view.made(view.tie(columns))
    zero = all(axis is not None and axis.vanishes for axis in columns[1:])
    out = (x[0], made and made.vanishing(zero), None)
    kept = (x[0], made and made.fading(False), None)
    return [out, kept][: len(view.node.outputs)]


_SORTS = "takes the largest along it"
TOP_K = OpRule(_along(-1, _SORTS), about="all but the sorted axis")
CUMULATE = OpRule(cumulate, about="all axes of sums, of products all but the one they run along")
COMPRESS = OpRule(compress, about="all but the axis that it picks from")
ONE_HOT = OpRule(one_hot, about="axes of the indices")
REVERSE = OpRule(reverse, about="all but steps and sequences")
MATRICES = OpRule(matrices, about="all but those of its matrices")
FOURIER = OpRule(fourier, about="all but the transformed axis")
CROP = OpRule(crop, about="axes that are not cut")
CAUSAL_CONV = OpRule(causal_conv, about="channels")
