"""What a comparison of outputs shows, and when it shows nothing."""

import numpy as np
import pytest

from sparsec.compare import Difference, Fidelity
from sparsec.prove import compared

NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([[0.0, 0.0], [0.0, 0.0]], False),
        ([[], []], False),
        ([[0.0, 1.0], [0.0, 1.0]], True),
        ([[0.0], [1.0]], True),
        ([[NAN], [1.0], [INF]], False),
        ([["a"], ["b"]], False),
    ],
)
def test_outputs_that_never_vary_show_nothing(samples: list[list[object]], expected: bool) -> None:
    outputs = [{"y": np.array(sample)} for sample in samples]
    difference = Difference.between(outputs, outputs)
    assert difference.max_rel == 0
    assert difference.varied is expected


def test_outputs_without_a_number_have_no_likeness():
    nothing = {"y": np.full((2, 3), np.nan, np.float32)}
    assert Fidelity.between([nothing], [nothing]).to_json() == {"cosine": None, "agreement": None}
    some = {"y": np.array([[np.nan, 1.0, 2.0]], np.float32)}
    assert Fidelity.between([some], [some]).to_json()["cosine"] > 0.999


def test_an_artifact_may_agree_with_the_graph_as_the_runtime_rewrites_it():
    """Fused integer kernels round where the operators of a quantised graph alone do not."""
    plain, fused = {"y": np.array([1.0, 2.0])}, {"y": np.array([1.0, 2.03])}
    calls = []

    def rewritten():
        calls.append(1)
        return [fused]

    assert compared([plain], [plain], rewritten, 1e-4).max_rel == 0
    assert not calls
    assert compared([fused], [plain], rewritten, 1e-4).max_rel == 0
    wrong = {"y": np.array([1.0, 3.0])}
    assert compared([wrong], [plain], rewritten, 1e-4).max_rel > 0.4
