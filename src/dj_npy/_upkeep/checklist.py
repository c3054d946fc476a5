"""The rows to check, on disk, and those among them that a listing settles."""

import json
import sqlite3
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

from datajoint.errors import DataJointError

from dj_npy._concurrency.pipeline import Pipeline, Task, WorkItem
from dj_npy._errors import ArrayCorruptError
from dj_npy._format.metadata import ArrayMetadata
from dj_npy._stores import Store, StoreConfig, open_store

_AT_ONCE = 4000
"""Rows that are looked for in listings at a time: four pages of S3's, if they are side by side."""
_LISTINGS = 16


class RowToCheck(NamedTuple):
    """A row to check."""

    table: str
    key: dict[str, Any]
    attribute: str
    row: ArrayMetadata
    config: StoreConfig
    nbytes: int


class Checklist:
    """
    The rows to check.

    They are read from the database first, and kept on disk: it would not wait while terabytes are
    read, and memory use does not grow with their number.
    """

    def __init__(self) -> None:
        # "": a temporary file of SQLite, removed on close.
        self._rows = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._rows.execute("PRAGMA journal_mode = OFF")
        self._rows.execute(
            "CREATE TABLE rows (config INT, store TEXT, path TEXT, file_size INT, nbytes INT, "
            "line TEXT)"
        )
        self._configs: list[StoreConfig] = []

    def __enter__(self) -> "Checklist":
        self._rows.execute("BEGIN")
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.close()

    def add_config(self, config: StoreConfig) -> None:
        """Set the store configuration of the rows that are added from now on."""
        self._configs.append(config)

    def add(self, table: str, key: dict[str, Any], attribute: str, stored: str) -> int:
        """Add a row, given its JSON as text, and return the size of its array in bytes."""
        row = _parsed(stored)
        store, path, file_size = _described_file(row)
        nbytes = _nbytes(row)
        line = json.dumps([table, key, attribute, stored], default=_text)
        self._rows.execute(
            "INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?)",
            (len(self._configs) - 1, store, path, file_size, nbytes, line),
        )
        return nbytes

    def __iter__(self) -> Iterator[RowToCheck]:
        for number, nbytes, line in self._rows.execute(
            "SELECT config, nbytes, line FROM rows ORDER BY rowid"
        ):
            table, key, attribute, stored = json.loads(line)
            config = self._configs[number]
            yield RowToCheck(table, key, attribute, _parsed(stored), config, nbytes)

    def settle(self) -> Iterator[tuple[int, int]]:
        """
        Strike off the rows whose files have the right size according to a listing of their store.

        Yields numbers of rows and the sizes of their arrays as it goes. What no listing shows, or
        shows otherwise, stays.
        """
        stores = self._rows.execute(
            "SELECT DISTINCT config, store FROM rows WHERE file_size > 0"
        ).fetchall()
        for number, name in stores:
            try:
                store = open_store(self._configs[number], name or None)
            except (DataJointError, OSError):  # reported when its rows are examined
                continue
            if store.lists_in_order:
                yield from self._settle(number, name, store)
        self._rows.execute("DELETE FROM rows WHERE file_size < 0")

    def _settle(self, number: int, name: str, store: Store) -> Iterator[tuple[int, int]]:
        self._rows.execute("CREATE INDEX IF NOT EXISTS by_path ON rows (config, store, path)")

        def slices() -> Iterator[list[_Described]]:
            last: tuple[Any, ...] = ("", 0)
            while found := self._rows.execute(
                "SELECT path, rowid, file_size, nbytes FROM rows WHERE config = ? AND store = ? "
                "AND (path, rowid) > (?, ?) AND file_size > 0 ORDER BY path, rowid LIMIT ?",
                (number, name, *last, _AT_ONCE),
            ).fetchall():
                last = found[-1][:2]
                yield [_Described(*each) for each in found]

        tasks = (Task(partial(_as_listed, store, rows)) for rows in slices())
        pipeline = Pipeline((WorkItem(None, [task], 1) for task in tasks), _LISTINGS, _LISTINGS)
        try:
            for item in pipeline:
                settled = item.tasks[0].result()
                self._rows.executemany(
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
    """Return those whose size a listing confirms."""
    try:
        sizes = store.listed_sizes([row.path for row in rows])
    except (DataJointError, OSError):  # reported when the rows are examined
        return []
    return [row for row in rows if sizes.get(row.path) == row.file_size]


def _parsed(stored: str) -> ArrayMetadata:
    try:
        return ArrayMetadata(json.loads(stored))
    except (ValueError, RecursionError):
        return ArrayMetadata(stored)


def _nbytes(row: ArrayMetadata) -> int:
    try:
        return row.nbytes
    except ArrayCorruptError:
        return 0


def _described_file(row: ArrayMetadata) -> tuple[str, str, int]:
    """Return store, path and probable size of a row's file; zero if a listing cannot settle it."""
    try:
        likely = row.likely_header()
        if likely is not None:
            return row.store or "", row.path, likely[0].file_size
    except ArrayCorruptError:
        pass
    return "", "", 0


def _text(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
