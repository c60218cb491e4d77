"""The examples in the docstrings of the zoo are true."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["benchnets", "data", "ocr", "smollm2", "tiny", "wordpiece"])
def test_examples(name):
    failed, tried = doctest.testmod(importlib.import_module(f"examples.zoo.{name}"))
    assert tried > 0
    assert failed == 0
