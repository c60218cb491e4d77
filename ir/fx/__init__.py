"""The two-way bridge between the graph and :mod:`torch.fx`; everything in here needs torch.

:func:`to_fx` imports a graph as a module that torch can run, differentiate and export;
:class:`FxExecutor` runs it on NumPy feeds. ``docs/fx.md`` says what can be imported.
"""

from sparsec.ir.fx.executor import FxExecutor
from sparsec.ir.fx.importer import to_fx
from sparsec.ir.fx.params import load_torch_state_dict, state_dict_to_torch

__all__ = ["FxExecutor", "load_torch_state_dict", "state_dict_to_torch", "to_fx"]
