"""Errors carry the exit code of the command line and the sentence for people."""

import pytest

from sparsec.ir import errors
from sparsec.ir.errors import SparsecError, did_you_mean

CODES = {
    "SparsecError": 1,
    "UsageError": 2,
    "PassConfigError": 2,
    "ModelImportError": 1,
    "PassError": 1,
    "PatternError": 1,
    "ShapeError": 1,
    "CalibrationError": 1,
    "ArtifactError": 1,
    "HashMismatchError": 3,
    "VerifyError": 3,
    "UnsupportedOpError": 4,
    "UnsupportedTargetError": 4,
}


def test_every_error_has_the_exit_code_of_the_contract():
    classes = {
        name: value.exit_code
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, SparsecError)
    }
    assert classes == CODES


@pytest.mark.parametrize("name", CODES)
def test_the_drawing_in_the_module_shows_every_class_with_its_code(name):
    (line,) = [line for line in errors.__doc__.splitlines() if f" {name} " in f" {line} "]
    assert f" {CODES[name]} " in line


def test_the_message_and_the_place_are_kept():
    error = errors.ShapeError("layer: need 4, got 3", where="layer")
    assert (error.message, error.where, str(error)) == (
        "layer: need 4, got 3",
        "layer",
        error.message,
    )


def test_sparsec_re_exports_the_base():
    import sparsec

    assert sparsec.SparsecError is SparsecError


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("nm42", ["nm24", "block"], "did you mean 'nm24'?"),
        ("zzz", ["b", "a"], "known: a, b"),
        ("anything", [], "known: "),
    ],
)
def test_the_closest_name_is_suggested(name, known, hint):
    assert did_you_mean(name, known) == hint
