"""The report: true to its manifest, safe whatever the names, and the same for equal manifests."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import sample

from sparsec.ir.codes import Code
from sparsec.report import render
from sparsec.report.chart import MAX_BARS
from sparsec.report.page import verdict
from sparsec.report.reasons import SENTENCES

HOSTILE = (
    "<script>alert(1)</script>",
    "</title></style><script>alert(1)</script>",
    '" onmouseover="alert(1)',
    "' onload='alert(1)",
    "<img src=x onerror=alert(1)>",
    "javascript:alert(1)",
    '{"a": "</script>"}',
    "]]><svg onload=alert(1)>",
    "&lt;b&gt; &amp;",
    "--><b>",
    "name\x00with\x1b[31mcontrols\r\n",
    "\u202egnp.exe\u2066",
    "\u200bzero\ufeffwidth",
    "\u05d0\u05d1 right to left",
    "x" * 10_000,
)
_VOID = {"meta", "br", "rect"}
_ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "main", "header", "section", "footer", "h1",
    "h2", "h3", "p", "div", "span", "bdi", "code", "pre", "table", "thead", "tbody", "tr", "th",
    "td", "ul", "li", "dl", "dt", "dd", "details", "summary", "svg", "rect", "g",
}  # fmt: skip
_ATTRIBUTES = {
    "lang", "charset", "http-equiv", "content", "name", "class", "scope", "width", "height", "x",
    "y", "rx", "role", "aria-label",
}  # fmt: skip


class Page(HTMLParser):
    """Parses a page strictly: known elements and attributes only, everything closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in _ALLOWED, tag
        assert {key for key, _ in attrs} <= _ATTRIBUTES, attrs
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in _VOID

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def text(manifest: dict[str, Any]) -> str:
    return Page(render(manifest)).text


def poisoned(value: Any, poison: str) -> Any:
    """Return ``value`` with every text, keys of free objects included, replaced."""
    if isinstance(value, dict):
        free = {"options", "tools", "before", "after"}
        return {
            key: {f"{poison}{k}": poisoned(v, poison) for k, v in item.items()}
            if key in free and isinstance(item, dict) and "params" not in item
            else poisoned(item, poison)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [poisoned(item, poison) for item in value]
    return poison if isinstance(value, str) and value != "device" else value


@pytest.mark.parametrize("poison", HOSTILE, ids=lambda value: repr(value)[:24])
def test_no_name_becomes_markup(poison: str) -> None:
    manifest = poisoned(sample.manifest(), poison)
    manifest["kernels"] = [
        {"name": poison, "file": poison, "sm": 80, "num_warps": 4, "shared_bytes": 1}
    ]
    page = render(manifest)
    assert Page(page).text.count("1.44 times as fast") == 1
    assert "<script" not in page
    assert not set(page) & set("\x00\x1b\u202e\u2066\u200b\ufeff")


def test_the_policy_forbids_everything_but_its_own_style() -> None:
    page = render(sample.manifest())
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src &#x27;none&#x27;; style-src &#x27;sha256-")
    assert "unsafe" not in policy
    assert not re.search(r"https?://|src=|href=|url\(|@import", page)
    assert " style=" not in page
    assert not re.search(r"\son\w+=", page)


def test_equal_manifests_give_equal_pages() -> None:
    assert render(sample.manifest()) == render(copy.deepcopy(sample.manifest()))


def test_the_numbers_are_the_manifests() -> None:
    shown = text(sample.manifest())
    for words in (
        "minilm.onnx", "22.7 M", "13.1 M", "-42.3 %", "90.9 MB", "57.4 MB", "24.31 ms", "16.92 ms",
        "-30.4 %", "0.8412", "0.8297", "-0.0115", "0.9680", "1.44 times as fast as dense",
        "11 interleaved rounds", "x1.39 to x1.48", "1.4e-06", "tolerance 0.0001", "AMD EPYC 7B13",
        "onnxruntime 1.31.1", "latency=-30%", "unchanged", "0" * 64,
    ):  # fmt: skip
        assert words in shown, words


def test_what_stayed_dense_is_grouped_with_reasons() -> None:
    shown = text(sample.manifest())
    assert "2 of 20 layers stayed dense; 18 run a kernel for their zeros." in shown
    for words in ("measured_slower", SENTENCES[Code.MEASURED_SLOWER], "no_kernel",
                  "Gather reads rows, it multiplies nothing"):  # fmt: skip
        assert words in shown


def test_every_code_has_a_sentence() -> None:
    assert set(SENTENCES) == {str(code) for code in Code}


def test_modelled_times_are_never_called_measured() -> None:
    manifest = sample.manifest(latency=None)
    for row in manifest["layers"]:
        row["code"] = "modelled"
    page = text(manifest)
    assert "modelled, not measured" in page
    assert "ms (measured)" not in page
    assert "not timed" in page
    assert "times as fast" not in page


def test_without_times_the_zeros_are_drawn() -> None:
    manifest = sample.manifest()
    for row in manifest["layers"]:
        row.pop("dense_seconds", None)
        row.pop("sparse_seconds", None)
    assert "fraction of the weights that is zero" in text(manifest)


def test_a_ruined_model_is_never_praised() -> None:
    manifest = sample.manifest(fidelity={"cosine": 0.31, "agreement": 0.02})
    assert verdict(manifest)[0] == "warn"
    assert "cosine of only 0.31" in text(manifest)


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({}, "good", "1.44 times as fast as dense, measured, 1 thread"),
        ({"exit_code": 5}, "warn", "no gain: 1.44"),
        ({"goals": [{"goal": "macs=-9%", "before": 1, "after": 1, "met": False}], "exit_code": 5},
         "warn", "goal missed: macs=-9%"),
        ({"latency": None}, "plain", "not timed: this target cannot be run here"),
        ({"latency": None, "target": "onnx"}, "plain", "portable"),
    ],
)  # fmt: skip
def test_the_verdict_says_what_was_gained(changes: dict[str, Any], kind: str, words: str) -> None:
    got, said = verdict(sample.manifest(**changes))
    assert got == kind
    assert words in said


def test_a_slower_result_is_not_good() -> None:
    manifest = sample.manifest()
    manifest["latency"]["speedup"] = 0.9
    assert verdict(manifest)[0] == "plain"


@pytest.mark.parametrize(
    ("changes", "absent", "present"),
    [
        ({"layers": []}, ["What stayed dense, and why", "Every layer"], ["Passes"]),
        ({"passes": []}, ["Structure"], ["No pass was asked for."]),
        ({"accuracy": None, "goals": [], "notes": ["a note"]}, ["top1", "Goals"], ["a note"]),
        ({"fidelity": {"cosine": None, "agreement": None}}, ["with original"], ["parameters"]),
        (
            {"source": {"name": "", "sha256": None, "bytes": None, "data": {}}},
            ["minilm.onnx", "source sha256"],
            ["unnamed model"],
        ),
        ({"before": {"params": 0, "nonzero": 0, "bytes": 0, "macs": 0}}, [], ["0 B"]),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_what_is_missing_is_left_out(
    changes: dict[str, Any], absent: list[str], present: list[str]
) -> None:
    shown, full = text(sample.manifest(**changes)), text(sample.manifest())
    for words in absent:
        assert words in full
        assert words not in shown
    for words in present:
        assert words in shown


def test_zero_times_are_drawn() -> None:
    manifest = sample.manifest()
    for row in manifest["layers"]:
        row |= {"dense_seconds": 0, "sparse_seconds": 0}
    page = render(manifest)
    assert "0 → 0" in Page(page).text
    assert 'width="0.00%"' in page


def test_a_thousand_layers_are_listed_and_the_slowest_drawn() -> None:
    rows = [sample.layer(f"layer{index}", (8, 8), (index + 1e-6, 1e-6)) for index in range(1000)]
    page = render(sample.manifest(layers=rows, passes=[]))
    assert f"The {MAX_BARS} slowest of 1000 layers" in Page(page).text
    assert page.count('class="rail"') == 0
    assert page.count('<rect class="dense"') == MAX_BARS + 1  # and the legend
    assert "layer0" in page
    assert len(page) < 1 << 20


def test_the_artifact_holds_the_page_of_its_manifest(compiled: Path) -> None:
    from sparsec.artifact import Artifact

    manifest = Artifact.read(compiled).manifest
    assert (compiled / "report.html").read_text(encoding="utf-8") == render(manifest)


def test_the_structure_is_drawn_along_the_network() -> None:
    page = render(sample.manifest())
    drawing = re.search(r'<svg class="widths".*?</svg>', page, re.DOTALL)
    assert drawing is not None
    titles = re.findall(r"<title>(.*?)</title>", drawing[0])
    assert titles == [
        "/conv: 48 → 24 units",
        "/stem: 8 units; its 8 units are too few",
        "/head: 10 units; it is an output",
    ]
    bars = re.findall(
        r'<rect class="(\w+)" x="([\d.]+)" y="([\d.]+)"[^>]*height="([\d.]+)"', drawing[0]
    )
    assert [kind for kind, *_ in bars if kind != "hit"] == [
        "dense", "sparse", "dense", "sparse", "frozen",
    ]  # fmt: skip
    by_kind = [(kind, float(height)) for kind, _, _, height in bars if kind != "hit"]
    assert by_kind[0][1] == 130.0
    assert by_kind[1][1] == pytest.approx(130 * 0.5**0.5, abs=0.1)
    assert all(float(y) + float(h) == pytest.approx(130, abs=0.1) for _, _, y, h in bars)
    assert (
        "3 groups along the network: 1 got narrower, 1 are frozen, 1 were left" in Page(page).text
    )


def test_a_compilation_without_structure_has_no_picture() -> None:
    manifest = sample.manifest()
    manifest["passes"] = manifest["passes"][:1]
    assert 'class="widths"' not in render(manifest)


def test_a_thousand_groups_are_drawn_thin() -> None:
    manifest = sample.manifest()
    manifest["passes"][1]["groups"] *= 400
    page = render(manifest)
    assert page.count("<g>") == 1200
    assert re.search(r'<svg class="widths" width="4800\.0"', page)
    Page(page)
