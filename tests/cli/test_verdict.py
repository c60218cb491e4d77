"""When a compilation counts as a gain."""

import pytest

from sparsec.verdict import gained

DENSE = {"bytes": 1000, "macs": 1000}


@pytest.mark.parametrize(
    ("code", "speedup", "before", "after", "expected"),
    [
        ("measured_slower", 1.5, {}, {}, False),  # no kernel of ours: the clock saw nothing of it
        ("measured_faster", 1.02, {}, {}, False),
        ("measured_faster", 1.03, {}, {}, True),
        ("measured_slower", 1.0, {}, {"bytes": 980}, False),
        ("measured_slower", 1.0, {}, {"bytes": 960}, True),
        ("measured_slower", 1.0, {}, {"macs": 960}, True),
        ("measured_slower", 1.0, {"macs": 0}, {"macs": 0}, False),
    ],
)
def test_gains(
    code: str, speedup: float, before: dict[str, int], after: dict[str, int], expected: bool
) -> None:
    manifest = {"layers": [{"code": code}]}
    latency = {"speedup": speedup}
    assert gained(manifest, DENSE | before, DENSE | after, latency) is expected
