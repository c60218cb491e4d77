"""What passes make of small graphs, as text: ``pytest --update-golden`` rewrites what is expected."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsec.ir.text import from_text, to_text
from sparsec.passes.base import PassContext
from sparsec.passes.pipeline import Pipeline

FILES = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden(path: Path, update_golden: bool):
    head, rest = path.read_text().split("--- before\n")
    before, expected = rest.split("--- after\n")
    model = from_text(before)
    Pipeline.parse(head.removeprefix("passes:").split()).run(model, PassContext())
    got = to_text(model, most_elements=None)
    if update_golden:
        path.write_text(f"{head}--- before\n{before}--- after\n{got}")
    else:
        assert got == expected


def test_there_are_golden_files():
    assert len(FILES) >= 10
