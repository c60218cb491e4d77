"""The table of operators in the documentation says what the rules do."""

from __future__ import annotations

from pathlib import Path

import onnx

from sparsec.ir.op_rules import op_rules
from sparsec.ir.op_rules.barriers import BARRIERS as BARRIERS_BY_NAME
from sparsec.ir.op_rules.table import operator_table, standard_operators

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
    assert {name for name in op_rules if "::" not in name} <= known


def test_every_operator_has_a_rule_or_a_reason():
    assert set(standard_operators()) <= set(op_rules) | set(BARRIERS_BY_NAME)
    assert not set(op_rules) & set(BARRIERS_BY_NAME)
