"""Run ``nm24_matmul`` in Triton's interpreter: ``python interpret_nm24.py cases.npz results.npz``.

A program of its own because TRITON_INTERPRET must be set before triton is imported. Case i is
``x_i`` float16, ``vals_i``, ``meta_i`` and perhaps ``bias_i``; its result is ``y_i``, in the type of
``out_i``.
"""

import os
import sys

if __name__ == "__main__":  # and not when a test runner looks for doctests in here
    os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch

from sparsec.backends.cuda.launch import nm24_linear


def run(x, vals, meta, bias, out):
    n, m = len(x), len(vals)
    y = torch.full((n + 1, m), torch.nan, dtype=getattr(torch, out))  # poisoned, guarded by a row
    tensors = (None if each is None else torch.from_numpy(each) for each in (x, vals, meta, bias))
    nm24_linear(*tensors, out=y[:n], asm=False)
    assert torch.isnan(y[n]).all(), "written past the end"
    return y[:n].numpy()


def main(cases_file, results_file):
    cases = np.load(cases_file)
    count = sum(name.startswith("x_") for name in cases.files)
    results = {
        f"y_{i}": run(
            cases[f"x_{i}"], cases[f"vals_{i}"], cases[f"meta_{i}"], cases.get(f"bias_{i}"),
        str(cases[f"out_{i}"]),
        )
        for i in range(count)
    }  # fmt: skip
    np.savez(results_file, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
