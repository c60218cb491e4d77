"""The fuzz tests again, and the tests of products, on a library that checks each access and each overflow.

The library is built with AddressSanitizer and UndefinedBehaviorSanitizer, which end the process at the first
wrong access, and loaded into an interpreter of its own.
"""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sparsec.backends.cpu.build import FILE_NAME, build_library

CXX = shutil.which("g++")
# An address beyond a plan, an index that a check let through, a sum that wraps around, a wild shift.
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g1")
TESTS = ("test_plan_fuzz.py", "test_gemv.py", "test_few_columns.py", "test_linear.py")
# The library is found beside its module; the tests run with another one in its place.
PROGRAM = """
import sys
from pathlib import Path
from sparsec.backends.cpu import library
library.library_path = lambda: Path(sys.argv[1])
import pytest
sys.exit(pytest.main(["-q", "-x", "-n0", "-p", "no:cacheprovider", *sys.argv[2:]]))
"""


def runtime() -> str | None:
    """Where the library of AddressSanitizer is, which must be loaded first; None if it is missing."""
    if CXX is None or not sys.platform.startswith("linux"):
        return None
    found = subprocess.run(
        [CXX, "-print-file-name=libasan.so"], check=True, capture_output=True, text=True
    ).stdout.strip()
    return found if Path(found).is_file() else None


@pytest.mark.slow
@pytest.mark.skipif(runtime() is None, reason="needs g++ with AddressSanitizer")
def test_nothing_is_read_or_written_outside(tmp_path: Path) -> None:
    assert CXX is not None
    library = tmp_path / FILE_NAME
    objects = tmp_path / "objects"
    objects.mkdir()
    build_library(
        [CXX, *SANITIZERS],
        platform.machine(),
        library,
        objects,
        lambda command: subprocess.run(command, check=True),
    )
    environment = {
        **os.environ,
        "LD_PRELOAD": str(runtime()),
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "SPARSEC_FUZZ_TRIALS": "4000",
    }
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(library), *(str(here / name) for name in TESTS)],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    assert " passed" in done.stdout
