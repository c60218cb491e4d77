"""How convolutions tie the channels of their operands together."""

from __future__ import annotations

from collections.abc import Sequence

from sparsec.ir.op_rules.factor import split
from sparsec.ir.op_rules.rule import Axes, Axis, OpRule, merge
from sparsec.ir.op_rules.shrink import ShrinkView, count
from sparsec.ir.op_rules.view import NodeView

_UNEVEN = "is a convolution whose groups do not divide its channels"


def conv(view: NodeView) -> Sequence[Axes]:
    """Couple ``y = Conv(x, w, b)``, and ConvTranspose, whose weight has in and out swapped.

    Shapes: x [N, C, *spatial], w [O, C / group, *kernel], b [O] or absent, y [N, O, *spatial];
    of ConvTranspose w [C, O / group, *kernel].

    With one group, input and output channels are independent. With more, the groups must stay
    equally wide: channels are the product of a group and a place within it, and either may go. A
    depthwise convolution is the case of one channel a group.

    Examples
    --------
    >>> from sparsec.ir.testing import couplings
    >>> print(couplings("Conv", x=[1, 8, 5, 5], w=[6, 8, 3, 3], b=[6]))
    8 units: x.1 w.1
    6 units: w.0 b.0 y.1
    >>> print(couplings("Conv", x=[1, 8, 5, 5], w=[16, 1, 3, 3], group=8))
    8 units: x.1 w.0/2 y.1/2
    2 units: w.0/8 y.1/8
    >>> print(couplings("Conv", x=[1, 8, 5, 5], w=[6, 4, 3, 3], group=2))
    2 units: x.1/4 w.0/3 y.1/3
    4 units: x.1/2 w.1
    3 units: w.0/2 y.1/2
    """
    return [products(view, 0, 1, (2,))]


def products(
    view: NodeView, data: int, weight: int, per_channel: Sequence[int], zero: bool = True
) -> Axes:
    """Couple the operands of any convolution, and return the axes of its result.

    Parameters
    ----------
    view : NodeView
    data, weight : int
        Which inputs are x and w.
    per_channel : sequence of int
        Inputs with a value for each channel that is made, where they are given: bias, scale.
    zero : bool
        Whether the result is zero where weight and bias are.
    """
    rows, columns = view.known(weight)[:2]
    x = view.known(data)
    group = view.integer("group", 1)
    transposed = view.node.op_type == "ConvTranspose"
    inner, outer = (rows, columns) if transposed else (columns, rows)
    if group == 1:
        read(view, x[1], inner)
        view.reads(weight, 0 if transposed else 1, x[1])
        made = outer
    else:
        made = _grouped(view, data, weight, group, transposed)
    zero = zero and all(axis is None or axis.vanishes for axis in (rows, columns))
    for index in per_channel:
        if view.has(index) and _is_per_channel(view, index, weight):
            other = list(view.known(index))
            made = view.tie([made, *other])
            zero = zero and all(axis is not None and axis.vanishes for axis in other)
    view.made(made)
    for axis in (*x[2:], *view.known(weight)[2:]):
        view.freeze(axis, "is a convolution along it")
    return (x[0], made and Axis(made.atoms, zero), *(None for _ in x[2:]))


def _is_per_channel(view: NodeView, index: int, weight: int) -> bool:
    """Whether an input has a value for each channel, rather than one for all."""
    shape = view.shape(index)
    return bool(shape) and (view.size(index, 0) != 1 or view.size(weight, 0) == 1)


def read(view: NodeView, x: Axis | None, weight: Axis | None) -> None:
    """Tie what is summed over: positions that go are multiplied by weights that are zero."""
    if x is not None or weight is not None:
        tied = view.tie([x, weight], "sums over it together with an axis that is fixed")
        if x is not None and weight is not None and not (x.vanishes or weight.vanishes):
            view.freeze(tied, "sums over it, and what was removed need not be zero there")


def _grouped(view: NodeView, data: int, weight: int, group: int, transposed: bool) -> Axis | None:
    """Tie the channels of a grouped convolution, and return those it makes."""
    x = view.known(data)[1]
    rows, columns = view.known(weight)[:2]
    channels = view.size(data, 1)
    shape = view.shape(weight)
    if channels is None or shape is None or channels % group:
        view.freeze_all((x, rows, columns), _UNEVEN)
        return None
    within = channels // group  # channels that one group reads
    per_group = shape[1] if transposed else int(str(shape[0])) // group
    assert isinstance(per_group, int)
    if x is None:
        # The input stays as it is: so do the groups, and what they read.
        view.freeze(rows if transposed else columns, "reads an input that is fixed in groups")
        which, place = None, None
    else:
        which, place = split(view, x, (group, within))
    if transposed:
        if rows is not None and x is not None:
            view.atoms.tie(rows.atoms, x.atoms)
        if place is not None:
            view.lattice.summed.append(place.atoms)
        return merge(view.atoms, (which, columns), (group, per_group))
    if place is not None and columns is not None:
        read(view, place, columns)
        view.lattice.summed.append(place.atoms)
    if rows is None:
        return None
    outer = split(view, rows, (group, per_group))[0]
    if outer is not None:
        view.tie([which, outer], "is a convolution in groups that are fixed")
    elif which is not None:
        view.freeze(which, "is a convolution in groups that are fixed")
    return rows


def shrink_groups(view: ShrinkView) -> None:
    """Rewrite ``group`` if whole groups are gone: as many are left as divide both ends."""
    group = view.node.attributes.get_int("group", 1) or 1
    kept, weight = view.kept(0)[1], view.kept(3 if view.node.op_type == "QLinearConv" else 1)
    if group == 1 or kept is None:
        return
    transposed = view.node.op_type == "ConvTranspose"
    # One group reads the weight's own second axis (its first, a share of it, when transposed).
    if transposed:
        blocks = kept.reshape(group, -1)
        view.set_integer("group", int(blocks.any(axis=1).sum()))
        return
    place = weight[1]
    width = len(kept) // group if place is None else count(place)
    assert width is not None
    view.set_integer("group", int(kept.sum()) // width)


RULE = OpRule(conv, shrink_groups, "channels in and out; whole groups, or places within them")
