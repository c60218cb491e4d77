"""Pruning a torch module and getting a torch module back, to be trained on.

Needs ``pip install 'sparsec[torch]'``. :func:`prune` removes structure and returns a graph module;
``sparsec.compile`` takes that module again once it is trained.
"""

from sparsec.torch.prune import prune

__all__ = ["prune"]
