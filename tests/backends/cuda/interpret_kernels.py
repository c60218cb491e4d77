"""Run the kernels in Triton's interpreter: ``python interpret_kernels.py results.npz``.

A program of its own because TRITON_INTERPRET must be set before triton is imported. Stores ``y_i``
and ``w_i``, the decompressed weight, for each case of ``kernel_cases``, and ``u_i``, the weight as
float32, for each one of its ``unpack_cases``.
"""

import os
import sys

if __name__ == "__main__":  # and not when a test runner looks for doctests in here
    os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch


def run(case):
    from sparsec.backends.cuda.launch import packed_linear

    packed = case.packed()
    arrays = {name: torch.from_numpy(array) for name, array in packed.arrays.items()}
    inputs = {name: torch.from_numpy(array) for name, array in case.inputs().items()}
    y = torch.full((case.n + 1, case.m), torch.nan, dtype=getattr(torch, case.out))  # poisoned
    packed_linear(
        case.form, inputs["x"], arrays, case.m, case.values, bias=inputs.get("bias"),
        residual=inputs.get("residual"), act=case.act, out=y[: case.n], split=case.split,
        bucket=case.bucket, asm=False,
    )  # fmt: skip
    assert torch.isnan(y[case.n]).all(), f"written past the end: {case}"
    return y[: case.n].numpy(), unpacked(case, "float16").numpy()


def unpacked(case, dtype):
    from sparsec.backends.cuda.launch import unpack

    arrays = {name: torch.from_numpy(array) for name, array in case.packed().arrays.items()}
    w = torch.full((case.m + 1, case.k), torch.nan, dtype=getattr(torch, dtype))  # poisoned
    unpack(case.form, arrays, w[: case.m], case.values, asm=False)
    assert torch.isnan(w[case.m]).all(), f"decompressed past the end: {case}"
    return w[: case.m]


def main(results_file):
    from kernel_cases import cases, unpack_cases

    results = {}
    for i, case in enumerate(cases()):
        results[f"y_{i}"], results[f"w_{i}"] = run(case)
    for i, (case, dtype) in enumerate(unpack_cases()):
        results[f"u_{i}"] = unpacked(case, dtype).float().numpy()
    np.savez(results_file, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
