"""Compiles a CUDA C++ kernel of ours with g++ and runs it on numpy arrays, lane by lane."""

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from sparsec.backends.cuda.native import FOLDER, sizes_of

HERE = Path(__file__).parent
COMPILER = os.environ.get("CXX") or shutil.which("g++")
_BUILT = tempfile.TemporaryDirectory(prefix="sparsec-emulated-")


class Region(ctypes.Structure):
    _fields_ = (
        ("begin", ctypes.c_void_p),
        ("bytes", ctypes.c_uint64),
        ("writable", ctypes.c_int),
    )


@functools.cache
def library(variant):
    """Return the compiled emulation of a variant; its architecture does not matter."""
    folder = Path(_BUILT.name)
    source = folder / f"{variant.name}.cpp"
    source.write_text(f'#include "{variant.source.name}"\nEMULATE({variant.entry})\n')
    defines = [f"-D{name}={value}" for name, value in variant.defines.items()]
    options = ["-std=c++20", "-O1", "-fPIC", "-shared", f"-I{HERE}", f"-I{FOLDER}", *defines]
    target = source.with_suffix(".so")
    done = subprocess.run(
        [COMPILER, *options, source, "-o", target], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    run = ctypes.CDLL(str(target)).emulate
    run.restype = ctypes.c_char_p
    return run


def launch(variant, arrays, sizes, order=0, eager=False):
    """Launch a variant on arrays by argument name, in place, as its launch data says.

    Arguments named in none are null (optional) or allocated here (scratch); scratch that must be
    zero at the start must be zero again at the end.
    """
    data = variant.launch()
    arrays = dict(arrays)
    values, regions = [], []
    for argument in data["arguments"]:
        name = argument["name"]
        if argument["kind"] == "value":
            values.append(ctypes.c_int32(sizes[name]))
            continue
        if argument["kind"] == "scratch" and name not in arrays:
            shape = sizes_of(argument["shape"], sizes)
            fill = 0 if argument["zero"] else np.nan
            arrays[name] = np.full(shape, fill, dtype=argument["dtype"])
        array = arrays.get(name)
        assert array is not None or argument.get("optional"), name
        if array is None or not array.size:
            values.append(ctypes.c_void_p(None))
            continue
        assert array.flags.c_contiguous
        assert array.ctypes.data % 16 == 0, name
        values.append(ctypes.c_void_p(array.ctypes.data))
        writable = name == "y" or argument["kind"] == "scratch"
        regions.append(Region(array.ctypes.data, array.nbytes, writable))
    addresses = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
    error = library(variant)(
        (ctypes.c_uint * 3)(*sizes_of(data["grid"], sizes)),
        ctypes.c_uint(data["threads"]),
        ctypes.c_uint(data["shared_bytes"]),
        addresses,
        (Region * len(regions))(*regions),
        ctypes.c_uint(len(regions)),
        ctypes.c_int(order),
        ctypes.c_int(eager),
    )
    if error:
        raise RuntimeError(error.decode())
    for argument in data["arguments"]:
        if argument.get("zero"):
            assert not arrays[argument["name"]].any(), "counters are not ready for the next launch"
