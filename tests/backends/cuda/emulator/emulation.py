"""Compiles a CUDA C++ kernel of ours with g++ and runs it on numpy arrays, lane by lane."""

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from sparsec.backends.cuda.loader import extents
from sparsec.backends.cuda.native import FOLDER

HERE = Path(__file__).parent
COMPILER = os.environ.get("CXX") or shutil.which("g++")
FLAGS = ("-std=c++20", "-O1", "-fPIC")
_BUILT = tempfile.TemporaryDirectory(prefix="sparsec-emulated-")


class Region(ctypes.Structure):
    _fields_ = (
        ("begin", ctypes.c_void_p),
        ("bytes", ctypes.c_uint64),
        ("writable", ctypes.c_int),
    )


def build(name, source, entry, defines):
    """Return the emulation of one kernel, compiled by g++."""
    run = ctypes.CDLL(str(compile_library(name, source, entry, defines))).emulate
    run.restype = ctypes.c_char_p
    return run


def compile_library(name, source, entry, defines):
    """Return the path of a library with an emulated kernel and a fake driver that launches it."""
    folder = Path(_BUILT.name)
    driver, target = folder / f"{name}.cpp", folder / f"{name}.so"
    includes = f'#include "{source}"\n#include "fake_driver.h"\n'
    driver.write_text(f"{includes}EMULATE({entry})\nFAKE_DRIVER({entry})\n")
    header, *objects = shared_parts()
    # Libraries of one process share nothing.
    options = ["-shared", "-Wl,-Bsymbolic", "-include", header]
    options += [f"-D{each}={value}" for each, value in defines.items()]
    compiled(*options, driver, *objects, "-o", target)
    return target


@functools.cache
def shared_parts():
    """Return what all kernels are built with, compiled once: a header, and the objects to link."""
    folder = Path(_BUILT.name)
    header = folder / "lanes.h"
    header.write_text('#include "lanes.cuh"\n')
    compiled("-x", "c++-header", header, "-o", f"{header}.gch")
    objects = [folder / "emulate.o", folder / "fake_driver.o"]
    for each in objects:
        compiled("-include", header, "-c", HERE / f"{each.stem}.cc", "-o", each)
    return header, *objects


def compiled(*options):
    """Run the compiler."""
    command = [COMPILER, *FLAGS, f"-I{HERE}", f"-I{FOLDER}", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@functools.cache
def library(variant):
    """Return the emulation of a variant; its architecture does not matter."""
    return build(variant.name, variant.source.name, variant.entry, variant.defines)


def call(run, grid, threads, shared_bytes, values, regions, order=0, eager=False):
    """Run a compiled emulation; ``values`` are ctypes objects, the arguments of the kernel."""
    addresses = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
    error = run(
        (ctypes.c_uint * 3)(*grid),
        ctypes.c_uint(threads),
        ctypes.c_uint(shared_bytes),
        addresses,
        (Region * len(regions))(*regions),
        ctypes.c_uint(len(regions)),
        ctypes.c_int(order),
        ctypes.c_int(eager),
    )
    if error:
        raise RuntimeError(error.decode())


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
            shape = extents(argument["shape"], sizes)
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
        writable = name in ("y", "w") or argument["kind"] == "scratch"
        regions.append(Region(array.ctypes.data, array.nbytes, writable))
    grid = extents(data["grid"], sizes)
    run = library(variant)
    call(run, grid, data["threads"], data["shared_bytes"], values, regions, order, eager)
    for argument in data["arguments"]:
        if argument.get("zero"):
            assert not arrays[argument["name"]].any(), "counters are not ready for the next launch"
