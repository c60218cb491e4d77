"""A SPEC becomes a pass whose fields are its options; recipes rebuild the same pass."""

import dataclasses
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsec.ir.errors import PassConfigError
from sparsec.passes.base import Pass, PassResult, check_pass
from sparsec.passes.block import BlockPass
from sparsec.passes.nm import NMPass
from sparsec.passes.spec import aliases, build_pass, option_types, parse_spec, passes
from sparsec.passes.unstructured import UnstructuredPass

SPECS = [
    ("nm24", NMPass(n=2, m=4)),
    ("nm:n=1,m=4", NMPass(n=1, m=4)),
    ("nm24:exclude=head+^stem,ops=Conv", NMPass(exclude=("head", "^stem"), ops=("Conv",))),
    ("unstructured:sparsity=0.9,scope=global", UnstructuredPass(sparsity=0.9, scope="global")),
    ("block41:sparsity=0.8", BlockPass(rows=4, cols=1, sparsity=0.8)),
    ("block:rows=2,cols=8,sparsity=0.25", BlockPass(rows=2, cols=8, sparsity=0.25)),
    ("nm24:criterion=magnitude", NMPass()),
]


@pytest.mark.parametrize(("spec", "expected"), SPECS)
def test_a_spec_is_read(spec, expected):
    assert parse_spec(spec) == expected


@pytest.mark.parametrize(("spec", "expected"), SPECS)
def test_a_recipe_rebuilds_the_pass(spec, expected):
    built = parse_spec(spec)
    assert build_pass(built.name, built.options()) == expected


@given(
    n=st.integers(1, 8),
    more=st.integers(1, 8),
    include=st.lists(st.from_regex(r"\A[a-z.]{1,5}\Z"), max_size=3),
)
def test_options_as_text_and_as_values_are_one(n, more, include):
    text = f"nm:n={n},m={n + more}" + (f",include={'+'.join(include)}" if include else "")
    assert parse_spec(text) == build_pass("nm", {"n": n, "m": n + more, "include": include})


def test_a_short_name_takes_options_in_a_recipe_too():
    assert build_pass("nm24", {"ops": ["Conv"]}) == NMPass(ops=("Conv",))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nm244", "unknown pass 'nm244'; did you mean 'nm24'?"),
        ("", "unknown pass ''"),
        ("nm24:critereon=x", "unknown option 'critereon'; did you mean 'criterion'?"),
        ("nm24:criterion=magnitud", "unknown criterion 'magnitud'; did you mean 'magnitude'?"),
        ("nm:n", "'n' is no option; write key=value"),
        ("nm:n=", "'n=' is no option"),
        ("nm:n=2,n=3", "'n' is given twice"),
        ("nm24:n=1", "'n' is given twice"),
        ("nm:n=two", "n='two' cannot be read as int"),
        ("nm:n=2.5", "n='2.5' cannot be read as int"),
        ("nm:n=4,m=2", "need 0 < n < m"),
        ("unstructured:sparsity=half", "sparsity='half' cannot be read as float"),
        ("nm24:include=(", r"'\(' is no regular expression"),
    ],
)
def test_what_cannot_be_read_is_named(spec, message):
    with pytest.raises(PassConfigError, match=message.replace("?", r"\?")):
        parse_spec(spec)


@pytest.mark.parametrize("value", [True, 2.5, "x", None, [2], float("inf"), float("nan")])
def test_a_recipe_value_of_another_type_is_refused(value):
    with pytest.raises(PassConfigError, match="cannot be read as int"):
        build_pass("nm", {"n": value})


def test_a_number_beyond_all_is_refused():
    with pytest.raises(PassConfigError, match="cannot be read as float"):
        build_pass("unstructured", {"sparsity": 10**400})


@pytest.mark.parametrize("key", [1, None, True, 2.5])
def test_an_option_of_a_recipe_that_is_no_text_is_unknown(key):
    with pytest.raises(PassConfigError, match=f"unknown option {key}; known: criterion, "):
        build_pass("unstructured", {key: 0.5})


def test_whole_numbers_may_be_floats_in_a_recipe():
    assert build_pass("nm", {"n": 2.0, "m": 4}) == NMPass()


def test_every_pass_and_every_short_name_can_be_built():
    for name in [*passes, *aliases()]:
        built = parse_spec(name)
        assert build_pass(built.name, built.options()) == built
        assert set(option_types(type(built))) == set(built.options())


class NotFrozen(Pass):
    name: ClassVar[str] = "plain"

    def run(self, model, context):
        return PassResult()


@dataclasses.dataclass(frozen=True)
class Abstract(Pass):
    name: ClassVar[str] = "abstract"


@pytest.mark.parametrize(
    ("name", "cls", "message"),
    [
        ("plain", NotFrozen, "must be a frozen dataclass"),
        ("abstract", Abstract, "is abstract: it lacks run"),
        ("thing", int, "not a subclass"),
        ("thing", 3, "not a subclass"),
        ("other", NMPass, "registered as 'other' calls itself 'nm'"),
    ],
)
def test_what_is_no_pass_is_refused_when_it_is_registered(name, cls, message):
    with pytest.raises(PassConfigError, match=message):
        check_pass(name, cls)
