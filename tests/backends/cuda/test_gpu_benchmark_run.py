"""How the GPU benchmark gets through what fails, hangs and takes too long; all of it without a device."""

import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[3]))
pytest.importorskip("torch", reason="the benchmark needs torch")
main = pytest.importorskip("benchmarks.gpu.__main__")
from benchmarks.gpu import end_to_end, native, packed, prefill, prepare  # noqa: E402
from benchmarks.gpu.isolated import FailedError, Worker  # noqa: E402
from benchmarks.gpu.plan import ENTRIES, EVERYWHERE, NATIVE, PREFILL, Entry  # noqa: E402
from benchmarks.gpu.shapes import Layer  # noqa: E402
from sparsec.backends.cuda import formats, nvcc  # noqa: E402
from sparsec.backends.cuda.launch import variant_for  # noqa: E402
from sparsec.backends.cuda.native import NativeVariant  # noqa: E402
from sparsec.backends.cuda.variants import unpack_variant  # noqa: E402


@pytest.fixture(autouse=True)
def _caches(tmp_path, monkeypatch):
    """Caches of the test alone: a benchmark names its own where none are, for all of its process."""
    for name in ("TRITON_CACHE_DIR", "SPARSEC_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name))


def test_a_worker_outlives_what_raises_crashes_and_hangs():
    with Worker() as worker:
        first = worker.call(os.getpid, seconds=60)
        with pytest.raises(FailedError, match="ValueError: invalid literal") as raised:
            worker.call(int, "x", seconds=60)
        assert not raised.value.fresh
        assert worker.call(os.getpid, seconds=60) == first != os.getpid()
        with pytest.raises(FailedError, match="its process ended with 7") as raised:
            worker.call(os._exit, 7, seconds=60)
        assert raised.value.fresh
        second = worker.call(os.getpid, seconds=60)
        assert second != first
        with pytest.raises(FailedError, match="no result within 1 s"):
            worker.call(time.sleep, 60, seconds=1)
        third = worker.call(os.getpid, seconds=60)
        assert third not in (first, second)
        os.kill(third, signal.SIGKILL)  # between two calls
        os.waitid(os.P_PID, third, os.WEXITED | os.WNOWAIT)
        with pytest.raises(FailedError, match="its process ended with -9") as raised:
            worker.call(os.getpid, seconds=60)
        assert raised.value.fresh
        assert worker.call(os.getpid, seconds=60) not in (first, second, third)


class Stub:
    """Answers as the process apart does: what ``answers`` has for the name of a function."""

    def __init__(self, answers):
        self.answers, self.calls = answers, []

    def call(self, function, *arguments, seconds):
        assert 0 < seconds <= 150
        self.calls.append((function, arguments))
        answer = self.answers(function, arguments)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Made:
    """In place of the pool: everything is there already."""

    sm = 90

    def __init__(self):
        self.packs, self.compiles = set(), set()

    def compile(self, function, calls):
        self.compiles |= {(function, each) for each in calls}

    def compiled(self, function, calls):
        assert {(function, each) for each in calls} <= self.compiles

    def pack(self, layers):
        self.packs |= set(layers)

    def packed(self, layer, entry):
        assert (layer, entry) in self.packs
        return "file"


ROW = dict.fromkeys(
    ("dense_us", "packed_us", "speedup", "limit", "share_of_limit", "gbytes_per_second"), 1.0
)
LONG_ROW = ROW | dict.fromkeys(("unpacked_us", "unpack_us", "unpack_gbytes_per_second"), 2.0)


def answers(function, arguments):
    """What a device on which two kernels are bad would answer."""
    if function in (packed.measure, prefill.measure):
        layer, n, entry = arguments[:3]
        if n == 64 and entry.format == "lps":
            return FailedError("CUDA error: an illegal memory access was encountered", fresh=True)
        row = {"format": entry.format, "sparsity": entry.sparsity, "values": entry.values}
        row |= {"layer": layer.name, "m": layer.m, "k": layer.k, "n": n}
        return row | (ROW if function is packed.measure else LONG_ROW)
    if function in (packed.check, native.check, prefill.check):
        return {"max_rel": 1e-4, "passed": "nm2_8" not in str(arguments)}
    if function is end_to_end.step and arguments[0] == "rows":
        return [{"model": "dense", "batch": arguments[1], "tokens_per_second": 9.0, "speedup": 1.0}]
    if function in (end_to_end.begin, end_to_end.step):
        if arguments[-1] == "bm32":
            return FailedError("no result within 120 s", fresh=True)
        return {
            "weight_bytes": 9,
            "peak_bytes": 9,
            "logit_error": 0.5,
            "passed": "lps" not in arguments,
        }
    return None if function is end_to_end.end else 1e12


@pytest.fixture
def _compiler(monkeypatch):
    monkeypatch.setattr(native, "missing", lambda: None)


@pytest.mark.usefixtures("_compiler")
def test_what_fails_is_reported_and_the_rest_is_measured(tmp_path, capsys):
    worker, path = Stub(answers), tmp_path / "results" / "gpu.json"
    run = main.Run(path, time.monotonic() + 600, worker)
    main.measure_all(run, Made(), False, 0, time.monotonic())
    result = json.loads(path.read_text())
    natives = result["native"]["rows"]
    assert [row["n"] for row in natives] == [16] * 14 + [1] * 14 + [64] * 4  # not lps
    lost = [each for each in result["failed"] if each["what"].startswith("native lps")]
    lost += [each for each in result["failed"] if re.match("native .*lps", each["what"])]
    assert len({each["what"] for each in lost}) == 10
    assert "illegal memory access" in lost[0]["reason"]
    measured = {row["format"] for row in result["triton"]["rows"]}
    assert measured == {entry.format for entry in EVERYWHERE + ENTRIES} - {"nm2_8"}
    assert {row["format"] for row in result["prefill"]["rows"]} == {e.format for e in PREFILL}
    assert not result["triton"]["correctness"]["nm2_8 float16 75%"]["passed"]
    whole = result["end_to_end"]
    assert {row["batch"] for row in whole["rows"]} == set(end_to_end.FULL.batches)
    assert whole["wrong"] == ["unstructured 0.7 lps"]
    wrong = run.wrong()
    for each in (
        "triton nm2_8 float16 75%",
        "unstructured 0.7 lps",
        "end to end: unstructured 0.7 bm32",
    ):
        assert each in wrong
    shown = capsys.readouterr().out
    assert "FAILED native" in shown
    assert "WRONG or unchecked: triton nm2_8" in shown


@pytest.mark.usefixtures("_compiler")
@pytest.mark.parametrize("part", main.PARTS)
def test_parts_alone_have_all_the_time_and_a_file_of_their_own(part, tmp_path):
    path = tmp_path / "gpu.json"
    # Past every share of the time: only a part that has all of it is measured.
    run = main.Run(path, 100.0, Stub(answers), clock=lambda: 99.0)
    main.measure_all(run, Made(), False, 0, 0.0, [part])
    result = json.loads(path.read_text())
    kinds = {"native": "native", "model": "end_to_end", "triton": "triton", "prefill": "prefill"}
    assert set(kinds.values()) & set(result) == {kinds[part]}
    assert result[kinds[part]]["rows"]
    assert not result["unmeasured"]
    assert result["copy_bytes_per_second"] == 1e12
    assert main.result_file("NVIDIA H200", [part]).name == f"gpu-nvidia-h200-{part}.json"
    assert main.result_file("NVIDIA H200", main.PARTS[::-1]).name == "gpu-nvidia-h200.json"


@pytest.mark.usefixtures("_compiler")
def test_what_there_is_no_time_for_is_listed_and_the_first_things_come_first(tmp_path, monkeypatch):
    now = [0.0]

    def slow(function, arguments):
        now[0] += 1.0
        return answers(function, arguments)

    worker = Stub(slow)
    run = main.Run(tmp_path / "gpu.json", 40.0, worker, clock=lambda: now[0])
    main.measure_all(run, Made(), False, 0, 0.0)
    result = json.loads((tmp_path / "gpu.json").read_text())
    # Ceilings and checks of the CUDA C++ kernels; their rows; a model; the rest.
    assert [row["n"] for row in result["native"]["rows"]] == [16] * 5
    assert result["end_to_end"]["rows"]
    assert any(
        "lps float16 90% Llama" in each or "N=64" in each or " 64 lps" in each
        for each in result["unmeasured"]
    )
    assert any(each.startswith("prefill") for each in result["unmeasured"])
    assert now[0] <= 41.0


def test_results_are_whole_at_any_time(tmp_path, monkeypatch):
    """The run may be ended after any step: every file that was there could be read."""
    path, seen = tmp_path / "gpu.json", []
    replace = os.replace

    def replaced(old, new):
        json.loads(Path(old).read_text())
        seen.append(Path(new))
        replace(old, new)

    monkeypatch.setattr(main.os, "replace", replaced)
    run = main.Run(path, time.monotonic() + 600, Stub(lambda function, arguments: 3))
    for _ in range(3):
        assert run.step("copy", min) == 3
    assert seen == [path] * 3
    assert list(tmp_path.iterdir()) == [path]


def test_weights_and_kernels_are_prepared_without_a_device(tmp_path):
    """By the launch of the kernels itself, so that a device finds what it launches in the caches."""
    pytest.importorskip("triton", reason="the kernels are compiled")
    layer, entry = Layer("tiny", "up", 96, 256), Entry("nm24", 0.5)
    calls = [("nm24", "float16", 16, 256, (("bias", True),))]
    files = [(unpack_variant("nm24", 256, "float16", "float16", "sm90"),)]
    files += [(NativeVariant("nm24_sp", "float16", 90, 8),)] if nvcc.find_nvcc() else []
    with prepare.Preparation(90, time.monotonic() + 120, processes=1) as made:
        made.pack([(layer, entry), (layer, entry)])
        made.compile(prepare.compile_triton, calls)
        made.compile(prepare.compile_file, files)
        arrays = prepare.stored(made.packed(layer, entry))
        made.compiled(prepare.compile_triton, calls)
        made.compiled(prepare.compile_file, files)
    dense = formats.get("nm24").unpack(arrays, (96, 256), "float16")
    assert np.count_nonzero(dense) == 96 * 128
    cubins = {each.name for each in (tmp_path / "TRITON_CACHE_DIR").rglob("*.cubin")}
    assert cubins == {f"{name}.cubin" for name in ("nm_matmul", "reduce_partials", "nm_unpack")}
    assert len(list((tmp_path / "TRITON_CACHE_DIR").rglob("nm_matmul.cubin"))) == 2  # whole, split
    kept = [each.name for each in (tmp_path / "SPARSEC_CACHE").rglob("*.cubin")]
    assert sorted(kept) == ["kernel.cubin", "nm_unpack.cubin"][2 - len(files) :]


def hang(sm):
    time.sleep(600)


def test_what_ends_or_hangs_in_the_pool_holds_nothing_up():
    layer, entry = Layer("tiny", "up", 96, 256), Entry("nm24", 0.5)
    begin = time.monotonic()
    with prepare.Preparation(90, begin + 300, processes=2) as made:
        made.compile(os._exit, [()])  # as a compiler may end; its argument is the device's sm
        made.pack([(layer, entry)])
        made.compiled(os._exit, [()])
        assert prepare.stored(made.packed(layer, entry))
        made.compile(hang, [()])
        made.pack([(Layer("tiny", "down", 64, 64), entry)] * 3)
        processes = list(made._workers)
    assert time.monotonic() - begin < 150  # on a busy machine
    assert [each._pipe for each in processes] == [None, None]


def test_every_kernel_of_a_row_is_compiled_ahead():
    for entry in EVERYWHERE + ENTRIES:
        made = set()
        for form, values, bucket, k, options in main.triton_calls(entry, False, "sm90"):
            named = {"form": form, "values": values, **dict(options)}
            made.add(variant_for(bucket, k, "float16", "sm90", **named))
        assert len(made) < 30
        named = {"form": entry.format, "values": entry.values}
        for layer, n, each in main.table(False):
            if each == entry:
                assert variant_for(n, layer.k, "float16", "sm90", **named) in made
        for _, k in packed.CHECKED:
            for n in (1, 3, 16, 17, 64, 70):
                assert variant_for(n, k, "float16", "sm90", bias=True, **named) in made
    assert {(entry.format, entry.sparsity) for entry in NATIVE} <= set(native.CASES)
    known = native.variants(90)
    assert len(known) == len(set(known))
    forms = {(k % 8 == 0, k % 64 == 0) for _, k in native.CHECKED}
    cleared = {(v.aligned, v.even) for v in known if isinstance(v, NativeVariant) and v.clear}
    assert cleared == forms


@pytest.mark.usefixtures("_compiler")
def test_a_model_that_is_lost_takes_no_other_one_along(tmp_path):
    """Each format is compared in turn: what ended the process of one leaves the others their rows."""

    def lost(function, arguments):
        if "lps" in arguments or arguments == ("rows", 8):
            return FailedError("its process ended with -11", fresh=True)
        return answers(function, arguments)

    run = main.Run(tmp_path / "gpu.json", time.monotonic() + 600, Stub(lost))
    main.whole_model(run, time.monotonic() + 600)
    found = run.result["end_to_end"]
    assert list(found["checks"]) == ["dense", "2:4 0.5 nm24_sp", "2:4 0.5 nm24"]
    assert [row["batch"] for row in found["rows"]] == [1, 16, 32] * 2
    lost_steps = [each["what"] for each in run.result["failed"]]
    assert len(lost_steps) == len(set(lost_steps)) == 4
