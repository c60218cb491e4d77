"""SparseC inside torch: sparse layers in any module, and pruned modules to be trained on.

Everything in here needs torch. :func:`sparsify_` puts sparse layers into a module, without a graph and
without an artifact; their kernels need a CUDA device, and without one the same operators run on the CPU,
as their own reference. :func:`prune` removes structure and returns a graph module, which
``sparsec.compile`` takes again once it is trained.
"""

from sparsec.torch.linear import Dispatch, SparseLinear
from sparsec.torch.prune import prune
from sparsec.torch.sparsify import SparsifyReport, sparse_layers, sparsify_
from sparsec.torch.storage import load, save
from sparsec.torch.tuning import tune

__all__ = [
    "Dispatch",
    "SparseLinear",
    "SparsifyReport",
    "load",
    "prune",
    "save",
    "sparse_layers",
    "sparsify_",
    "tune",
]
