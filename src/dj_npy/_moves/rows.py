"""The rows whose arrays go elsewhere: read once, kept on disk, and told one by one."""

import pickle
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import datajoint as dj

from dj_npy._format.layout import Column
from dj_npy._format.metadata import ArrayMetadata
from dj_npy._upkeep.ondisk import OnDisk

# With the text that was read: no other writer's, however it was spelled. PostgreSQL cannot compare
# a json, and MySQL compares texts by its collations.
_IS_STILL = {
    "postgresql": "CAST({0} AS TEXT) = %s",
    "mysql": "CONVERT(CAST({0} AS CHAR) USING utf8mb4) COLLATE utf8mb4_bin "
    "= CONVERT(%s USING utf8mb4)",
}


class Stored(NamedTuple):
    """One JSON, and the rows that have it: they share a file."""

    text: str
    """The JSON as it was read."""
    column: int
    """Number of the column, as it was added."""
    keys: list[tuple[Any, ...]]
    """The keys of the rows, as the driver returns them."""

    @property
    def row(self) -> ArrayMetadata:
        """What it says."""
        return ArrayMetadata.of(self.text)

    @property
    def file_nbytes(self) -> int:
        """Size of the file in bytes; 0 if the JSON is invalid, which its file's check reports."""
        return self.row.file_nbytes_if_told()


class Rows(OnDisk):
    """
    Rows of some columns.

    On disk, as memory use should not grow with their number, and no snapshot should last while
    terabytes are copied.
    """

    def __init__(self) -> None:
        super().__init__()
        self._database.execute("CREATE TABLE rows (number INT, text TEXT, key BLOB)")
        self._database.execute("CREATE TABLE old (store TEXT, path TEXT)")
        self._database.execute("CREATE TABLE bad (text TEXT PRIMARY KEY) WITHOUT ROWID")
        self.count = self.nbytes = 0

    def add(self, number: int, found: Iterable[tuple[Any, ...]]) -> None:
        """Add rows of the column with this number: their keys, and the JSON as text."""

        def rows() -> Iterator[tuple[Any, ...]]:
            for *key, text in found:
                self.count += 1
                self.nbytes += Stored(text, number, []).file_nbytes
                yield number, text, pickle.dumps(tuple(key))

        self._database.execute("BEGIN")
        self._database.executemany("INSERT INTO rows (number, text, key) VALUES (?, ?, ?)", rows())
        self._database.execute("COMMIT")

    def __iter__(self) -> Iterator[Stored]:
        found = self._database.execute("SELECT text, number, key FROM rows ORDER BY text, number")
        for (text, number), rows in groupby(found, itemgetter(0, 1)):
            yield Stored(text, number, [pickle.loads(key) for _, _, key in rows])

    def note_bad(self, stored: Stored) -> None:
        """Note that a file is not as it should be."""
        self._database.execute("INSERT OR IGNORE INTO bad VALUES (?)", (stored.text,))

    def is_bad(self, stored: Stored) -> bool:
        """Return whether that was noted."""
        found = self._database.execute("SELECT 1 FROM bad WHERE text = ?", (stored.text,))
        return found.fetchone() is not None

    def note_old_file(self, store: str | None, path: str) -> None:
        """Note a file to which rows referred."""
        self._database.execute("INSERT INTO old VALUES (?, ?)", (store, path))

    def old_files(self) -> Iterator[tuple[str | None, str]]:
        """Yield the stores and paths of these files."""
        yield from self._database.execute("SELECT DISTINCT store, path FROM old")


class Teller:
    """
    Changes rows that still are what they were, each by one statement.

    Parameters
    ----------
    connection : datajoint.Connection
        Its own.
    """

    def __init__(self, connection: Any) -> None:
        self._adapter, self._raw = connection.adapter, connection._conn

    def check_permission(self, column: Column) -> None:
        """Raise if the account must not change a column."""
        name = self._quoted(column.attribute)
        self._execute(f"UPDATE {self._table(column)} SET {name} = {name} WHERE 1 = 0", ())

    def tell(self, column: Column, stored: Stored, new: str) -> int:
        """Change the JSON of rows that still have the text that was read; return how many did."""
        told = 0
        for key in stored.keys:
            where, values = self._where(column, key, stored.text)
            name = self._quoted(column.attribute)
            query = f"UPDATE {self._table(column)} SET {name} = %s {where}"
            told += self._execute(query, (new, *values)) > 0
        return told

    def is_still(self, column: Column, key: tuple[Any, ...], old: str) -> bool:
        """Return whether a row has this JSON."""
        where, values = self._where(column, key, old)
        return self._execute(f"SELECT 1 FROM {self._table(column)} {where}", values) > 0

    def _where(self, column: Column, key: tuple[Any, ...], old: str) -> tuple[str, tuple[Any, ...]]:
        # Servers do not find a float by what they print of it; the JSON tells such rows apart.
        parts = {
            name: value
            for name, value in zip(column.key, key, strict=True)
            if not isinstance(value, float)
        }
        still = _IS_STILL[self._adapter.backend].format(self._quoted(column.attribute))
        conditions = [*(f"{self._quoted(name)} = %s" for name in parts), still]
        return f"WHERE {' AND '.join(conditions)}", (*parts.values(), old)

    def _table(self, column: Column) -> str:
        return f"{self._quoted(column.schema)}.{self._quoted(column.table)}"

    def _quoted(self, name: str) -> str:
        return str(self._adapter.quote_identifier(name)).replace("%", "%%")

    def _execute(self, query: str, values: tuple[Any, ...]) -> int:
        """Return how many rows it was about. Each statement is a transaction of its own."""
        try:
            with self._raw.cursor() as cursor:
                cursor.execute(query, values)
                return int(cursor.rowcount)
        except Exception as error:
            raise dj.connection.translate_query_error(error, query, self._adapter) from error


def shown_key(column: Column, key: tuple[Any, ...]) -> dict[str, Any]:
    """Return a key by name, for a report."""
    plain = (str, int, float, bool, type(None))
    return {
        name: value if isinstance(value, plain) else value_text(value)
        for name, value in zip(column.key, key, strict=True)
    }


def value_text(value: Any) -> str:
    """Return a value of a key as text; a UUID in MySQL is bytes."""
    return value.hex() if isinstance(value, bytes) else str(value)
