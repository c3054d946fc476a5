"""Recognize paths of schemas, tables and columns that were dropped."""

import re
from collections.abc import Iterable

from dj_npy._errors import ArrayCorruptError, ArrayMissingError
from dj_npy._format import npyfile
from dj_npy._format.aliases import folded
from dj_npy._format.layout import TEMPORARY, split_folders
from dj_npy._format.path import EXTENSION, is_with_token, name_in_path
from dj_npy._stores import Listed, Store

_ENCODED = r"(?:[A-Za-z0-9_.-]|%[0-9A-F]{2})"
# `name=value`, or several, cut to what a file system allows, with a hash.
_CUT = rf"(?:{_ENCODED}|[=,])*(?:%[0-9A-F]?)?=[0-9a-f]{{32}}"
_OF_KEY = re.compile(rf"[a-z]{_ENCODED}*=(?:{_ENCODED}*|{_CUT})")
_TABLE = re.compile(rf"{_ENCODED}+")
_ATTRIBUTE = re.compile(r"[a-z][a-z0-9_]*")
_TOKENS = range(8, 17)
"""Length of a token, ours or DataJoint's."""


class Dropped:
    """
    Paths that `array_path` made in a store for attributes that no longer exist.

    They are recognized by form alone: ``schema/table/name=value.../attribute.npy``, the name plain
    or with a token; at least one folder belongs to a key. Paths that may belong to an existing
    attribute, of any codec, are excluded.

    Parameters
    ----------
    schemas : iterable of str
        The schemas to check, existing or not.
    attributes : iterable of tuple
        Schema, table and name of all their existing attributes.
    prefix : str
        The store's ``schema_prefix``.
    """

    def __init__(
        self, schemas: Iterable[str], attributes: Iterable[tuple[str, str, str]], prefix: str
    ) -> None:
        self._prefix = [part for part in prefix.split("/") if part]
        self._schemas = {name_in_path(schema) for schema in schemas}
        self._existing: dict[tuple[str, ...], set[str]] = {}
        for names in attributes:
            schema, table, attribute = _folded(*map(name_in_path, names))
            self._existing.setdefault((schema, table), set()).add(attribute)

    def folders(self) -> list[str]:
        """Return the schemas' folders, unless partition folders come first."""
        return ["/".join([*self._prefix, schema]) for schema in sorted(self._schemas)]

    def former_owner(self, path: str) -> str | None:
        """Return the dropped attribute or table of a path; None if there is none."""
        *folders, name = path.split("/")
        if (table := self._table(folders)) is None:
            return None
        existing = self._existing.get(_folded(*table))
        if TEMPORARY.fullmatch(name):
            return ".".join(table) if existing is None else None
        stem = name.removesuffix(EXTENSION)
        before = [stem[: -n - 1] for n in _TOKENS if stem[-n - 1 : -n] == "_"]
        plain = [f"{'/'.join(folders)}/{each}{EXTENSION}" for each in before]
        names = [
            each for each, one in zip(before, plain, strict=True) if is_with_token(path, one)
        ] or [stem]
        if stem == name or not _ATTRIBUTE.fullmatch(names[0]):
            return None
        if existing is not None and not existing.isdisjoint(_folded(stem, *before)):
            return None
        return ".".join([*table, names[0]])

    def is_key_folder(self, folder: str) -> bool:
        """Whether a folder may be removed when empty: it belongs to a key."""
        folders = folder.split("/")
        return _OF_KEY.fullmatch(folders[-1]) is not None and self._table(folders) is not None

    def _table(self, folders: list[str]) -> tuple[str, str] | None:
        """Return schema and table of the row that these folders belong to."""
        split = split_folders(folders, self._prefix)
        if split is None:
            return None
        schema, table, key_folders = split
        if schema not in self._schemas or not _TABLE.fullmatch(table):
            return None
        if not key_folders or not all(map(_OF_KEY.fullmatch, key_folders)):
            return None
        existing = self._existing.get(_folded(schema, table))
        if existing is not None and not existing.issuperset(
            _folded(*(f.split("=")[0] for f in key_folders))
        ):
            return None
        return schema, table


def is_array(store: Store, listed: Listed) -> bool:
    """Whether a file is an array, according to its header and size."""

    def read_beginning(length: int) -> tuple[bytes, int]:
        data, stat = store.read_beginning(listed.path, length)
        return data, stat.nbytes

    try:
        npyfile.read_header(read_beginning, store.where(listed.path))
    except ArrayCorruptError:
        return False
    except ArrayMissingError:  # its removal will report that
        pass
    return True


def _folded(*names: str) -> tuple[str, ...]:
    """Return names as a case-insensitive server or disk compares them."""
    return tuple(map(folded, names))
