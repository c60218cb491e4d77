"""What every clean-up promises, on random graphs: same outputs, same names, nothing left to do."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import HealthCheck, assume, given, settings
from onnxruntime.capi import onnxruntime_pybind11_state as state

from sparsec.ir.cleanup import (
    clean_up,
    eliminate_identities,
    fix_reshapes,
    fold_constants,
    fold_padding,
    fold_views,
    merge_duplicates,
    remove_dead,
    replace_sequences,
)
from sparsec.ir.load import load_model
from sparsec.ir.verify import verify
from tests.ir.random_graphs import graphs

ALL = (
    clean_up, eliminate_identities, fix_reshapes, fold_constants, fold_padding, fold_views,
    merge_duplicates, remove_dead, replace_sequences,
)  # fmt: skip

X = np.random.default_rng(7).integers(-3, 4, (2, 6)).astype(np.float32)


def run(proto: onnx.ModelProto, flag: bool) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    return session.run(None, {"x": X, "flag": np.array(flag)})


def runs(proto: onnx.ModelProto) -> bool:
    """Whether the unoptimised runtime can run the source.

    It frees a Cast to the same dtype too early when the branches of an If capture it.
    """
    try:
        return all(run(proto, flag) for flag in (True, False))
    except state.Fail as error:
        if "while running If node" not in str(error):
            raise
        return False


def check(step, proto: onnx.ModelProto) -> None:
    model = load_model(proto)
    before = ir.to_proto(model)
    assume(runs(before))
    step(model)
    verify(model)
    after = ir.to_proto(model)
    assert [v.name for v in after.graph.input] == [v.name for v in proto.graph.input]
    assert [v.name for v in after.graph.output] == [v.name for v in proto.graph.output]
    assert len(list(model.graph.all_nodes())) <= len(list(load_model(proto).graph.all_nodes()))
    for flag in (True, False):
        # All numbers are small multiples of a quarter, so that every summation order is exact.
        for wanted, got in zip(run(before, flag), run(after, flag), strict=True):
            assert wanted.dtype == got.dtype
            assert wanted.shape == got.shape
            np.testing.assert_array_equal(wanted, got)
            np.testing.assert_array_equal(np.signbit(wanted), np.signbit(got))


@given(proto=graphs())
@settings(max_examples=80, deadline=None, derandomize=True)
def test_cleaning_up_changes_nothing_and_is_done_once(proto):
    check(clean_up, proto)
    model = load_model(proto)
    clean_up(model)
    once = ir.to_proto(model).SerializeToString()
    assert clean_up(model) == []
    assert ir.to_proto(model).SerializeToString() == once


@given(proto=graphs())
@settings(max_examples=30, deadline=None, derandomize=True)
def test_cleaning_up_is_deterministic(proto):
    first, second = load_model(proto), load_model(proto)
    assert clean_up(first) == clean_up(second)
    assert ir.to_proto(first).SerializeToString() == ir.to_proto(second).SerializeToString()


@pytest.mark.slow
@pytest.mark.parametrize("step", ALL, ids=lambda step: step.__name__)
@given(proto=graphs())
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_each_step_changes_nothing(step, proto):
    check(step, proto)
