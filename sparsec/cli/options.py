"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

_MOST_THREADS = 1024  # each takes memory before anything runs

F = TypeVar("F", bound=Callable[..., Any])


class Filled(click.types.StringParamType):
    """Text of at least one character: ``""`` is what an unset variable of a shell leaves.

    Parameters
    ----------
    name : str
        What it stands for, as ``--help`` prints it.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return ``value``, or end with a usage error."""
        if not value.strip():
            self.fail(f"{value!r}: needed a {self.name}, got nothing", param, ctx)
        return value


PATH, SOURCE, NAME = Filled("path"), Filled("source"), Filled("name")


def json_option(function: F) -> F:
    """Add ``--json``."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object, nothing else."
    )(function)


def verbose_option(function: F) -> F:
    """Add ``-v``: tracebacks."""
    return click.option(
        "-v", "--verbose", is_flag=True, help="Say more, and show the traceback of an error."
    )(function)


def numbers(value: str) -> tuple[int, ...]:
    """Read positive whole numbers joined by commas, as the type of an option.

    Raises
    ------
    click.BadParameter
        If they are none.
    """
    try:
        result = tuple(int(item) for item in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no list of whole numbers, such as 1,2") from error
    if min(result) < 1:
        raise click.BadParameter(f"{value!r}: needed numbers of at least 1")
    return result


def thread_counts(value: str) -> tuple[int, ...]:
    """Read numbers of threads joined by commas, as the type of an option.

    Raises
    ------
    click.BadParameter
        If they are none, or more than any machine could use.
    """
    result = numbers(value)
    if max(result) > _MOST_THREADS:
        raise click.BadParameter(f"{value!r}: needed at most {_MOST_THREADS} threads")
    return result
