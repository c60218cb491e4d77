"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


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


class Numbers(click.ParamType):
    """Positive whole numbers joined by commas."""

    name = "N[,N...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the list."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(int(item) for item in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is no list of whole numbers", param, ctx)
        if min(numbers) < 1:
            self.fail(f"{value!r}: needed numbers of at least 1", param, ctx)
        return numbers
