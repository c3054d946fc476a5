"""The report of a collection, and whether it would remove too much."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from dj_npy._text import in_units

KEPT = 10_000
"""Files that a report lists; all are counted."""
_FEW = 20
"""Arrays that may be removed even if more than those that stay."""


class Orphan(NamedTuple):
    """A file to which no row refers."""

    what: str
    """
    ``"array"``; ``"temporary file"``, of a killed process; ``"reservation"``, an empty file of
    one; ``"upload"``, one to S3 that was neither completed nor aborted; ``"dropped"``, a file of
    a dropped schema, table or column.
    """
    store: str
    path: str
    nbytes: int
    """Zero if unknown: for an upload."""
    modified: datetime


@dataclass
class Collection:
    """
    The result of `collect`.

    ``str(found)`` is text, ``found.to_json()`` JSON.
    """

    dry_run: bool
    older_than: timedelta
    schemas: list[str]
    stores: list[str] = field(default_factory=list)
    """Names of the stores that were listed."""
    live: int = 0
    """Number of files to which a row refers."""
    young: int = 0
    """Number of files without a row that are spared as younger than `older_than`."""
    unknown: int = 0
    """Number of files in the schemas' folders of no ``<npy@>`` column. They are never touched."""
    dropped: int = 0
    """Number of orphans of dropped schemas, tables and columns. Removed only on request."""
    dropped_nbytes: int = 0
    owners: Counter[str] = field(default_factory=Counter)
    """Number of these per ``schema.table.attribute``, the 10,000 largest."""
    counts: Counter[str] = field(default_factory=Counter)
    """Number of orphans by kind: see `Orphan`."""
    nbytes: int = 0
    """Total size of the orphans."""
    newest: int = 0
    """Number of arrays among them that are newer than any file of a row."""
    removed: int = 0
    changed: int = 0
    """Number of orphans that had vanished or changed before their removal."""
    odd: list[str] = field(default_factory=list)
    """Files that are spared because something about them is invalid, and what; the first 10,000."""
    failures: list[str] = field(default_factory=list)
    """What could not be removed, and why; the first 10,000."""
    unseen: list[str] = field(default_factory=list)
    """Rows and transactions that may exist but that this account cannot see."""
    too_many: str = ""
    """Why `at_most` is needed for this removal; empty if it is not."""
    orphans: list[Orphan] = field(default_factory=list)
    """The first 10,000."""

    @property
    def ok(self) -> bool:
        """Whether everything was removed that should be."""
        return not self.failures

    @property
    def arrays(self) -> int:
        """Number of arrays among the orphans: `at_most` limits this."""
        return self.counts["array"] + self.counts["dropped"]

    def weigh(self, shares: Iterable[tuple[str, int, int]], at_most: int | None) -> None:
        """
        Set `too_many` if more would be removed than `at_most`, or than is plausible.

        For a store that is if no array stays, or if more are removed than stay and than a few: so
        many rows are rarely deleted, and a database that lacks rows looks the same.

        Parameters
        ----------
        shares : iterable of tuple
            For each store its name, the number of arrays that stay, and of those to remove.
        at_most : int, optional
            Most arrays to remove in total.
        """
        off = []
        for store, live, gone in shares:
            if not live and gone:
                off.append(f"all {gone:,} arrays in store {store!r} have no row")
            elif gone > max(live, _FEW):
                off.append(f"{gone:,} of {live + gone:,} arrays in store {store!r} have no row")
        if at_most is not None:
            more = f"{self.arrays:,} arrays have no row, at_most is {at_most:,}"
            off = [more] if self.arrays > at_most else []
        if off:
            names = ", ".join(map(repr, self.schemas))
            self.too_many = (
                f"{', and '.join(off)}. Was an older dump of the database restored, is this "
                f"another database, or another store that is mounted there? If they are to go "
                f"all the same: collect({names}, ..., dry_run=False, at_most={self.arrays}), or "
                f"dj-npy collect ... --delete --at-most {self.arrays}"
            )

    def to_json(self) -> str:
        """Return the whole report as JSON."""
        own = {
            **vars(self),
            "older_than": self.older_than.total_seconds(),
            "orphans": [
                {**orphan._asdict(), "modified": orphan.modified.isoformat()}
                for orphan in self.orphans
            ],
        }
        return json.dumps({"ok": self.ok, **own}, indent=2)

    def __str__(self) -> str:
        found = sum(self.counts.values())
        kinds = ", ".join(f"{count:,} {what}" for what, count in sorted(self.counts.items()))
        size = in_units(self.nbytes)
        lines = [f"stores: {', '.join(self.stores)}"]
        lines += [
            f"{count:>10,} {what}"
            for count, what in (
                (self.live, "files of rows"),
                (self.young, "files without a row, spared as too young"),
                (self.unknown, "other files, of no <npy@> column"),
                (self.dropped, f"orphans of what is gone, of {in_units(self.dropped_nbytes)}"),
                (found, f"orphans of {size}{f' ({kinds})' if kinds else ''}"),
            )
        ]
        lines += [
            f"{count:>10,} of {owner}, which is gone" for owner, count in self.owners.most_common()
        ]
        lines += [
            f"{orphan.what}: {orphan.path} in store {orphan.store!r}, {orphan.nbytes:,} bytes, "
            f"{orphan.modified:%Y-%m-%d %H:%M:%S %Z}"
            for orphan in self.orphans
        ]
        if found > len(self.orphans):
            lines.append(f"... and {found - len(self.orphans):,} more")
        if self.newest:
            lines.append(
                f"newer than any file of a row: {self.newest:,} arrays. Was an older dump of the "
                f"database restored?"
            )
        lines += [f"spared: {file}" for file in self.odd]
        lines += [f"not seen: {what}" for what in self.unseen]
        lines += [f"not removed: {failure}" for failure in self.failures]
        if self.changed:
            lines.append(f"{self.changed:,} had gone or were other files by then")
        if self.dry_run and self.too_many:
            lines.append(f"would be refused: {self.too_many}")
        lines.append(
            "dry run: nothing was removed" if self.dry_run else f"{self.removed:,} removed"
        )
        return "\n".join(lines)
