"""One registry: built-ins lazily, plug-ins by entry point, clashes and failures told."""

from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest

from sparsec.ir import registry as module
from sparsec.ir.errors import PassConfigError, SparsecError, UsageError
from sparsec.ir.registry import Registry


@pytest.fixture
def points(monkeypatch):
    """Entry points that the installed distributions are made to have."""
    found = []
    monkeypatch.setattr(
        module, "entry_points", lambda group: [p for p in found if p.group == group]
    )

    def add(name, target, distribution, group="test.things"):
        point = EntryPoint(name, target, group)
        object.__setattr__(point, "dist", SimpleNamespace(name=distribution))
        found.append(point)

    return add


def things(**options):
    return Registry("thing", "test.things", {"ordered": "collections:OrderedDict"}, **options)


def test_listing_imports_nothing():
    registry = Registry("thing", "test.things", {"a": "no.such.module:x", "b": "no.such:y"})
    assert list(registry) == ["a", "b"]
    assert "a" in registry
    assert "c" not in registry


def test_a_builtin_is_loaded_once():
    import collections

    registry = things()
    assert registry.get("ordered") is collections.OrderedDict
    assert registry.get("ordered") is registry.get("ordered")


def test_an_unknown_name_gets_a_suggestion_in_the_error_asked_for():
    with pytest.raises(UsageError, match=r"unknown thing 'orderd'; did you mean 'ordered'\?"):
        things().get("orderd")
    with pytest.raises(PassConfigError):
        things(error=PassConfigError).get("orderd")


def test_a_plugin_is_found(points):
    points("counter", "collections:Counter", "counting")
    registry = things()
    assert list(registry) == ["counter", "ordered"]
    assert registry.entries()["counter"].distribution == "counting"
    import collections

    assert registry.get("counter") is collections.Counter


def test_a_plugin_of_another_group_is_not(points):
    points("counter", "collections:Counter", "counting", group="test.others")
    assert list(things()) == ["ordered"]


@pytest.mark.parametrize("name", ["ordered", "counter"])
def test_a_name_that_two_claim_names_both(points, name):
    points("counter", "collections:Counter", "counting")
    points(name, "collections:deque", "queues")
    with pytest.raises(SparsecError, match=f"two distributions .* '{name}': .* and queues"):
        list(things())


def test_one_distribution_found_twice_is_no_clash(points):
    points("counter", "collections:Counter", "counting")
    points("counter", "collections:Counter", "counting")
    assert list(things()) == ["counter", "ordered"]


@pytest.mark.parametrize("target", ["no_such_module:x", "collections:no_such_name", "no attribute"])
def test_a_plugin_that_does_not_import_is_reported_with_its_distribution(points, target):
    points("broken", target, "breakage")
    registry = things()
    with pytest.raises(SparsecError, match="'broken' of the distribution breakage") as caught:
        registry.get("broken")
    assert caught.value.__cause__ is not None
    assert registry.get("ordered")  # the others still work


def test_what_is_registered_is_checked():
    def check(name, loaded):
        raise PassConfigError(f"{name} is not fit")

    with pytest.raises(PassConfigError, match="ordered is not fit"):
        things(check=check).get("ordered")
