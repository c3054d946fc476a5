"""Tell paths of arrays of given columns from paths of other files."""

import re
from collections.abc import Iterable, Set
from itertools import pairwise
from typing import Literal, NamedTuple

from dj_npy._format.aliases import TEMPORARY_SUFFIX, folded
from dj_npy._format.path import EXTENSION, is_with_token, name_in_path

TEMPORARY = re.compile(rf"\.[0-9a-f]{{16}}{re.escape(TEMPORARY_SUFFIX)}")


class Column(NamedTuple):
    """An attribute of type ``<npy@>``, directly or at the end of a chain of codecs."""

    schema: str
    table: str
    attribute: str
    key: tuple[str, ...]
    """Attributes of the primary key."""
    store: str | None
    """Name in the definition; None is the default store."""

    @property
    def table_name(self) -> str:
        """Schema and table."""
        return f"{self.schema}.{self.table}"


class _Table(NamedTuple):
    """The parts of a path that come from a table."""

    key: tuple[str, ...]
    """Prefix of each key folder, ``name=``."""
    files: tuple[str, ...]
    """File name without token of each ``<npy@>`` attribute."""


def split_folders(folders: list[str], prefix: list[str]) -> tuple[str, str, list[str]] | None:
    """Split the folders of a path into schema, table and those of the key; None if it has none."""
    if folders[: len(prefix)] != prefix:
        return None
    below = folders[len(prefix) :]
    at = next((n for n, folder in enumerate(below) if "=" not in folder), len(below))
    if len(below) < at + 2:
        return None
    return below[at], below[at + 1], [*below[:at], *below[at + 2 :]]


class Layout:
    """
    The paths of ``<npy@>`` columns in one store.

    They have the form ``prefix/name=value.../schema/table/name=value.../file``, with names of
    the table's primary key; the file is named as by `path` for an ``<npy@>`` attribute of the
    table, or as a temporary file.

    Parameters
    ----------
    columns : iterable of Column
        All columns of the store.
    prefix : str
        The store's ``schema_prefix``.
    caseless : bool
        Whether folders of schemas and tables may be spelled in any case, because the server
        ignores it and each process used its own spelling.
    kept : set of str
        Folders, `folded`, that are never removed.
    """

    def __init__(
        self,
        columns: Iterable[Column],
        prefix: str,
        caseless: bool = False,
        kept: Set[str] = frozenset(),
    ) -> None:
        self._prefix = [part for part in prefix.split("/") if part]
        self._caseless = caseless
        self._kept = kept
        self._tables: dict[tuple[str, str], _Table] = {}
        for column in columns:
            table_id = self._table_id(name_in_path(column.schema), name_in_path(column.table))
            key = tuple(f"{name_in_path(name)}=" for name in column.key)
            files = self._tables[table_id].files if table_id in self._tables else ()
            file = name_in_path(column.attribute) + EXTENSION
            self._tables[table_id] = _Table(key, (*files, file))
        self._folded_ids = {tuple(map(folded, table_id)) for table_id in self._tables}

    def classify(self, path: str) -> Literal["array", "temporary file"] | None:
        """Return the kind of file that a path may be of."""
        folder, _, name = path.rpartition("/")
        table = self._table(folder.split("/"))
        if table is None:
            return None
        if TEMPORARY.fullmatch(name):
            return "temporary file"
        for file in table.files:
            if name == file or is_with_token(path, f"{folder}/{file}"):
                return "array"
        return None

    def may_be_live(self, path: str) -> bool:
        """Return whether a path may be that of a row of these tables on some disk."""
        *parts, name = folded(path).split("/")
        return name.endswith(EXTENSION) and not self._folded_ids.isdisjoint(pairwise(parts))

    def is_key_folder(self, folder: str) -> bool:
        """Return whether it is a key folder, to be removed when empty."""
        parts = folder.split("/")
        return "=" in parts[-1] and self._table(parts) is not None and not self.keeps(folder)

    def keeps(self, folder: str) -> bool:
        """Return whether a folder is kept, as another store begins there."""
        return bool(self._kept) and folded(folder) in self._kept

    def relative_path(self, path: str) -> str:
        """Return the part of a path that does not depend on the store's location and prefix."""
        return "/".join(path.split("/")[len(self._prefix) :])

    def _table(self, folders: list[str]) -> _Table | None:
        """Return the table to which these folders belong."""
        split = split_folders(folders, self._prefix)
        if split is None:
            return None
        schema, name, key_folders = split
        table = self._tables.get(self._table_id(schema, name))
        if (
            table is None
            or bool(key_folders) != bool(table.key)
            or not all(f.startswith(table.key) for f in key_folders)
        ):
            return None
        return table

    def _table_id(self, schema: str, table: str) -> tuple[str, str]:
        return (schema.lower(), table.lower()) if self._caseless else (schema, table)
