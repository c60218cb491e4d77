"""Run the device's side of the operators in Triton's interpreter: ``python interpret_operators.py OUT``.

A program of its own because TRITON_INTERPRET must be set before triton is imported. On tensors of the CPU
everything but the dense product and the inline assembly is what runs on a device. Writes
the largest deviation from the reference, over its largest value, as JSON by case.
"""

import functools
import json
import os
import sys

if __name__ == "__main__":  # and not when a test runner looks for doctests in here
    os.environ["TRITON_INTERPRET"] = "1"

import torch
from test_torch_operators import K, M, arguments

from sparsec.backends.cuda import launch, operators, torch_formats
from sparsec.backends.cuda.variants import FORMATS


def main(results_file):
    # No inline assembly in the interpreter, and no float32 result of torch.mm on the CPU.
    launch.packed_linear = functools.partial(launch.packed_linear, asm=False)
    launch.unpack = functools.partial(launch.unpack, asm=False)
    operators._product = product
    results = {}
    for name in FORMATS:  # Triton has these
        for way, dense_from in (("packed", operators.NEVER), ("dense", 1)):
            for out in (torch.float16, torch.float32):
                args = list(arguments(name, out=out))
                args[9] = dense_from
                if out == torch.float32:
                    args[3:5] = torch.randn(*args[0].shape[:-1], M), "silu"
                y = operators.linear_on_device(name, *args)
                expected = operators.linear_on_cpu(name, *args)
                assert (y.shape, y.dtype) == (expected.shape, expected.dtype)
                error = (y.float() - expected.float()).abs().max() / expected.float().abs().max()
                results[f"{name} {way} {out}"] = float(error)
        packed, values = arguments(name)[1], arguments(name)[7]
        made = operators._unpack_on_device(name, packed, M, K, values, torch.float32)
        held = torch_formats.unpack(name, packed, (M, K), values)
        results[f"{name} unpack"] = float((made - held).abs().max() / held.abs().max())
    with open(results_file, "w") as file:
        json.dump(results, file)


def product(rows, weight):
    return rows.float() @ weight.float().T


if __name__ == "__main__":
    main(*sys.argv[1:])
