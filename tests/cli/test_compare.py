"""What a comparison of outputs shows, and when it shows nothing."""

import numpy as np
import pytest

from sparsec.compare import Difference

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
