"""Text for people: sizes with units, and safe printing."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import datajoint as dj
import numpy as np

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def in_units(nbytes: int) -> str:
    """
    Format a size with a unit.

    Examples
    --------
    >>> in_units(256000)
    '250 KiB (256,000 bytes)'
    """
    if nbytes < 1024:
        return "1 byte" if nbytes == 1 else f"{nbytes} bytes"
    scaled, unit = nbytes / 1024, 0
    while scaled >= 999.5 and unit < len(_UNITS) - 1:
        scaled, unit = scaled / 1024, unit + 1
    return f"{scaled:.3g} {_UNITS[unit]} ({nbytes:,} bytes)"


def printable(text: str) -> str:
    """
    Escape all characters that are not printable.

    Line breaks and control sequences would affect a terminal or page, some characters reverse the
    text direction, and lone surrogates cannot be encoded.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def short_repr(value: Any) -> str:
    """Return a short `repr` of a value from a row, for messages."""
    try:
        return f"{value!r:.200}"
    except (RecursionError, ValueError):  # deeply nested lists; integers with too many digits
        return f"a {type(value).__name__} that cannot be shown"


def kind_of(value: Any) -> str:
    """
    Say what an argument is, for messages: no I/O, and not the data of an array.

    Examples
    --------
    >>> kind_of(None), kind_of({}), kind_of(np.zeros((3, 2)))
    ('None', 'a dict', 'an ndarray of shape (3, 2)')
    """
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, dj.expression.QueryExpression):
        return "a query"
    if isinstance(value, str):
        return f"the str {value[:40]!r}"
    name = type(value).__name__
    named = f"{'an' if name[0] in 'AEIOaeio' or name in ('NpyRef', 'ndarray') else 'a'} {name}"
    if isinstance(value, np.ndarray):
        return f"{named} of shape {value.shape}"
    return f"{named} {value!s:.40}" if isinstance(value, int | float | timedelta) else named


def key_text(key: Mapping[str, Any]) -> str:
    """Return a key for messages: short, and without the data of what is no key."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.generic):
            return value.item()
        is_short = isinstance(value, str | bytes) or not hasattr(value, "__len__")
        return value if is_short else kind_of(value)

    return short_repr({name: plain(value) for name, value in key.items()})
