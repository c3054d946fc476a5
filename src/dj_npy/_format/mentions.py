"""Every path to an array, or to a folder, that a text from a database may mean. Pure."""

import re
from collections.abc import Iterable, Iterator

from dj_npy._format.path import EXTENSION

_PIECE = re.compile(r'(?:[^"\\]|\\.)++', re.DOTALL)
"""What stands between two quotes that are not escaped."""
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_WORD = re.compile(r"[A-Za-z0-9_.%=,/-]+")
"""Characters of the paths that `_addressing` makes."""
_IS_FOLDER = re.compile(r'"is_dir"\s*:\s*true')
_PATH = re.compile(r'"path"\s*:\s*"((?:[^"\\]|\\.)++)"', re.DOTALL)
"""How DataJoint's ``<filepath@>`` and ``<object@>`` refer to a folder, and all that is in it."""
_MAX_PATH = 4096
"""Characters of a path."""
_MAX_DEPTH = 16
"""How often a JSON may be a text within a JSON."""


def mentions(text: str) -> Iterator[str]:
    r"""
    Yield the paths to ``.npy`` files in a text, and perhaps some that are none.

    A folder that a row refers to as one ends with a slash.

    The text is not parsed: one that is nested too deep, has numbers of too many digits, names a
    thing twice, is no JSON or has a JSON within a text is read like any other. Keys count as
    values do, and characters that are escaped as if they were not.

    Examples
    --------
    >>> list(mentions(r'{"path": "lab/scan/n=1/x\u002enpy", "n": 1}'))
    ['lab/scan/n=1/x.npy']
    """
    pending = [(text, 0)]
    while pending:
        text, depth = pending.pop()
        if _IS_FOLDER.search(text):
            yield from (_unescaped(path).rstrip("/") + "/" for path in _PATH.findall(text))
        if "\\" not in text:
            yield from _paths(text.split('"'))
            continue
        for piece in map(_unescaped, _PIECE.findall(text)):
            yield from _paths([piece])
            if '"' in piece and depth < _MAX_DEPTH:
                pending.append((piece, depth + 1))


def _unescaped(piece: str) -> str:
    if "\\" not in piece:
        return piece
    unescaped = _ESCAPE.sub(_character, piece)
    # Two escapes may be one character; one that is none is in the name of no file.
    return unescaped.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _character(escape: re.Match[str]) -> str:
    return chr(int(escape[1], 16)) if escape[1] else _ESCAPED.get(escape[2], escape[2])


def _paths(pieces: Iterable[str]) -> Iterator[str]:
    """Yield each text that ends as a path does, and the paths within each."""
    for piece in pieces:
        folded = piece.lower()
        if EXTENSION not in folded:
            continue
        if folded.endswith(EXTENSION):
            yield piece
            if _WORD.fullmatch(piece) and folded.count(EXTENSION) == 1:
                continue
        for word in _WORD.findall(piece):
            folded, start, end = word.lower(), 0, 0
            while (found := folded.find(EXTENSION, end)) >= 0:
                start, end = end, found + len(EXTENSION)
                path = word[max(0, end - _MAX_PATH) : end]
                # Such as "file=a.npy", or "a.npy,b.npy"
                found_in = {path, path.partition("=")[2], word[start:end].lstrip(",=")}
                yield from filter(None, found_in)
