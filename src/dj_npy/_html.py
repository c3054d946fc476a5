"""What a notebook shows of a reference: what the row says, and a picture once it is loaded."""

from collections.abc import Callable
from html import escape
from typing import Any, Protocol

import numpy as np

from dj_npy._errors import NpyError
from dj_npy._fileformat import AnyArray
from dj_npy._picture import picture

_LONGEST = 300
"""Characters that are shown of a text, which may be anything that a row holds."""
_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")

# Only colours that the page has: text and lines in its own, and its theme's accent. What
# `prefers-color-scheme` knows is the machine's preference, and a page may be otherwise. All that
# would be the same in another reference's style, and the names are in nobody else's.
_STYLE = (
    ".dj-npy{display:flex;flex-wrap:wrap;gap:.8em 2em;align-items:flex-start;color:inherit;"
    "font-size:13px;line-height:1.45;margin:.3em 0;"
    "--dj-npy-accent:var(--jp-brand-color1,var(--vscode-charts-blue,#3b82c4))}"
    ".dj-npy-row{display:flex;gap:.8em}"
    ".dj-npy-name{flex:none;width:3.6em;opacity:.7}"
    ".dj-npy-value{font-family:var(--jp-code-font-family,ui-monospace,Menlo,Consolas,monospace);"
    "overflow-wrap:anywhere;unicode-bidi:isolate;max-width:44em}"
    ".dj-npy-state{border:1px solid;border-radius:1em;padding:0 .6em;margin-left:.4em;"
    "font-size:85%;opacity:.8}"
    ".dj-npy-figure{width:260px}"
    ".dj-npy-figure svg{display:block;"
    "outline:1px solid color-mix(in srgb,currentColor 25%,transparent)}"
    ".dj-npy-caption{font-size:85%;opacity:.7;margin-top:.3em}"
)


class Shown(Protocol):
    """What is shown of a reference; each may raise :class:`NpyError` if its row makes no sense."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def store(self) -> str | None: ...
    @property
    def path(self) -> str: ...


def of_reference(ref: Shown, row: Any, array: AnyArray | None) -> str:
    """
    Return HTML of a reference. No I/O.

    Parameters
    ----------
    ref : NpyRef
        The reference.
    row
        What its row holds, which is shown where it makes no sense.
    array : ndarray or None
        Its data, if they are in memory.
    """
    what: dict[str, Callable[[], Any]] = {
        "shape": lambda: ref.shape,
        "dtype": lambda: ref.dtype,
        "size": lambda: in_units(ref.nbytes),
        "store": lambda: ref.store or "the default store",
        "path": lambda: ref.path,
    }
    rows, valid = [], True
    for name, value in what.items():
        try:
            said = str(value())
        except NpyError:
            said, valid = "not valid", False
        rows.append(_row(name, said))
    if not valid:
        rows.append(_row("row", repr(row)))
    state = "invalid row" if not valid else "not loaded" if array is None else "loaded"
    title = f'<div><b>NpyRef</b> <span class="dj-npy-state">{state}</span></div>'
    return (
        f'<div class="dj-npy"><style>{_STYLE}</style><div>{title}{"".join(rows)}</div>'
        f"{'' if array is None else _figure(array)}</div>"
    )


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


def shown(text: str) -> str:
    """Return a text for HTML: cut, and without what would break out of its line."""
    if len(text) > _LONGEST:
        text = text[: _LONGEST - 3] + "..."
    # What is not printable would turn the line around, or is half a character (a surrogate).
    return escape(
        "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    )


def _row(name: str, value: str) -> str:
    return (
        f'<div class="dj-npy-row"><span class="dj-npy-name">{name}</span> '
        f'<span class="dj-npy-value">{shown(value)}</span></div>'
    )


def _figure(array: AnyArray) -> str:
    svg, caption = picture(array)
    if not svg and not caption:
        return ""
    return (
        f'<div class="dj-npy-figure">{svg}<div class="dj-npy-caption">{shown(caption)}</div></div>'
    )
