"""Run ``nm24_matmul`` in Triton's interpreter: ``python interpret_nm24.py cases.npz results.npz``.

A program of its own because TRITON_INTERPRET must be set before triton is imported. Case i
is ``x_i`` float16, ``vals_i``, ``meta_i`` and perhaps ``bias_i``; its result is ``y_i`` float16.
"""

import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch

from sparsec.backends.cuda.kernels.nm24_matmul import nm24_matmul

BM, BN, BK = 16, 16, 64  # tiny: an interpreted program costs milliseconds


def run(x, vals, meta, bias):
    x = torch.from_numpy(x)
    n, k = x.shape
    m = vals.shape[0]
    y = torch.full((n + 1, m), torch.nan, dtype=x.dtype)  # poisoned, with a guard row
    grid = (-(-m // BM), -(-n // BN))
    nm24_matmul[grid](
        x, torch.from_numpy(vals), torch.from_numpy(meta),
        None if bias is None else torch.from_numpy(bias), y, m, n, k,
        BM=BM, BN=BN, BK=BK, EVEN_K=k % BK == 0, ASM=False,
    )  # fmt: skip
    assert torch.isnan(y[n]).all(), "written past the end"
    return y[:n].numpy()


cases = np.load(sys.argv[1])
count = sum(name.startswith("x_") for name in cases.files)
results = {
    f"y_{i}": run(
        cases[f"x_{i}"], cases[f"vals_{i}"], cases[f"meta_{i}"], cases.get(f"bias_{i}")
    )
    for i in range(count)
}  # fmt: skip
np.savez(sys.argv[2], **results)
