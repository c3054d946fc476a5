"""Texts for people: sizes with units, and what is safe to print."""

from typing import Any

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def in_units(nbytes: int) -> str:
    """
    Write a size for people.

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
    Return a text on one line, without what a terminal or a page would take for an order.

    Some characters turn the line around, and half a character (a surrogate) cannot be encoded.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def short_repr(value: Any) -> str:
    """Return what a message shows of a value from a row."""
    try:
        return f"{value!r:.200}"
    except (RecursionError, ValueError):  # deep lists; numbers of more digits than are printed
        return f"a {type(value).__name__} that cannot be shown"
