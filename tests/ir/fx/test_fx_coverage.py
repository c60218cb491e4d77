import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from sparsec.ir.fx import registry
from sparsec.ir.fx.coverage import NOT_IMPORTED, coverage_table
from sparsec.ir.fx.support import STRUCTURAL

ROOT = Path(__file__).parents[3]


def test_the_documented_table_is_current():
    text = (ROOT / "docs" / "fx.md").read_text(encoding="utf-8")
    assert coverage_table() in text, "run python -m sparsec.ir.fx.coverage docs/fx.md"


def test_every_operator_of_onnx_is_accounted_for():
    everything = {
        s.name for s in onnx.defs.get_all_schemas() if s.domain == "" and s.since_version <= 28
    }
    imported = {o.name for o in registry.table() if not o.domain} | STRUCTURAL.keys()
    left_out = {name for names in NOT_IMPORTED.values() for name in names}
    assert everything <= imported | left_out
    assert not imported & left_out


def test_every_operator_has_a_test():
    sources = "\n".join(p.read_text(encoding="utf-8") for p in Path(__file__).parent.glob("*.py"))
    words = set(re.findall(r"\w+", sources))
    # Operators of a backend are tested with it.
    assert {o.name for o in registry.table() if o.domain != "sparsec"} <= words
    assert set(STRUCTURAL) <= words


def test_a_second_registration_is_refused():
    with pytest.raises(TypeError, match="registered twice"):
        registry.op("Softmax", since=13)(lambda x: x)
    with pytest.raises(TypeError, match="no inputs called"):
        registry.op("Unheard", host=("shape",))(lambda x: x)
    assert registry.find("Unheard", "", 23) is None


@pytest.mark.parametrize(
    ("op", "inputs", "attrs", "mean", "variance"),
    [
        ("RandomNormal", [], {"shape": [200, 200], "mean": 1.0, "scale": 2.0}, 1.0, 4.0),
        ("RandomUniform", [], {"shape": [200, 200], "low": 1.0, "high": 4.0}, 2.5, 0.75),
        ("RandomNormalLike", [(200, 200)], {"mean": 1.0, "scale": 2.0}, 1.0, 4.0),
        ("RandomUniformLike", [(200, 200)], {"low": 1.0, "high": 4.0}, 2.5, 0.75),
        ("Bernoulli", [(200, 200)], {}, 0.25, 0.1875),
    ],
)
def test_random_numbers_follow_their_law(op, inputs, attrs, mean, variance, run_one):
    arrays = [np.full(s, 0.25, np.float32) for s in inputs]
    first = run_one(op, *arrays, opset=17, seed=3.0, **attrs)
    assert first.shape == (200, 200)
    assert first.dtype == np.float32
    assert first.mean() == pytest.approx(mean, abs=0.03)
    assert first.var() == pytest.approx(variance, rel=0.03)
    np.testing.assert_array_equal(run_one(op, *arrays, opset=17, seed=3.0, **attrs), first)
    assert (run_one(op, *arrays, opset=17, seed=4.0, **attrs) != first).any()


@pytest.mark.parametrize("opset", [13, 22])
def test_dropout_in_training_mode(opset, run_one):
    x = np.ones((200, 200), np.float32)
    y = run_one("Dropout", x, np.float32(0.25), np.array(True), opset=opset, seed=1)
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert (y == 0).mean() == pytest.approx(0.25, abs=0.01)
