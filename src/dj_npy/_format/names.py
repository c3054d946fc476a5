"""Which two names may be one on some disk or server. Pure: no I/O."""

import re
import unicodedata
from collections.abc import Iterable, Iterator

MIN_COMPONENTS = 3
"""Components of an array's path: schema, table and file; what stands before differs by store."""
_MIN_COMPONENTS_BELOW = 2
"""Components by which a row may name a file whose listing begins above the row's store."""

TEMPORARY_SUFFIX = ".dj-npy-tmp"
"""Ends the name of a file that is still being written."""

# Some file systems do not see these at all; a dot above is lost where İ is written small.
_IGNORED = re.compile("[\u00ad\u0307\u034f\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f"
                       "\ufe00-\ufe0f\ufeff]")  # fmt: skip


def folded(path: str) -> str:
    """
    Return the one form of all paths that may lead to the same file on some disk.

    Disks differ in what they do not tell apart: upper and lower case (exFAT, NTFS, APFS, SMB),
    composed and decomposed letters (HFS+, APFS), dots and spaces at the end of a name, and
    backslashes (Windows). Here none of these counts. So two paths of one form may be two files,
    but two paths to one file have one form; and if a path ends with another, component by
    component, so do their forms.
    """
    text = path.lower() if path.isascii() else _caseless(path)
    parts = text.replace("\\", "/").split("/")
    return "/".join(part for part in (each.rstrip(" .") for each in parts) if part)


def _caseless(text: str) -> str:
    while True:
        # Upper and then lower: several letters have one capital, as sigma and its final form do.
        plain = unicodedata.normalize("NFKD", text).upper().casefold()
        plain = _IGNORED.sub("", unicodedata.normalize("NFKD", plain))
        if plain == text:
            return plain
        text = plain


def endings(path: str, min_components: int = MIN_COMPONENTS) -> Iterator[str]:
    """Yield a path, and what is left of it without its first components."""
    components = path.split("/")
    for first in range(max(1, len(components) - min_components + 1)):
        yield "/".join(components[first:])


def endings_below(path: str) -> Iterator[str]:
    """
    Yield the paths by which a row of a store that begins within ours may name a file.

    A file has one place. Stores may begin anywhere above it, so of two paths to it one ends with
    the other: `endings` are those from above, these are those from below.
    """
    return endings(path, _MIN_COMPONENTS_BELOW)


class Listing:
    """
    Paths that a store has, to be looked up by what rows call them.

    Parameters
    ----------
    listed : iterable of (str, str)
        Each path, and what of it is the same in a store of another location or prefix.
    """

    def __init__(self, listed: Iterable[tuple[str, str]]) -> None:
        self._by_core: dict[str, set[str]] = {}
        self._by_ending: dict[str, set[str]] = {}
        for path, core in listed:
            self._by_core.setdefault(folded(core), set()).add(path)
            for ending in endings_below(folded(path)):
                self._by_ending.setdefault(ending, set()).add(path)

    def of(self, reference: str) -> set[str]:
        """Return the paths that may be that of a row's file."""
        path = folded(reference)
        return self._by_ending.get(path, set()).union(
            *(self._by_core.get(ending, ()) for ending in endings(path))
        )
