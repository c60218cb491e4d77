"""The table of operators in the documentation says what the rules do."""

from __future__ import annotations

from pathlib import Path

import onnx

from sparsec.ir.op_rules import op_rules
from sparsec.ir.op_rules.table import operator_table

PAGE = Path(__file__).parents[2] / "docs" / "operators.md"
BARRIERS = "\n## Barriers"


def test_the_page_is_current():
    # What is no rule depends on the operators that the installed onnx knows.
    written, made = PAGE.read_text(encoding="utf-8"), operator_table()
    assert written.partition(BARRIERS)[0] == made.partition(BARRIERS)[0]


def test_every_rule_says_what_it_follows():
    assert all(op_rules.get(name).about for name in op_rules)


def test_every_name_is_an_operator():
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history()}
    assert set(op_rules) <= known
