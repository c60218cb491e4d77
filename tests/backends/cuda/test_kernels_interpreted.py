"""Every kernel in Triton's interpreter against float64: odd shapes, poisoned outputs, all epilogues.

Products of float16 only: the interpreter multiplies bfloat16 as the integers it stores them in. Decoders move
16-bit halves whatever they are. Inline assembly has no interpreter; ``test_decoders.py`` emulates it.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from kernel_cases import cases, unpack_cases

pytest.importorskip("triton", reason="Triton's interpreter needs triton: pip install sparsec[cuda]")
torch = pytest.importorskip("torch", reason="Triton's interpreter needs torch tensors")

ROOT = Path(__file__).parents[3]
CASES = cases()
UNPACKED = unpack_cases()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Return the interpreted results of all cases; one process for all of them."""
    file = tmp_path_factory.mktemp("interpreted") / "results.npz"
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("interpret_kernels.py"), file],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return np.load(file)


@pytest.mark.parametrize("index", range(len(CASES)), ids=[case.label for case in CASES])
def test_the_kernel_computes_the_product(results, index):
    case, y = CASES[index], results[f"y_{index}"]
    exact = case.exact()
    assert y.dtype == case.out
    # One rounding of the float32 sum to float16 if y is, and the order of the sum.
    unit = 2.0**-11 if y.dtype == np.float16 else 2.0**-20
    if case.group and case.form.startswith("block"):
        unit = max(unit, 2.0**-11)  # values times their scale are rounded to float16
    assert np.abs(y - exact).max() <= unit * np.abs(exact).max() + 1e-6


@pytest.mark.parametrize("index", range(len(CASES)), ids=[case.label for case in CASES])
def test_the_weight_is_decompressed_exactly(results, index):
    case = CASES[index]
    np.testing.assert_array_equal(results[f"w_{index}"], case.packed().unpack().astype(np.float16))


@pytest.mark.parametrize(
    "index", range(len(UNPACKED)), ids=[f"{case.label}-{dtype}" for case, dtype in UNPACKED]
)
def test_the_weight_is_decompressed_to_the_type_of_the_product(results, index):
    case, dtype = UNPACKED[index]
    exact = torch.from_numpy(case.packed().unpack())  # float32: values times scales
    if dtype == "bfloat16" and case.values != dtype:
        # The interpreter cuts; devices round to nearest.
        rounded = (exact.view(torch.int32) & -65536).view(torch.float32).numpy()
    else:
        rounded = exact.to(getattr(torch, dtype)).float().numpy()
    np.testing.assert_array_equal(results[f"u_{index}"], rounded)
