"""What a store says of a file without reading it."""

import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

_TIME_TOLERANCE = timedelta(seconds=2)
"""
Tolerance between two timestamps of the same file.

Some servers give fractions of a second only in listings, and rclone's times differ by some
milliseconds.
"""
UNTIMED = datetime.max.replace(tzinfo=UTC)
"""The time of a file without a valid one: it counts as newer than any other."""
_HEX_TAG = re.compile(r"[0-9a-fA-F]{32}(?:-\d+)?")


class Stat(NamedTuple):
    """Metadata of a file that a store returns without reading it."""

    nbytes: int
    version: str
    """Changes with the contents; ``""`` where the store has no versions."""


class Listed(NamedTuple):
    """A file in a listing, or an unfinished upload."""

    path: str
    nbytes: int
    modified: datetime
    """With a time zone, by the store's clock as in :meth:`Store.now`, or `UNTIMED`."""
    version: str
    """As in `Stat`; for an upload, its id."""
    leads_to: str = ""
    """
    The version of the local file that would be lost with it, or that a link points to.

    Empty if the file has other hard links, which keep it.
    """

    def is_still(self, earlier: "Listed") -> bool:
        """Whether this is the file that was listed earlier."""
        # A new file of that name was created after the listing, so it is newer by `older_than`.
        return (
            (self.nbytes, _tag(self.version)) == (earlier.nbytes, _tag(earlier.version))
            and abs(self.modified - earlier.modified) < _TIME_TOLERANCE
        )  # fmt: skip

    def described(self) -> str:
        """Return what an error says of it."""
        return f"of {self.nbytes} bytes, version {self.version!r}, {self.modified}"


def _tag(version: str) -> str:
    """Return a version without its quotes; some servers write hexadecimal digits in capitals."""
    tag = version.strip().removeprefix("W/").strip('"')
    return tag.lower() if _HEX_TAG.fullmatch(tag) else tag
