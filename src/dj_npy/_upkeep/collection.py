"""What a collection has found and done, and when it is too much to be done unasked."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from dj_npy._text import in_units

KEPT = 10_000
"""Files that a report names; all are counted."""
_FEW = 20
"""Arrays that may go though they are more than those that stay."""


class Orphan(NamedTuple):
    """A file to which no row refers."""

    what: str
    """
    ``"array"``; ``"temporary file"``, of a process that was killed; ``"reservation"``, an empty
    file of one; ``"upload"``, one to S3 that has neither been completed nor aborted;
    ``"dropped"``, a file of a schema, table or column that is gone.
    """
    store: str
    path: str
    nbytes: int
    """Zero, where it is not known: of an upload."""
    modified: datetime


@dataclass
class Collection:
    """
    What `collect` has found, and done.

    `str` of it is a text, ``to_json()`` a JSON.
    """

    dry_run: bool
    older_than: timedelta
    schemas: list[str]
    stores: list[str] = field(default_factory=list)
    """Names of the stores that were listed."""
    live: int = 0
    """Files to which a row refers."""
    young: int = 0
    """Files to which none does, and which are spared as younger than `older_than`."""
    unknown: int = 0
    """Files in the schemas' folders that are of no ``<npy@>`` column. They are never touched."""
    dropped: int = 0
    """Orphans of schemas, tables and columns that are gone. They go only if it was said so."""
    dropped_nbytes: int = 0
    owners: Counter[str] = field(default_factory=Counter)
    """How many of them are of what, the 10,000 largest: ``schema.table.attribute``."""
    counts: Counter[str] = field(default_factory=Counter)
    """How many orphans there were, by what they are: see `Orphan`."""
    nbytes: int = 0
    """Of the orphans."""
    newest: int = 0
    """How many arrays among them are newer than any to which a row refers."""
    removed: int = 0
    changed: int = 0
    """Orphans that had gone, or were other files, when they were to be removed."""
    odd: list[str] = field(default_factory=list)
    """Files that are spared as something makes no sense, and what; the first 10,000."""
    failures: list[str] = field(default_factory=list)
    """What could not be removed, and why; the first 10,000."""
    unseen: list[str] = field(default_factory=list)
    """What the database does not tell this account: rows and transactions that may be there."""
    too_many: str = ""
    """Why more would go than goes without `at_most`; empty, if not."""
    orphans: list[Orphan] = field(default_factory=list)
    """The first 10,000."""

    @property
    def ok(self) -> bool:
        """Whether all that was to be removed was."""
        return not self.failures

    @property
    def arrays(self) -> int:
        """How many arrays there are among the orphans: what `at_most` is about."""
        return self.counts["array"] + self.counts["dropped"]

    def weigh(self, shares: Iterable[tuple[str, int, int]], at_most: int | None) -> None:
        """
        Set `too_many`, if more would go than was asked for, or than a clean-up takes along.

        That is so of a store if none stays, or if more go than stay and than a few: so many
        rows are rarely deleted, and a database that lacks rows looks the same.

        Parameters
        ----------
        shares : iterable of tuple
            Of each store its name, how many arrays stay, and how many would go.
        at_most : int, optional
            How many may go of all.
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
        """Return all of it as a JSON."""
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
