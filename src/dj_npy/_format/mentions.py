"""Find every path to an array or a folder in a text from a database. Pure: no I/O."""

import re
from collections.abc import Iterable, Iterator

from dj_npy._format.path import EXTENSION

_PIECE = re.compile(r'(?:[^"\\]|\\.)++', re.DOTALL)
"""Text between two unescaped quotes."""
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_WORD = re.compile(r"[A-Za-z0-9_.%=,/-]+")
"""Characters of the paths that `path` makes."""
_IS_FOLDER = re.compile(r'"is_dir"\s*:\s*true')
_PATH = re.compile(r'"path"\s*:\s*"((?:[^"\\]|\\.)++)"', re.DOTALL)
"""Path of a folder with all its files, as in DataJoint's ``<filepath@>`` and ``<object@>``."""
_MAX_PATH = 4096
"""Most characters of a path."""
_MAX_DEPTH = 16
"""How deep JSON may be nested as text within JSON."""


def mentions(text: str) -> Iterator[str]:
    r"""
    Yield the paths to ``.npy`` files in a text, possibly with some false ones.

    A path to a folder ends with a slash.

    The text is not parsed, so deep nesting, numbers of too many digits, duplicate keys, invalid
    JSON and JSON within text do not matter. Keys are treated like values, and escaped characters
    like unescaped ones.

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
    # Two escapes may be one surrogate pair; no file name contains a lone surrogate.
    return unescaped.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _character(escape: re.Match[str]) -> str:
    return chr(int(escape[1], 16)) if escape[1] else _ESCAPED.get(escape[2], escape[2])


def _paths(pieces: Iterable[str]) -> Iterator[str]:
    """Yield each text that ends like a path, and the paths within each."""
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
                # Such as "file=a.npy" or "a.npy,b.npy"
                found_in = {path, path.partition("=")[2], word[start:end].lstrip(",=")}
                yield from filter(None, found_in)
