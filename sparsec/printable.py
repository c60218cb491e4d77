"""Text from models and artifacts, made safe to look at."""

from __future__ import annotations

import unicodedata

# Control, format (direction marks, zero-width), surrogate, line and paragraph separators.
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def printable(value: object) -> str:
    r"""Return ``value`` as text, with characters that hide, move or colour others spelled out.

    Examples
    --------
    >>> print(printable("red" + chr(27) + "[31m"))
    red\x1b[31m
    >>> print(printable("a" + chr(0x202E) + "b"))
    a\u202eb
    """
    return "".join(
        char.encode("unicode_escape").decode("ascii")
        if unicodedata.category(char) in _HIDDEN
        else char
        for char in str(value)
    )
