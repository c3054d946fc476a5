"""Names that some disk or server treats as equal. Pure: no I/O."""

import re
import unicodedata
from collections.abc import Iterable, Iterator

MIN_COMPONENTS = 3
"""Fewest components of an array's path: schema, table, file; the rest depends on the store."""
_MIN_COMPONENTS_BELOW = 2
"""Fewest components by which a row names a file that is listed from above the row's store."""

TEMPORARY_SUFFIX = ".dj-npy-tmp"
"""Suffix of a file that is still being written."""

# Some file systems ignore these; the dot above is lost when İ is lowercased.
_IGNORED = re.compile("[\u00ad\u0307\u034f\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f"
                       "\ufe00-\ufe0f\ufeff]")  # fmt: skip


def folded(path: str) -> str:
    """
    Return the common form of all paths that may lead to the same file on some disk.

    Disks differ in what they ignore: case (exFAT, NTFS, APFS, SMB), composed or decomposed
    letters (HFS+, APFS), dots and spaces at the end of a name, and slash or backslash (Windows).
    This ignores all of them. So two paths of one form may be two files, but two paths to one file
    have one form; and if a path ends with another, component by component, so do their forms.
    """
    text = path.lower() if path.isascii() else _caseless(path)
    parts = text.replace("\\", "/").split("/")
    return "/".join(part for part in (each.rstrip(" .") for each in parts) if part)


def _caseless(text: str) -> str:
    while True:
        # Upper, then lower: sigma and final sigma, for one, share a capital.
        plain = unicodedata.normalize("NFKD", text).upper().casefold()
        plain = _IGNORED.sub("", unicodedata.normalize("NFKD", plain))
        if plain == text:
            return plain
        text = plain


def endings(path: str, min_components: int = MIN_COMPONENTS) -> Iterator[str]:
    """Yield a path and its suffixes of at least `min_components` components."""
    components = path.split("/")
    for first in range(max(1, len(components) - min_components + 1)):
        yield "/".join(components[first:])


def endings_below(path: str) -> Iterator[str]:
    """
    Yield the paths by which a row of a store inside ours may name a file.

    The roots of stores may be any folder above a file, so of two paths to it one ends with the
    other: `endings` is for rows of stores above ours, this for those of stores below.
    """
    return endings(path, _MIN_COMPONENTS_BELOW)


class Listing:
    """
    The paths in a store, for lookup by the paths in rows.

    Parameters
    ----------
    listed : iterable of (str, str)
        Each path, and the part of it that does not depend on the store's location and prefix.
    """

    def __init__(self, listed: Iterable[tuple[str, str]]) -> None:
        self._by_core: dict[str, set[str]] = {}
        self._by_ending: dict[str, set[str]] = {}
        for path, core in listed:
            self._by_core.setdefault(folded(core), set()).add(path)
            for ending in endings_below(folded(path)):
                self._by_ending.setdefault(ending, set()).add(path)

    def of(self, reference: str) -> set[str]:
        """Return the listed paths that a row's path may mean."""
        path = folded(reference)
        return self._by_ending.get(path, set()).union(
            *(self._by_core.get(ending, ()) for ending in endings(path))
        )
