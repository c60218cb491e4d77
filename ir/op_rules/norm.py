"""Normalisations: those over the channels are barriers, those within a channel are not."""

from __future__ import annotations

from collections.abc import Sequence

from sparsec.ir.op_rules.factor import split
from sparsec.ir.op_rules.rule import Axes, Axis, OpRule
from sparsec.ir.op_rules.shrink import ShrinkView
from sparsec.ir.op_rules.view import NodeView, in_range

_OVER = "normalises over it: every position takes part in all results"


def batch_norm(view: NodeView) -> Sequence[Axes]:
    """Couple BatchNormalization in inference: x [N, C, ...], scale, bias, mean, variance [C].

    Examples
    --------
    >>> from sparsec.ir.testing import couplings
    >>> print(couplings("BatchNormalization", x=[1, 8], s=[8], b=[8], m=[8], v=[8]))
    8 units: x.1 s.0 b.0 m.0 v.0 y.1
    """
    axes = list(view.known(0))
    if len(axes) > 1:
        parameters = [axis for index in range(1, 5) for axis in view.known(index)]
        tied = view.tie([axes[1], *parameters])
        if (scale := view.node.inputs[1]) is not None:
            view.lattice.scales.add(scale)
        view.never_zero(3)
        view.never_zero(4)
        # With scale and bias zeroed the result is zero, whatever comes in.
        affine = [view.known(1), view.known(2)]
        zero = all(axis and axis[0] is not None and axis[0].vanishes for axis in affine)
        axes[1] = tied and Axis(tied.atoms, zero)
    return [tuple(axes), *((None,) * 1 for _ in view.node.outputs[1:])]


def instance_norm(view: NodeView) -> Sequence[Axes]:
    """Couple InstanceNormalization: x [N, C, ...], scale and bias [C]; pixels are mixed."""
    axes = list(view.known(0))
    view.freeze_all(axes[2:], _OVER)
    tied = view.tie([axes[1], *view.known(1), *view.known(2)])
    return [(axes[0], tied and Axis(tied.atoms), *(None for _ in axes[2:]))]


def group_norm(view: NodeView) -> Sequence[Axes]:
    """Couple GroupNormalization: whole groups of channels may go, single channels may not."""
    axes = list(view.known(0))
    view.freeze_all(axes[2:], _OVER)
    groups, channels = view.integer("num_groups", 1), view.size(0, 1)
    parameters = [axis for index in (1, 2) for axis in view.known(index)]
    if axes[1] is None or channels is None or channels % groups or view.size(1, 0) != channels:
        view.freeze_all((axes[1], *parameters), _OVER)
        return [(axes[0], *(None for _ in axes[1:]))]
    tied = view.tie([axes[1], *parameters])
    assert tied is not None
    view.freeze(split(view, tied, (groups, channels // groups))[1], _OVER)
    return [(axes[0], Axis(tied.atoms), *(None for _ in axes[2:]))]


def shrink_group_norm(view: ShrinkView) -> None:
    """Rewrite the number of groups."""
    kept = view.kept(0)[1]
    groups = view.node.attributes.get_int("num_groups", 1) or 1
    if kept is not None:
        view.set_integer("num_groups", int(kept.reshape(groups, -1).any(axis=1).sum()))


def last_axes(view: NodeView) -> Sequence[Axes]:
    """Couple LayerNormalization and RMSNormalization: a barrier on all axes from ``axis`` on."""
    axes = list(view.known(0))
    start = in_range(view.integer("axis", -1), len(axes))
    view.freeze_all(axes[start:], _OVER)
    for index in range(1, len(view)):
        view.freeze_input(index, _OVER)
    out = tuple(axis and axis.fading(False) for axis in axes)
    statistics = (*out[:start], *(None for _ in axes[start:]))
    return [out, *(statistics for _ in view.node.outputs[1:])]


def softmax(view: NodeView) -> Sequence[Axes]:
    """Couple Softmax, LogSoftmax, Hardmax: a barrier on the axis that they normalise.

    Before opset 13 they flatten the value: a barrier on all axes from ``axis`` on.
    """
    axes = list(view.known(0))
    old = view.lattice.opset < 13
    start = in_range(view.integer("axis", 1 if old else -1), len(axes))
    over = range(start, len(axes)) if old else (start,)
    view.freeze_all((axes[i] for i in over), _OVER)
    return [tuple(axis and axis.fading(False) for axis in axes)]


def one_axis(view: NodeView) -> Sequence[Axes]:
    """Couple LpNormalization (``axis``) and LRN (the channels): barriers there, nowhere else."""
    axes = list(view.known(0))
    default = 1 if view.node.op_type == "LRN" else -1
    over = in_range(view.integer("axis", default), len(axes))
    view.freeze(axes[over], _OVER)
    return [tuple(axis and axis.fading(False) for axis in axes)]


BATCH = OpRule(batch_norm, about="channels")
INSTANCE = OpRule(instance_norm, about="channels")
GROUP = OpRule(group_norm, shrink_group_norm, "whole groups of channels")
LAST = OpRule(last_axes, about="all but the normalised axes")
SOFTMAX = OpRule(softmax, about="all but the normalised axes", cyclic=True)
ONE_AXIS = OpRule(one_axis, about="all but the normalised axis")
