"""The rows to check, on disk, and those among them that a listing settles."""

import json
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from posixpath import commonprefix
from typing import Any, NamedTuple

from datajoint.errors import DataJointError

from dj_npy._concurrency.pipeline import Pipeline, Task, WorkItem
from dj_npy._errors import ArrayCorruptError
from dj_npy._format.metadata import ArrayMetadata
from dj_npy._settings import settings
from dj_npy._stores import Listed, Store, StoreConfig, open_store
from dj_npy._upkeep.ondisk import OnDisk

_AT_ONCE = 1000
"""Rows that are looked for at a time: as many as S3 lists on a page."""
_LISTINGS = 16
_FAILURES = 3
"""After so many, a store is not listed any further."""
_WORTHWHILE = 10
"""Files to list for one that is a row's; beyond that, to look at each row costs less."""
_MAX_FILE_SIZE = (1 << 63) - 1
"""The largest number that SQLite stores."""


class RowToCheck(NamedTuple):
    """A row to check."""

    table: str
    key: dict[str, Any]
    attribute: str
    row: ArrayMetadata
    config: StoreConfig
    nbytes: int


class Checklist(OnDisk):
    """
    The rows to check.

    They are read from the database first, and kept on disk: it would not wait while terabytes are
    read, and memory use does not grow with their number.
    """

    def __init__(self) -> None:
        super().__init__()
        self._database.execute(
            "CREATE TABLE rows (config INT, store TEXT, path TEXT, file_size INT, nbytes INT, "
            "origin INT, line TEXT)"
        )
        self._configs: list[StoreConfig] = []
        self._tables: dict[str, int] = {}

        self._database.execute("BEGIN")

    def add_config(self, config: StoreConfig) -> None:
        """Set the store configuration of the rows that are added from now on."""
        known = [n for n, each in enumerate(self._configs) if each is config]
        if not known:
            self._configs.append(config)
        self._config = known[0] if known else len(self._configs) - 1

    def add(self, table: str, key: dict[str, Any], attribute: str, stored: str) -> int:
        """Add a row, given its JSON as text, and return the size of its array in bytes."""
        row = ArrayMetadata.of(stored)
        store, path, file_size, nbytes = _described_file(row)
        line = json.dumps([table, key, attribute, stored], default=_text)
        origin = self._tables.setdefault(table, len(self._tables))
        self._database.execute(
            "INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?)",
            (self._config, store, path, file_size, nbytes, origin, line),
        )
        return nbytes or _nbytes(row)

    def __iter__(self) -> Iterator[RowToCheck]:
        for number, line in self._database.execute("SELECT config, line FROM rows ORDER BY rowid"):
            table, key, attribute, stored = json.loads(line)
            row = ArrayMetadata.of(stored)
            yield RowToCheck(table, key, attribute, row, self._configs[number], _nbytes(row))

    def settle(self) -> Iterator[tuple[int, int]]:
        """
        Strike off the rows whose files have the right size according to a listing of their store.

        Yields numbers of rows and the sizes of their arrays as it goes. What no listing shows, or
        shows otherwise, stays; and so does one row in a thousand, as a listing does not tell
        whether files can be read.
        """
        stores = self._database.execute(
            "SELECT DISTINCT config, store FROM rows WHERE file_size > 0"
        ).fetchall()
        for number, name in stores:
            try:
                store = open_store(self._configs[number], name or None)
            except (DataJointError, OSError):  # reported when its rows are examined
                continue
            if store.lists_many:
                self._database.execute(
                    "CREATE INDEX IF NOT EXISTS by_path ON rows (config, store, path)"
                )
                settle = self._settle_slices if store.lists_in_order else self._settle_folders
                yield from settle(number, name, store)
        self._database.execute("DELETE FROM rows WHERE file_size < 0")

    def _settle_folders(self, number: int, name: str, store: Store) -> Iterator[tuple[int, int]]:
        """Compare the rows of each table with the files in the folder that they have in common."""
        tables = self._database.execute(
            "SELECT min(path), max(path), count(*) FROM rows WHERE config = ? AND store = ? "
            "AND file_size > 0 GROUP BY origin",
            (number, name),
        ).fetchall()
        failures = 0
        for first, last, wanted in tables:
            folder = commonprefix([first, last]).rpartition("/")[0]
            try:
                yield from self._settle_folder(number, name, store.files(folder), wanted)
            except (DataJointError, OSError):  # reported when the rows are examined
                failures += 1
                if failures == _FAILURES:
                    break

    def _settle_folder(
        self, number: int, name: str, files: Iterator[Listed], wanted: int
    ) -> Iterator[tuple[int, int]]:
        found = 0
        for listed, file in enumerate(files):
            if listed > _WORTHWHILE * (found + wanted):
                break
            for row, nbytes in self._database.execute(
                "SELECT rowid, nbytes FROM rows WHERE config = ? AND store = ? AND path = ? "
                "AND file_size = ?",
                (number, name, file.path, file.nbytes),
            ).fetchall():
                if found % _AT_ONCE:
                    self._database.execute("UPDATE rows SET file_size = -1 WHERE rowid = ?", (row,))
                    yield 1, nbytes
                found += 1

    def _settle_slices(self, number: int, name: str, store: Store) -> Iterator[tuple[int, int]]:
        """Compare slices of the sorted rows with listings that begin at their paths."""

        def slices() -> Iterator[list[_Described]]:
            last: tuple[Any, ...] = ("", 0)
            while found := self._database.execute(
                "SELECT path, rowid, file_size, nbytes FROM rows WHERE config = ? AND store = ? "
                "AND (path, rowid) > (?, ?) AND file_size > 0 ORDER BY path, rowid LIMIT ?",
                (number, name, *last, _AT_ONCE),
            ).fetchall():
                last = found[-1][:2]
                yield [_Described(*each) for each in found]

        tasks = (Task(partial(_as_listed, store, rows)) for rows in slices())
        workers = min(settings.max_workers, _LISTINGS)
        pipeline = Pipeline((WorkItem(None, [task], 1) for task in tasks), workers, workers)
        failures = 0
        try:
            for item in pipeline:
                try:
                    settled = item.tasks[0].result()
                except (DataJointError, OSError):  # reported when the rows are examined
                    failures += 1
                    if failures == _FAILURES:
                        break
                    continue
                self._database.executemany(
                    "UPDATE rows SET file_size = -1 WHERE rowid = ?", ((row.id,) for row in settled)
                )
                yield len(settled), sum(row.nbytes for row in settled)
        finally:
            pipeline.close()


class _Described(NamedTuple):
    """The file of a row, as the row describes it."""

    path: str
    id: int
    file_size: int
    nbytes: int


def _as_listed(store: Store, rows: list[_Described]) -> list[_Described]:
    """Return those whose size a listing confirms, but for the first."""
    sizes = store.listed_sizes([row.path for row in rows])
    return [row for row in rows[1:] if sizes.get(row.path) == row.file_size]


def _nbytes(row: ArrayMetadata) -> int:
    try:
        return row.nbytes
    except ArrayCorruptError:
        return 0


def _described_file(row: ArrayMetadata) -> tuple[str, str, int, int]:
    """
    Return store, path and probable size of a row's file, and the size of its array.

    The sizes are zero if a listing cannot settle it.
    """
    with suppress(ArrayCorruptError, UnicodeEncodeError):
        likely, store, path = row.likely_header(), row.store or "", row.path
        (store + path).encode()
        if likely is not None and likely[0].file_size <= _MAX_FILE_SIZE:
            return store, path, likely[0].file_size, likely[0].nbytes
    return "", "", 0, 0


def _text(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
