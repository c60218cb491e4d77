"""``report.html``: one page that says what a compilation did, made from its manifest alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparsec.artifact import format as fmt
from sparsec.report.page import render

__all__ = ["render", "write_report"]


def write_report(stage: Path, manifest: dict[str, Any]) -> None:
    """Write the report of ``manifest`` into the folder of its artifact."""
    (stage / fmt.REPORT).write_text(render(manifest), encoding="utf-8")
