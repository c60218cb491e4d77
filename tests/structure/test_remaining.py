"""What is counted beforehand is what is left afterwards."""

from __future__ import annotations

import numpy as np
import pytest

from sparsec.ir.cost import graph_cost
from sparsec.ir.edits import remove
from sparsec.ir.feeds import random_feeds
from sparsec.ir.groups import find_groups
from sparsec.ir.remaining import Remaining
from tests.structure.random_structure import random_model
from tests.structure.test_structure_random import random_units


@pytest.mark.parametrize("first", range(0, 120, 40))
def test_counted_beforehand_is_counted_afterwards(first: int):
    shrunk = 0
    for seed in range(first, first + 40):
        model = random_model(seed)
        feeds = random_feeds(model).feeds[0]
        groups = find_groups(model)
        units = random_units(groups, np.random.default_rng(seed))
        before = graph_cost(model, feeds)
        macs = Remaining.macs(groups.lattice, feeds)
        params = Remaining.params(groups.lattice)
        every = Remaining.units(groups.lattice, groups)
        sizes = sum(group.size for group in groups)
        assert (macs.total(), params.total(), every.total()) == (before.macs, before.params, sizes)
        expected = macs.without(units), params.without(units)
        assert macs.total() == before.macs  # only asked
        for each in np.array_split(units, 3):  # piece by piece is all at once
            macs.remove(each)
        assert macs.total() == expected[0]
        every.remove(units)
        assert every.total() == sizes - len(units)
        remove(groups.lattice, units)
        after = graph_cost(model, feeds)
        assert (after.macs, after.params) == expected
        shrunk += after.macs < before.macs
        macs.restart()
        assert macs.total() == before.macs
    assert shrunk > 20


def test_an_axis_is_never_emptied():
    every = (find_groups(random_model(seed)) for seed in range(20))
    groups = next(found for found in every if found.groups)
    remaining = Remaining.params(groups.lattice)
    units = groups.groups[0].units
    assert remaining.without(units) is None
    with pytest.raises(ValueError, match="without a position"):
        remaining.remove(units)
    assert remaining.without(units[1:]) is not None
