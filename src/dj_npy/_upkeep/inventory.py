"""An inventory of stores, on disk, and which of its files rows may refer to."""

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple

from dj_npy._concurrency.threads import all_in_threads
from dj_npy._errors import NpyError, StoreError
from dj_npy._format.aliases import endings, endings_below, folded
from dj_npy._format.layout import Layout
from dj_npy._format.path import name_in_path
from dj_npy._stores import Listed, Store
from dj_npy._stores.listed import UNTIMED
from dj_npy._stores.local.links import versions_of
from dj_npy._stores.local.store import LocalStore
from dj_npy._upkeep.collection import KEPT, Collection, Orphan
from dj_npy._upkeep.dropped import Dropped, is_array
from dj_npy._upkeep.ondisk import OnDisk

_SURROGATE = re.compile("[\ud800-\udfff]")
"""Bytes in a name that are not valid text; no row can refer to it."""
_REMOVALS = 16
_AT_ONCE = 1000
_UNKNOWN = "unknown"
"""Files that are never removed, but count as live if a row refers to them."""


class Place(NamedTuple):
    """Where the files of some schemas are in a store, and how they are named."""

    store: Store
    layout: Layout
    gone: Dropped
    folders: list[str]

    def prune(self, dropped: bool) -> None:
        """Remove empty folders of keys."""

        def is_removable(folder: str) -> bool:
            is_of_gone = dropped and self.gone.is_key_folder(folder)
            return self.layout.is_key_folder(folder) or (
                is_of_gone and not self.layout.keeps(folder)
            )

        for folder in self.folders:
            self.store.prune(folder, is_removable)


class Inventory(OnDisk):
    """Files of several stores, and which of them a row refers to; on disk, not in memory."""

    def __init__(self) -> None:
        super().__init__()
        self._database.execute(
            "CREATE TABLE files (core TEXT, store INT, what TEXT, path TEXT, nbytes INT, "
            "modified TEXT, version TEXT, old INT, owner TEXT, leads_to TEXT, live INT DEFAULT 0)"
        )
        self._database.execute("CREATE TABLE referred (path TEXT PRIMARY KEY) WITHOUT ROWID")
        # Numbers of slashes in paths of files and of rows: others need no lookup.
        self._listed_depths: set[int] = set()
        self._referenced_depths: set[int] = set()
        self._folders = False  # whether a row refers to a folder

    def list(
        self,
        number: int,
        place: Place,
        older_than: timedelta,
        report: Collection,
    ) -> None:
        """Add a store's files in some folders that belong, or belonged, to a column."""
        store, layout, gone, folders = place
        try:
            now = store.now()
        except StoreError:
            if not report.dry_run:
                raise
            now = datetime.now(UTC)  # a read-only store
        try:
            until = now - older_than
        except OverflowError:
            until = datetime.min.replace(tzinfo=UTC)

        def rows() -> Iterator[tuple[Any, ...]]:
            for folder in folders:
                for is_upload in (False, True):
                    for each in store.uploads(folder) if is_upload else store.files(folder):
                        kind: str | None = layout.classify(each.path)
                        owner = gone.former_owner(each.path) if kind is None else None
                        if (kind or owner) is None and not is_upload:
                            kind = _UNKNOWN if layout.may_be_live(each.path) else None
                        if (kind or owner) is None or _SURROGATE.search(each.path):
                            report.unknown += not is_upload
                            continue
                        empty = kind == "array" and not each.nbytes
                        what = (
                            "upload" if is_upload else "reservation" if empty else kind or "dropped"
                        )
                        modified = each.modified.isoformat()
                        if each.modified == UNTIMED and len(report.odd) < KEPT:
                            report.odd.append(
                                f"{each.path} in store {store.name!r}: its time makes no sense"
                            )
                        core = folded(layout.relative_path(each.path))
                        self._listed_depths.add(core.count("/"))
                        yield (core, number, what, each.path, each.nbytes, modified, each.version,
                               each.modified <= until, owner, each.leads_to)  # fmt: skip

        self._database.execute("BEGIN")
        self._database.executemany(
            "INSERT INTO files (core, store, what, path, nbytes, modified, version, old, owner, "
            "leads_to) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            rows(),
        )
        self._database.execute("COMMIT")

    def add(self, number: int, core: str, listed: Listed) -> None:
        """Add one array of a store, of any age, given the part of its path below the prefix."""
        core = folded(core)
        self._listed_depths.add(core.count("/"))
        self._database.execute(
            "INSERT INTO files (core, store, what, path, nbytes, modified, version, old, leads_to) "
            "VALUES (?, ?, 'array', ?, ?, ?, ?, 1, ?)",
            (core, number, listed.path, listed.nbytes, listed.modified.isoformat(),
             listed.version, listed.leads_to),
        )  # fmt: skip

    def spare(self, references: Iterable[str], local_stores: Sequence[LocalStore]) -> None:
        """
        Mark the files that a row may refer to: see `_format.aliases`.

        Ignores the store's name and root in a row: two names may lead to one place, and one store
        may lie within another. Links and mounts within a store are resolved through the local
        stores, `local_stores`.
        """
        execute = self._database.execute
        execute("CREATE INDEX IF NOT EXISTS by_core ON files (core)")
        execute("CREATE INDEX IF NOT EXISTS by_version ON files (version)")
        mark = "UPDATE files SET live = 1 WHERE what <> 'upload' AND"
        execute("BEGIN")
        for reference in references:
            path = folded(reference)
            if reference.endswith("/"):
                self._folders = True
                self._add_references(f"{ending}/" for ending in endings_below(path))
                continue
            self._referenced_depths.add(path.count("/"))
            self._add_references([path])
            marked = 0
            for ending in endings(path):
                if ending.count("/") in self._listed_depths:
                    marked += execute(f"{mark} core = ?", (ending,)).rowcount
            if not marked:
                for version in versions_of(reference, local_stores):
                    execute(f"{mark} version = ?", (version,))
        for row, path in self._not_live():
            if any(
                ending.count("/") in self._referenced_depths and self._is_referred(ending)
                for ending in endings_below(folded(path))
            ) or (self._folders and self._is_in_referenced_folder(folded(path))):
                execute("UPDATE files SET live = 1 WHERE rowid = ?", (row,))
        # One file with two names, through links and mounts; a row never means a temporary file.
        for same in ("version", "leads_to"):
            execute(
                f"{mark} what <> 'temporary file' AND {same} IN "
                f"(SELECT leads_to FROM files WHERE live AND leads_to <> '')"
            )
        execute("COMMIT")

    def _add_references(self, paths: Iterable[str]) -> None:
        rows = ((path,) for path in paths)
        self._database.executemany("INSERT OR IGNORE INTO referred VALUES (?)", rows)

    def _is_referred(self, path: str) -> bool:
        found = self._database.execute("SELECT 1 FROM referred WHERE path = ?", (path,))
        return found.fetchone() is not None

    def _is_in_referenced_folder(self, path: str) -> bool:
        """Whether a row refers to a folder that contains a file, at any depth."""
        while "/" in path:
            path = path.rpartition("/")[0]
            if any(self._is_referred(f"{ending}/") for ending in endings_below(path)):
                return True
        return False

    def _not_live(self) -> Iterator[tuple[int, str]]:
        last = 0
        while rows := self._database.execute(
            "SELECT rowid, path FROM files WHERE rowid > ? AND NOT live AND what <> 'upload' "
            "ORDER BY rowid LIMIT ?",
            (last, _AT_ONCE),
        ).fetchall():
            yield from rows
            last = rows[-1][0]

    def has_files_of(self, schema: str) -> bool:
        """Whether there are files of a dropped schema."""
        beginning = f"{name_in_path(schema)}."
        [[found]] = self._database.execute(
            "SELECT EXISTS (SELECT * FROM files WHERE substr(owner, 1, ?) = ?)",
            (len(beginning), beginning),
        )
        return bool(found)

    def count(self, report: Collection, stores: Sequence[Store], dropped: bool) -> None:
        """Fill in the report; then exclude dropped files from the orphans unless `dropped`."""
        for live, old, what, gone, count, nbytes in self._database.execute(
            "SELECT live, old, what, owner IS NOT NULL, count(*), sum(nbytes) FROM files "
            "GROUP BY 1, 2, 3, 4"
        ):
            if live:
                report.live += count
            elif what == _UNKNOWN:
                report.unknown += count
            elif not old:
                report.young += count
            else:
                report.dropped += gone and count
                report.dropped_nbytes += gone and nbytes
                if dropped or not gone:
                    report.counts[what] += count
                    report.nbytes += nbytes
        owners = self._database.execute(
            "SELECT owner, count(*) FROM files WHERE old AND NOT live AND owner IS NOT NULL "
            "GROUP BY owner ORDER BY 2 DESC LIMIT ?",
            (KEPT,),
        )
        report.owners.update(dict(owners))
        if not dropped:
            self._database.execute("UPDATE files SET old = 0 WHERE owner IS NOT NULL")
        [[report.newest]] = self._database.execute(
            "SELECT count(*) FROM files WHERE old AND NOT live AND what = 'array' "
            "AND modified > (SELECT max(modified) FROM files WHERE live)"
        )
        report.orphans = [
            Orphan(what, stores[store].name, listed.path, listed.nbytes, listed.modified)
            for store, what, listed in islice(self._orphans(), KEPT)
        ]

    def shares(self, stores: Sequence[Store]) -> Iterator[tuple[str, int, int]]:
        """Yield for each store the number of arrays with a row, and of those to remove."""
        for number, live, gone in self._database.execute(
            "SELECT store, sum(live), sum(old AND NOT live) FROM files "
            "WHERE what IN ('array', 'dropped') GROUP BY store"
        ):
            yield stores[number].name, live, gone

    def remove(self, report: Collection, stores: Sequence[Store]) -> None:
        """Remove files that are old enough and without a row."""

        def remove(orphan: tuple[int, str, Listed]) -> bool:
            number, what, listed = orphan
            store = stores[number]
            try:
                if what == "upload":
                    store.abort(listed)
                elif what == "dropped" and listed.nbytes and not is_array(store, listed):
                    report.odd.append(f"{listed.path} in store {store.name!r}: it is no array")
                    return True
                elif not store.remove_listed(listed):
                    report.changed += 1
                    return True
                report.removed += 1
            except NpyError as error:
                if len(report.failures) < KEPT:
                    report.failures.append(str(error))
            return True

        all_in_threads(remove, self._orphans(), _REMOVALS)

    def _orphans(self) -> Iterator[tuple[int, str, Listed]]:
        found = self._database.execute(
            "SELECT store, what, path, nbytes, modified, version FROM files "
            "WHERE old AND NOT live AND what <> ? ORDER BY store, path",
            (_UNKNOWN,),
        )
        while rows := found.fetchmany(_AT_ONCE):
            for store, what, path, nbytes, modified, version in rows:
                listed = Listed(path, nbytes, datetime.fromisoformat(modified), version)
                yield store, what, listed
