"""Operators of a device that run on the host, where Triton is not installed."""

import contextlib
import functools
import sys
import warnings


@contextlib.contextmanager
def device_operator_on_host(monkeypatch, form):
    """Run ``sparsec::<form>_linear`` as on a device for CPU tensors, and let no import find Triton."""
    import torch

    from sparsec.backends.cuda import operators

    for name in [each for each in sys.modules if each.split(".")[0] == "triton"] + ["triton"]:
        monkeypatch.setitem(sys.modules, name, None)
    on_host = torch.library.Library("sparsec", "IMPL")
    call = functools.partial(operators.linear_on_device, form)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # that it overrides
        on_host.impl(f"{form}_linear", call, "CPU", allow_override=True)
    yield
    on_host._destroy()
