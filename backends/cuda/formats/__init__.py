"""The packed formats of the GPU backend, one a file, by name.

>>> import numpy as np
>>> form = get("nm24")
>>> arrays = form.pack(np.array([[0, 5, 0, 7]], np.float16))
>>> sorted(arrays), form.nbytes(arrays), form.unpack(arrays, (1, 4)).tolist()
(['meta', 'vals'], 36, [[0.0, 5.0, 0.0, 7.0]])

A format is added by writing its file and naming it in ``_FORMATS``; tests, benchmarks and the
choice of kernels go through :func:`get` and :func:`names`.
"""

from __future__ import annotations

import importlib

from sparsec.backends.cuda.formats.base import Arrays, Format, Packed
from sparsec.ir.errors import ShapeError

_PACKAGE = "sparsec.backends.cuda.formats"
# name: (module, class, arguments)
_FORMATS: dict[str, tuple[str, str, tuple[int, ...]]] = {
    "nm24": ("nm24", "NM24", ()),
    "nm1_4": ("nm", "NMFormat", (1, 4)),
    "nm2_4": ("nm", "NMFormat", (2, 4)),
    "nm2_8": ("nm", "NMFormat", (2, 8)),
    "nm4_8": ("nm", "NMFormat", (4, 8)),
    "nm8_16": ("nm", "NMFormat", (8, 16)),
    "bm32": ("bm32", "Bitmap", ()),
    "block8x1": ("block", "Blocks", (8,)),
    "block16x1": ("block", "Blocks", (16,)),
    "nm24_sp": ("nm24_sp", "NM24Sp", ()),
    "nm14_sp": ("nm14_sp", "NM14Sp", ()),
    "lps": ("lps", "Lps", ()),
}


def names() -> tuple[str, ...]:
    """Return the names of all formats."""
    return tuple(_FORMATS)


def get(name: str) -> Format:
    """Return the format of that name.

    Raises
    ------
    ShapeError
        If there is none.
    """
    if name not in _FORMATS:
        raise ShapeError(f"{name!r} is no packed format; known: {', '.join(names())}")
    module, cls, arguments = _FORMATS[name]
    form: Format = getattr(importlib.import_module(f"{_PACKAGE}.{module}"), cls)(*arguments)
    return form


__all__ = ["Arrays", "Format", "Packed", "get", "names"]
