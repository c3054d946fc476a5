"""HTML of a reference for notebooks: its row, and a picture once it is loaded."""

from collections.abc import Callable
from html import escape
from typing import Any

from dj_npy._array.picture import picture
from dj_npy._errors import NpyError
from dj_npy._format.metadata import ArrayMetadata
from dj_npy._format.npyfile import AnyArray
from dj_npy._text import in_units, printable

_MAX_CHARACTERS = 300
"""Most characters of a text, as a row may hold anything."""

# Uses only colours of the page: its text colour and its theme's accent. `prefers-color-scheme` is
# a preference of the machine, and the page may differ. The style is the same for all references,
# and the class names are unique to this package.
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


def reference_html(row: ArrayMetadata, array: AnyArray | None) -> str:
    """
    Return the HTML of a reference. No I/O.

    Parameters
    ----------
    row : ArrayMetadata
        Its row; if that is invalid, the JSON is shown as is.
    array : ndarray or None
        Its data, if in memory.
    """
    facts: dict[str, Callable[[], Any]] = {
        "shape": lambda: row.shape,
        "dtype": lambda: row.dtype,
        "size": lambda: in_units(row.nbytes),
        "store": lambda: row.store or "the default store",
        "path": lambda: row.path,
    }
    rows, valid = [], True
    for name, value in facts.items():
        try:
            text = str(value())
        except NpyError:
            text, valid = "not valid", False
        rows.append(_html_row(name, text))
    if not valid:
        rows.append(_html_row("row", repr(row.json)))
    state = "invalid row" if not valid else "not loaded" if array is None else "loaded"
    title = f'<div><b>NpyRef</b> <span class="dj-npy-state">{state}</span></div>'
    return (
        f'<div class="dj-npy"><style>{_STYLE}</style><div>{title}{"".join(rows)}</div>'
        f"{'' if array is None else _figure(array)}</div>"
    )


def html_text(text: str) -> str:
    """Escape a text for HTML, shortened and without control characters."""
    if len(text) > _MAX_CHARACTERS:
        text = text[: _MAX_CHARACTERS - 3] + "..."
    return escape(printable(text))


def _html_row(name: str, value: str) -> str:
    return (
        f'<div class="dj-npy-row"><span class="dj-npy-name">{name}</span> '
        f'<span class="dj-npy-value">{html_text(value)}</span></div>'
    )


def _figure(array: AnyArray) -> str:
    svg, caption = picture(array)
    if not svg and not caption:
        return ""
    caption = html_text(caption)
    return f'<div class="dj-npy-figure">{svg}<div class="dj-npy-caption">{caption}</div></div>'
