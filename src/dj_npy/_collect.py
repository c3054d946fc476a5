"""Remove the files that no row refers to, and never another."""

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple

from dj_npy._catalog import Column, Snapshot, connection_of, endings, schema_name, snapshot
from dj_npy._errors import ArrayInvalidError, NpyError, StoreError
from dj_npy._html import in_units
from dj_npy._layout import Layout
from dj_npy._storerows import check_stores
from dj_npy._stores import Listed, Store, open_store, schema_addressing
from dj_npy._stores.threads import all_in_threads

_KEPT = 10_000
"""Files that a report names; all are counted."""
_REMOVALS = 16
_WAIT_S = 2
"""How long short transactions are waited for where no age allows for them."""
_WAIT_FOR_COPIES_S = 60
"""How long transactions are waited for that may have copied rows."""
_AT_ONCE = 1000


class Orphan(NamedTuple):
    """A file to which no row refers."""

    what: str
    """
    ``"array"``; ``"temporary file"``, of a process that was killed; ``"reservation"``, an empty
    file of one; ``"upload"``, one to S3 that has neither been completed nor aborted.
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
    counts: Counter[str] = field(default_factory=Counter)
    """How many orphans there were, by what they are: see `Orphan`."""
    nbytes: int = 0
    """Of the orphans."""
    removed: int = 0
    failures: list[str] = field(default_factory=list)
    """What could not be removed, and why; the first 10,000."""
    orphans: list[Orphan] = field(default_factory=list)
    """The first 10,000."""

    @property
    def ok(self) -> bool:
        """Whether all that was to be removed was."""
        return not self.failures

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
                (found, f"orphans of {size}{f' ({kinds})' if kinds else ''}"),
            )
        ]
        lines += [
            f"{orphan.what}: {orphan.path} in store {orphan.store!r}, {orphan.nbytes:,} bytes, "
            f"{orphan.modified:%Y-%m-%d %H:%M:%S %Z}"
            for orphan in self.orphans
        ]
        if found > len(self.orphans):
            lines.append(f"... and {found - len(self.orphans):,} more")
        lines += [f"not removed: {failure}" for failure in self.failures]
        lines.append(
            "dry run: nothing was removed" if self.dry_run else f"{self.removed:,} removed"
        )
        return "\n".join(lines)


def collect(
    *schemas: Any,
    store: str | None = None,
    older_than: timedelta = timedelta(days=1),
    dry_run: bool = True,
) -> Collection:
    """
    Find, and remove, the files of some schemas to which no row refers.

    Such are left by rows that were deleted or replaced, by transactions that were rolled back,
    and by processes that were killed. The stores are listed first, and what rows refer to is
    read after that, of all schemas of the database: rows that were copied share a file. Only
    files that have the name of an array of an ``<npy@>`` column are looked at; all others are
    left alone. Memory does not grow with their number.

    Run it with an account that sees all schemas which use the store, and on no store that
    another database server uses as well.

    Parameters
    ----------
    schemas : datajoint.Schema or str
        Whose files are looked at; one at least.
    store : str, optional
        Name of a store. Default: those that the schemas' ``<npy@>`` columns name.
    older_than : timedelta
        What is younger is spared: a file is written before its row is. So this is to be longer
        than any insert and any transaction takes; one that is open for longer and that this
        account may see is an error.
    dry_run : bool
        Only tell. Nothing is removed.

    Returns
    -------
    Collection
        ``found.counts``, ``found.nbytes``, ``found.orphans``, ``found.removed``,
        ``found.failures``, ``found.to_json()``.

    Raises
    ------
    ArrayInvalidError
        For what is no schema, or no age.
    StoreError
        If a store cannot be listed, or is not the one that the rows mean; if another collection
        is under way, a transaction is open for too long, or has changed something and does not
        end within a minute, or this connection is within one. Nothing was removed.
    datajoint.DataJointError
        If the database refuses a query. Nothing was removed.

    Examples
    --------
    >>> found = dj_npy.collect(schema)
    >>> found.live, found.nbytes, found.removed
    (1, 0, 0)
    """
    names = [_name(each) for each in schemas]
    if not names or not isinstance(older_than, timedelta) or older_than < timedelta(0):
        raise ArrayInvalidError(
            f"collect takes one schema at least, and an age of 0 or more, not {older_than!r}"
        )
    connection = connection_of(schemas[0])
    if any(connection_of(each) is not connection for each in schemas):
        raise ArrayInvalidError("collect takes the schemas of one connection at a time")
    if connection.in_transaction:
        raise StoreError(
            "within a transaction, what it has inserted could be taken for orphans: collect "
            "before it, or after"
        )
    report = Collection(dry_run, older_than, names)
    with ExitStack() as stack:
        before = stack.enter_context(snapshot(connection))
        if not dry_run and not before.is_alone():
            raise StoreError("another collection is at work on this database. Nothing was removed")
        columns = before.columns(names)
        before.end()  # the lock stays
        stores = _stores(columns, store, connection._config)
        report.stores = [each.name for each in stores]
        check_stores(connection, columns, stores)
        inventory = stack.enter_context(Inventory())
        places = [(each, *_place(columns, each, connection._config)) for each in stores]
        for number, (each, layout, folders) in enumerate(places):
            inventory.list(number, each, layout, folders, older_than, report)
        if not dry_run:
            _spare_what_is_copied(connection, inventory)
        with _settled(connection, None if dry_run else older_than) as after:
            inventory.spare(after.references())
        inventory.count(report, stores)
        if dry_run:
            return report
        inventory.remove(report, stores)
        for each, layout, folders in places:
            for folder in folders:
                each.prune(folder, layout.may_go)
    return report


def _spare_what_is_copied(connection: Any, inventory: "Inventory") -> None:
    """
    Spare what rows refer to now, and wait for the transactions that may have copied others.

    ``INSERT ... SELECT`` copies a reference, however old its file is. While that is not
    committed and the copied row is deleted, no moment shows either of them. But whatever was
    copied after now was to be seen now, and whatever was before is to be seen after this.
    """
    with snapshot(connection) as now:
        inventory.spare(now.references())
        copying = now.may_be_copying()
    until = time.monotonic() + _WAIT_FOR_COPIES_S
    while copying:
        with snapshot(connection) as now:
            copying &= now.may_be_copying()
        if copying and time.monotonic() > until:
            raise StoreError(
                f"a transaction that has changed something is open for more than "
                f"{_WAIT_FOR_COPIES_S} s: rows that it has copied cannot be seen yet. Nothing "
                f"was removed. Try again when it has ended"
            )
        time.sleep(_WAIT_S / 10 if copying else 0)


@contextmanager
def _settled(connection: Any, older_than: timedelta | None) -> Iterator[Snapshot]:
    """Look at the database when no transaction is open for longer than the age of files."""
    until = time.monotonic() + _WAIT_S
    while True:
        with snapshot(connection) as now:
            open_for_s = None if older_than is None else now.open_for_s()
            if older_than is None or (open_for_s or 0) <= older_than.total_seconds():
                yield now
                return
        if time.monotonic() > until:
            raise StoreError(
                f"a transaction is open for {open_for_s:.0f} s, longer than older_than "
                f"({older_than}): the rows that it inserts cannot be seen yet. Nothing was "
                f"removed. Wait until it ends, or choose a greater age"
            )
        time.sleep(_WAIT_S / 10)


def _name(given: Any) -> str:
    name = schema_name(given)
    if name is None:
        raise ArrayInvalidError(f"expected a schema or its name, not {type(given).__name__}")
    return name


def _place(columns: Sequence[Column], store: Store, config: Any) -> tuple[Layout, list[str]]:
    """Return how the columns' files are called in a store, and in which folders they are."""
    addressing = schema_addressing(config, store)
    layout = Layout(columns, addressing.prefix)
    return layout, [addressing.prefix.strip("/")] if addressing.partition else layout.folders()


def _stores(columns: Sequence[Column], name: str | None, config: Any) -> list[Store]:
    names = [column.store for column in columns] if name is None else [name]
    return list({store.name: store for store in (open_store(config, n) for n in names)}.values())


class Inventory:
    """Files of several stores, and which of them a row refers to; on the disk, not in memory."""

    def __init__(self) -> None:
        # "": a private file of SQLite's, removed when this is closed.
        self._files = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._files.execute("PRAGMA journal_mode = OFF")
        self._files.execute(
            "CREATE TABLE files (core TEXT, store INT, what TEXT, path TEXT, nbytes INT, "
            "modified TEXT, version TEXT, old INT, live INT DEFAULT 0)"
        )

    def __enter__(self) -> "Inventory":
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def list(
        self,
        number: int,
        store: Store,
        layout: Layout,
        folders: Iterable[str],
        older_than: timedelta,
        report: Collection,
    ) -> None:
        """Take up what a store has in some folders, and is in the layout of its columns."""
        try:
            until = store.now() - older_than
        except StoreError:
            if not report.dry_run:
                raise
            until = datetime.now().astimezone() - older_than  # a store that may only be read

        def found() -> Iterator[tuple[Any, ...]]:
            for folder in folders:
                for is_upload in (False, True):
                    for each in store.uploads(folder) if is_upload else store.files(folder):
                        kind = layout.what(each.path)
                        if kind is None:
                            report.unknown += not is_upload
                            continue
                        empty = kind == "array" and not each.nbytes
                        what = "upload" if is_upload else "reservation" if empty else kind
                        modified = each.modified.isoformat()
                        core = layout.core(each.path)
                        yield (core, number, what, each.path, each.nbytes, modified, each.version,
                               each.modified <= until)  # fmt: skip

        self._files.execute("BEGIN")
        self._files.executemany(
            "INSERT INTO files (core, store, what, path, nbytes, modified, version, old) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            found(),
        )
        self._files.execute("COMMIT")

    def spare(self, references: Iterable[str]) -> None:
        """
        Mark the files that are referred to.

        Whatever a row calls its store, and wherever that begins: two names may lead to one
        place, or one store lie within another.
        """
        self._files.execute("CREATE INDEX IF NOT EXISTS by_core ON files (core)")
        self._files.execute("BEGIN")
        self._files.executemany(
            "UPDATE files SET live = 1 WHERE core = ? AND what <> 'upload'",
            ((ending,) for path in references for ending in endings(path)),
        )
        self._files.execute("COMMIT")

    def count(self, report: Collection, stores: Sequence[Store]) -> None:
        """Tell what was found."""
        for live, old, what, count, nbytes in self._files.execute(
            "SELECT live, old, what, count(*), sum(nbytes) FROM files GROUP BY live, old, what"
        ):
            if live:
                report.live += count
            elif not old:
                report.young += count
            else:
                report.counts[what] += count
                report.nbytes += nbytes
        report.orphans = [
            Orphan(what, stores[store].name, listed.path, listed.nbytes, listed.modified)
            for store, what, listed in islice(self._orphans(), _KEPT)
        ]

    def remove(self, report: Collection, stores: Sequence[Store]) -> None:
        """Remove what is old enough and not referred to."""

        def remove(orphan: tuple[int, str, Listed]) -> bool:
            number, what, listed = orphan
            store = stores[number]
            try:
                if what == "upload":
                    store.abort(listed)
                elif not store.remove_listed(listed):
                    return True  # it has gone, or is another by now
                report.removed += 1
            except NpyError as error:
                if len(report.failures) < _KEPT:
                    report.failures.append(str(error))
            return True

        all_in_threads(remove, self._orphans(), _REMOVALS)

    def _orphans(self) -> Iterator[tuple[int, str, Listed]]:
        found = self._files.execute(
            "SELECT store, what, path, nbytes, modified, version FROM files "
            "WHERE old AND NOT live ORDER BY store, path"
        )
        while rows := found.fetchmany(_AT_ONCE):
            for store, what, path, nbytes, modified, version in rows:
                listed = Listed(path, nbytes, datetime.fromisoformat(modified), version)
                yield store, what, listed
