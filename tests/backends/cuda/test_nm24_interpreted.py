import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from nm24_cases import nm24_matrix

from sparsec.backends.cuda.formats.nm24 import NM24Matrix

pytest.importorskip("triton", reason="Triton's interpreter needs triton: pip install sparsec[cuda]")
pytest.importorskip("torch", reason="Triton's interpreter needs torch tensors")

ROOT = Path(__file__).parents[3]

# (M, N, K, bias, type of y): tiles that fit and that do not; K even, ragged, unaligned, below one step.
# float16 only: the interpreter multiplies bfloat16 as the integers it stores them in. The decoder
# moves 16-bit halves whatever they are, and test_nm24_format covers both types.
CASES = [
    (16, 16, 64, False, "float16"),
    (48, 16, 128, True, "float32"),
    (17, 1, 128, True, "float16"),
    (1, 3, 64, False, "float32"),
    (33, 17, 192, True, "float16"),
    (16, 8, 32, False, "float32"),
    (20, 5, 96, True, "float16"),
    (15, 16, 100, False, "float32"),
    (9, 2, 4, True, "float16"),
    (31, 33, 68, False, "float32"),
    (130, 70, 256, True, "float16"),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Return weight, x, bias and the interpreted y of every case; one process for all of them."""
    folder = tmp_path_factory.mktemp("interpreted")
    arrays, cases = {}, []
    for i, (m, n, k, with_bias, out) in enumerate(CASES):
        rng = np.random.default_rng(i)
        weight = nm24_matrix(m, k, "float16", seed=i, sparsity=[0.5, 0.75, 1.0][i % 3])
        x = rng.standard_normal((n, k)).astype(np.float16)
        bias = rng.standard_normal(m).astype(np.float32) if with_bias else None
        packed = NM24Matrix.pack(weight)
        arrays |= {f"x_{i}": x, f"vals_{i}": packed.vals, f"meta_{i}": packed.meta}
        arrays[f"out_{i}"] = out
        if bias is not None:
            arrays[f"bias_{i}"] = bias
        cases.append((weight, x, bias))
    np.savez(folder / "cases.npz", **arrays)
    script = Path(__file__).with_name("interpret_nm24.py")
    done = subprocess.run(
        [sys.executable, script, folder / "cases.npz", folder / "results.npz"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = np.load(folder / "results.npz")
    return [(*case, loaded[f"y_{i}"]) for i, case in enumerate(cases)]


@pytest.mark.parametrize("index", range(len(CASES)), ids=[str(case) for case in CASES])
def test_the_kernel_computes_the_product(results, index):
    weight, x, bias, y = results[index]
    exact = x.astype(np.float64) @ weight.astype(np.float64).T
    if bias is not None:
        exact += bias
    # One rounding of the float32 sum to float16 if y is, and the order of the sum.
    unit = 2.0**-11 if y.dtype == np.float16 else 2.0**-21
    assert np.abs(y - exact).max() <= unit * np.abs(exact).max() + 1e-6
