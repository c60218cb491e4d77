"""Host rules against tensor rules: shape arithmetic must not depend on where a number is kept."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsec.ir.fx import host as hv
from sparsec.ir.fx import registry

small = st.integers(-6, 6)
positive = st.integers(1, 5)


def vectors(elements=small, low=1, high=4):
    return st.lists(elements, min_size=low, max_size=high).map(tuple)


def axes_of(value):
    return st.integers(-np.ndim(value), np.ndim(value) - 1)


@st.composite
def pair(draw, second=small):
    """Two operands that broadcast: vectors of one length, or a vector and a number."""
    size = draw(st.integers(1, 4))
    shapes = [vectors(e, size, size) | e for e in (small, second)]
    return tuple(draw(s) for s in shapes)


nonzero = small.filter(bool)
matrix = st.integers(1, 3).flatmap(
    lambda n: st.lists(vectors(small, n, n), min_size=1, max_size=3).map(tuple)
)
booleans = vectors(st.booleans(), 3, 3)

#: Operator, opset, strategy for (operands, attributes).
CASES = {
    **{op: (13, pair().map(lambda p: (p, {}))) for op in ("Add", "Sub", "Mul", "Max", "Min")},
    **{op: (13, pair(nonzero).map(lambda p: (p, {}))) for op in ("Div", "Mod")},
    **{
        op: (16, pair().map(lambda p: (p, {})))
        for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
    },
    **{op: (13, st.tuples(booleans, booleans).map(lambda p: (p, {}))) for op in ("And", "Or", "Xor")},
    "Neg": (13, vectors().map(lambda v: ((v,), {}))),
    "Identity": (13, vectors().map(lambda v: ((v,), {}))),
    "Where": (16, st.tuples(booleans, vectors(small, 3, 3), small).map(lambda p: (p, {}))),
    "Cast": (
        13,
        st.tuples(vectors() | booleans, st.sampled_from([torch.int64, torch.bool, torch.float32])).map(
            lambda p: ((p[0],), {"to": p[1]})
        ),
    ),
    "Shape": (15, matrix.map(lambda m: ((m,), {}))),
    "Size": (15, matrix.map(lambda m: ((m,), {}))),
    "Reshape": (14, matrix.map(lambda m: ((m, (-1, 1)), {}))),
    "Transpose": (13, matrix.map(lambda m: ((m,), {}))),
    "Squeeze": (13, small.map(lambda n: (((n,), (0,)), {}))),
    "Unsqueeze": (13, st.tuples(vectors(), st.sampled_from([0, 1, -1])).map(
        lambda p: ((p[0], (p[1],)), {})
    )),
    "Concat": (13, st.lists(vectors(), min_size=1, max_size=3).map(lambda v: (tuple(v), {"axis": 0}))),
    "Split": (18, st.tuples(vectors(small, 4, 4), st.sampled_from([(1, 3), (2, 2), None])).map(
        lambda p: (p, {"axis": 0, "n_outputs": 2})
    )),
    "Expand": (13, st.tuples(small, vectors(positive, 1, 2)).map(lambda p: (((p[0],), p[1]), {}))),
    "Tile": (13, st.tuples(vectors(), positive).map(lambda p: ((p[0], (p[1],)), {}))),
    "Slice": (13, st.tuples(vectors(), small, small, st.sampled_from([1, 2, -1, -2])).map(
        lambda p: ((p[0], (p[1],), (p[2],), (0,), (p[3],)), {})
    )),
    "Gather": (13, st.tuples(vectors(small, 4, 4), st.integers(-4, 3) | vectors(st.integers(-4, 3))).map(
        lambda p: (p, {"axis": 0})
    )),
    "ConstantOfShape": (9, st.tuples(vectors(positive, 1, 1), small).map(
        lambda p: ((p[0],), {"value": p[1], "dtype": torch.int64})
    )),
    "Range": (11, st.tuples(small, small, nonzero).filter(lambda p: (p[1] - p[0]) * p[2] >= 0).map(
        lambda p: (p, {})
    )),
    **{
        op: (18, st.tuples(matrix, st.sampled_from([(0,), (-1,), (0, 1), None]), st.booleans()).map(
            lambda p: (p[:2], {"keepdims": int(p[2])})
        ))
        for op in ("ReduceSum", "ReduceProd", "ReduceMax", "ReduceMin")
    },
}  # fmt: skip


def test_every_host_rule_is_compared():
    assert {o.name for o in registry.table() if o.on_host} == set(CASES)


@pytest.mark.parametrize("op", CASES)
def test_host_equals_tensor(op):
    opset, cases = CASES[op]
    entry = registry.find(op, "", opset)

    @settings(max_examples=30, deadline=None, derandomize=True, database=None)
    @given(cases)
    def compare(case):
        operands, attributes = case
        tensors = [
            torch.tensor(v) if i == 0 and v is not None else v for i, v in enumerate(operands)
        ]
        if op in ("ConstantOfShape", "Range"):
            tensors = [None if v is None else torch.tensor(v) for v in operands]
        here = entry.call(*operands, **attributes)
        there = entry.call(*tensors, **attributes)
        parts = zip(here, there, strict=True) if entry.many else [(here, there)]
        for a, b in parts:
            torch.testing.assert_close(hv.to_tensor(a), hv.to_tensor(b), rtol=0, atol=0)

    compare()


def test_a_vector_of_symbols_becomes_a_tensor_and_back():
    value = ((1, 2, 3), (4, 5, 6))
    tensor = hv.to_tensor(value)
    assert tensor.dtype == torch.int64
    assert hv.to_host(tensor) == value
    assert hv.to_tensor(()).shape == (0,)
    assert hv.to_tensor(True).dtype == torch.bool
    assert hv.from_array(np.zeros((2, 0), dtype=object)).shape == (2, 0)
