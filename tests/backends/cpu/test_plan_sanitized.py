"""The tests of the library again, on builds of it that check each access and each overflow.

A build has AddressSanitizer and UndefinedBehaviorSanitizer, which end the process at the first wrong
access, and is loaded into an interpreter of its own. One has the AVX-512 unit with its intrinsics written
out on arrays (``avx512_on_arrays.h``), and so runs that unit on any machine with AVX2: what it loads,
masks, shuffles and sums up is checked for vectors of 16 lanes, what a compiler makes of the real
instructions is not.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sparsec.backends.cpu.build import FILE_NAME, build_library
from sparsec.backends.cpu.library import features
from tests.backends.cpu.layers import NEEDS_LIBRARY

CXX = shutil.which("g++")
HERE = Path(__file__).parent
# An address beyond a plan, an index that a check let through, a sum that wraps around, a wild shift.
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g1")
ON_ARRAYS = ("-include", str(HERE / "avx512_on_arrays.h"), "-Wno-unused-parameter")
KERNELS = (
    "test_gemv.py", "test_few_columns.py", "test_linear.py", "test_window.py", "test_encoder.py",
)  # fmt: skip
# The library is found beside its module; the tests run with another one in its place.
PROGRAM = """
import sys
from pathlib import Path
from sparsec.backends.cpu import library
library.library_path = lambda: Path(sys.argv[1])
import pytest
sys.exit(pytest.main(["-q", "-x", "-n0", "-p", "no:cacheprovider", *sys.argv[2:]]))
"""

pytestmark = [pytest.mark.slow, NEEDS_LIBRARY]


def runtime() -> str | None:
    """Where the library of AddressSanitizer is, which must be loaded first; None if it is missing."""
    if CXX is None or not sys.platform.startswith("linux"):
        return None
    found = subprocess.run(
        [CXX, "-print-file-name=libasan.so"], check=True, capture_output=True, text=True
    ).stdout.strip()
    return found if Path(found).is_file() else None


def build(folder: Path, *flags: str) -> Path:
    """Build the library with sanitizers and more flags, without AVX-512 instructions where these stand in."""
    other = {"-O3": "-O1"}  # the checks are the same, and compiling them ten times as fast

    def call(command: list[str]) -> None:
        skipped = "-mavx512" if flags else "\0"
        words = [other.get(word, word) for word in command if not word.startswith(skipped)]
        subprocess.run(words, check=True)

    command = [str(CXX), *SANITIZERS, *flags]
    build_library(command, platform.machine(), folder / FILE_NAME, folder, call)
    return folder / FILE_NAME


def run_tests(library: Path, *arguments: str) -> str:
    """Run tests of this folder on a library and return what they print."""
    environment = {
        **os.environ,
        "LD_PRELOAD": str(runtime()),
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "SPARSEC_FUZZ_TRIALS": "4000",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(library), *arguments],
        env=environment,
        cwd=HERE,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return done.stdout


@pytest.mark.skipif(runtime() is None, reason="needs g++ with AddressSanitizer")
def test_nothing_is_read_or_written_outside(tmp_path: Path) -> None:
    assert " passed" in run_tests(build(tmp_path), "test_plan_fuzz.py", *KERNELS)


@pytest.mark.skipif(runtime() is None, reason="needs g++ with AddressSanitizer")
@pytest.mark.skipif("avx2" not in features(), reason="needs AVX2")
def test_the_avx512_unit_on_arrays(tmp_path: Path) -> None:
    printed = run_tests(build(tmp_path, *ON_ARRAYS), *KERNELS, "-k", "avx512")
    passed = re.search(r"(\d+) passed", printed)
    assert passed is not None
    assert int(passed[1]) > 100, printed
