"""Keep pytest away from modules whose optional dependencies are not installed here."""

import os
from importlib.util import find_spec

from hypothesis import settings

# A worker for each processor: threads of torch's beside them would only wait for one another.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

collect_ignore_glob = [
    "tests/**/conftest.py",  # no doctests there, and several files of one name cannot be imported
    "tests/conftest.py",
    *([] if find_spec("triton") else ["sparsec/backends/cuda/kernels/*"]),
    *(
        []
        if find_spec("torch")
        else ["sparsec/ir/fx/*", "sparsec/ir/load_torch.py", "sparsec/torch/*"]
    ),
]

# Examples are the same in every run: a failure is one that everybody sees.
settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("fixed")
