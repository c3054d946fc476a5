"""Rows that were, from the paths of arrays alone."""

from collections.abc import Iterable, Iterator
from datetime import date, datetime
from decimal import Decimal
from typing import Any, NamedTuple
from urllib.parse import unquote
from uuid import UUID

from dj_npy._format.layout import split_folders
from dj_npy._format.path import EXTENSION, array_path, is_with_token
from dj_npy._moves.definitions import Definition
from dj_npy._moves.values import kind_of_type
from dj_npy._stores.opening import Addressing
from dj_npy._upkeep.ondisk import OnDisk


class FoundFile(NamedTuple):
    """A file of a store that may be an array of a table."""

    schema: str
    table: str
    """Both as folders spell them."""
    folder: str
    """Of the row, in the store."""
    path: str
    nbytes: int


class FoundFiles(OnDisk):
    """Files of a store: on disk, as memory use should not grow with their number."""

    def __init__(self, files: Iterable[tuple[str, int]], addressing: Addressing) -> None:
        super().__init__()
        self._database.execute(
            "CREATE TABLE files (owner TEXT, name TEXT, folder TEXT, path TEXT, nbytes INT)"
        )
        prefix = [part for part in addressing.prefix.split("/") if part]

        def found() -> Iterator[FoundFile]:
            for path, nbytes in files:
                folder, _, name = path.rpartition("/")
                split = split_folders(folder.split("/"), prefix)
                if name.endswith(EXTENSION) and split is not None:
                    yield FoundFile(split[0], split[1], folder, path, nbytes)

        self._database.execute("BEGIN")
        self._database.executemany("INSERT INTO files VALUES (?, ?, ?, ?, ?)", found())
        self._database.execute("CREATE INDEX by_table ON files (owner, name, folder)")
        self._database.execute("COMMIT")

    def tables(self) -> list[tuple[str, str, int]]:
        """Return schema, table and number of files, of all that folders name."""
        query = "SELECT owner, name, count(*) FROM files GROUP BY owner, name ORDER BY owner, name"
        return list(self._database.execute(query))

    def rows(self, schema: str, table: str) -> Iterator[tuple[str, list[FoundFile]]]:
        """Yield the folder of each row of a table, and its files."""
        some: list[FoundFile] = []
        last = ("", "")
        while batch := self._database.execute(
            "SELECT * FROM files WHERE owner = ? AND name = ? AND (folder, path) > (?, ?) "
            "ORDER BY folder, path LIMIT 1000",
            (schema, table, *last),
        ).fetchall():
            for each in map(FoundFile._make, batch):
                if some and each.folder != some[0].folder:
                    yield some[0].folder, some
                    some = []
                some.append(each)
            last = (some[-1].folder, some[-1].path)
        if some:
            yield some[0].folder, some


def key_of_folder(given: Definition, folder: str, addressing: Addressing) -> dict[str, str] | None:
    """
    Return the key of a row as neutral text; None if its folder does not tell it.

    A long key is cut off in a path. What the key's own path is not, is no folder of ours.
    """
    pairs = [part.partition("=") for part in folder.split("/") if "=" in part]
    texts = {unquote(name): unquote(text, errors="strict") for name, _, text in pairs}
    named = [name for name in given.key if name != "_singleton"]  # of a table without a key
    if len(texts) != len(pairs) or texts.keys() != set(named):
        return None
    try:
        values = {name: _value(texts[name], given[name].storage) for name in named}
        path = array_path(
            given.schema,
            given.table,
            values,
            "x",
            prefix=addressing.prefix,
            partition=addressing.partition,
        )
        if path.rpartition("/")[0] != folder:
            return None
        key = {name: _neutral(value, given[name].storage) for name, value in values.items()}
        return key or dict.fromkeys(given.key, "true")
    except (ValueError, ArithmeticError):
        return None


def _value(text: str, storage: str) -> Any:
    """Return the value of a key that a path has as this text."""
    if storage.startswith("int"):
        return int(text)
    if storage.startswith("float"):
        return float(text)
    if storage.startswith("decimal"):
        return Decimal(text)
    if storage == "date":
        return date.fromisoformat(text)
    if storage.startswith("datetime"):
        day, _, clock = text.partition("T")
        return datetime.fromisoformat(f"{day}T{clock.replace('-', ':')}")
    if storage == "uuid":
        return UUID(text)
    if storage == "bytes":
        return bytes.fromhex(text)
    return text


def _neutral(value: Any, storage: str) -> str:
    """Return the text of a value as the database has it."""
    if storage == "bool":
        value = {"True": 1, "False": 0}.get(value, value)
        value = int(value)
    elif storage == "time":
        value = value[:1] + value[1:].replace("-", ":")
    elif storage == "uuid":
        value = str(value)
    return kind_of_type(storage).encode(value)


def files_of(files: Iterable[FoundFile], attribute: str) -> list[FoundFile]:
    """Return those of a row's files that may be the array of an attribute, by its name in paths."""
    found = []
    for each in files:
        plain = f"{each.folder}/{attribute}{EXTENSION}"
        if each.path == plain or is_with_token(each.path, plain):
            found.append(each)
    return found
