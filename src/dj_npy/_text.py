"""Text for people: sizes with units, and safe printing."""

from typing import Any

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
