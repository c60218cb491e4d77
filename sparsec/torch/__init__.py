"""SparseC inside torch: sparse layers in any module, without a graph and without an artifact.

Everything in here needs torch; the kernels need a CUDA device, and without one the same operators
run on the CPU, as their own reference.
"""

from sparsec.torch.linear import Dispatch, SparseLinear
from sparsec.torch.sparsify import SparsifyReport, sparse_layers, sparsify_
from sparsec.torch.storage import load, save
from sparsec.torch.tuning import tune

__all__ = [
    "Dispatch",
    "SparseLinear",
    "SparsifyReport",
    "load",
    "save",
    "sparse_layers",
    "sparsify_",
    "tune",
]
