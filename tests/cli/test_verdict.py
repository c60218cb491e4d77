"""When a compilation counts as a gain."""

import pytest

from sparsec.goals import Goal
from sparsec.verdict import gained, no_gain, slower

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


SLOWER = {"pattern": "unstructured", "code": "measured_slower", "reason": "0.2 ms, dense 0.1 ms"}
NO_KERNEL = {"pattern": "unstructured", "code": "no_kernel", "reason": "its weights are float16"}
STOCK = {"pattern": "dense", "code": "dense", "reason": "not pruned"}


@pytest.mark.parametrize(
    ("layers", "said", "unsaid"),
    [
        ([SLOWER, NO_KERNEL, NO_KERNEL, STOCK], "2 x no_kernel, 1 x measured_slower", "pays"),
        ([SLOWER, NO_KERNEL, NO_KERNEL], "the first: its weights are float16", "pays"),
        ([SLOWER | {"pattern": "2:4"}], "unstructured:sparsity=0.9", "inspect"),
        ([STOCK], "no layer has zeros that a kernel could skip", "pays"),
    ],
)
def test_no_gain_has_a_reason_and_advice_that_was_not_taken_already(
    layers: list[dict[str, str]], said: str, unsaid: str
) -> None:
    same = {"params": 100}
    sentence = no_gain({"layers": layers}, same, same, {"speedup": 0.98})
    assert said in sentence
    assert unsaid not in sentence


def test_no_gain_of_a_smaller_graph_does_not_blame_zeros() -> None:
    """Channels are gone, and the time with them is that of widths which suit no kernel."""
    sentence = no_gain({"layers": [STOCK]}, {"params": 100}, {"params": 97}, {"speedup": 0.67})
    assert "3 parameters were removed" in sentence
    assert "zeros" not in sentence


def test_what_shrank_and_lost_time_says_so() -> None:
    assert "x0.67" in str(slower({"speedup": 0.67, "speedup_p90": 0.8}))
    assert slower({"speedup": 0.9, "speedup_p90": 1.0}) is None


@pytest.mark.parametrize(
    ("text", "after", "expected"),
    [
        ("perplexity=+0", 10.1, False),  # no number has a sign where it is zero
        ("perplexity=+0", 9.9, True),
        ("perplexity=+0.5", 10.4, True),
        ("top1=-0", 9.9, False),
        ("top1=-0", 10.1, True),
    ],
)
def test_a_goal_that_allows_no_loss_keeps_its_direction(
    text: str, after: float, expected: bool
) -> None:
    assert Goal.parse(text).check(10.0, after)["met"] is expected
