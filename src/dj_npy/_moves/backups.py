"""
The backups in a store: what files they have, which there are, and which may be removed.

Rows are in chunks, gzipped CSV files named by their contents; a backup is a JSON that lists them.
So a backup writes only the chunks that no earlier one has, and a file is never changed.
"""

import gzip
import io
import json
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import blake2b, sha256
from typing import Any

from dj_npy._concurrency.threads import all_in_threads
from dj_npy._errors import ArrayCorruptError, ArrayInvalidError, ArrayMissingError, StoreError
from dj_npy._format.layout import TEMPORARY
from dj_npy._moves.declaring import definition_text
from dj_npy._moves.definitions import Definition
from dj_npy._moves.place import Place
from dj_npy._moves.rowfiles import (
    Cells,
    RowFile,
    absent_text,
    length_of,
    read_rows,
    write_csv,
)
from dj_npy._moves.values import kind_of_type
from dj_npy._stores import Listed, StoreConfig
from dj_npy._text import short_repr

FOLDER = "dj-npy-backup"
"""The folder of backups in a store."""
_ROWS = "rows"
_NAME = re.compile(r"\d{4}-\d\d-\d\dT\d{6}\.\d{6}Z")
_CHUNK = re.compile(rf"{_ROWS}/([^/]+)/([0-9a-f]{{64}})\.[0-9a-f]{{8}}\.csv\.gz")
_VERSION = 1
_LEAST, _USUAL, _MOST = 1 << 19, 2 << 20, 8 << 20
"""Characters of a chunk."""
_LONGEST_BACKUP = timedelta(hours=12)
"""
Chunks that no backup lists are kept for two times as long, and lists for as long as a backup that
began from them may take. So one process can remove old backups while another writes a new one.
"""
_SPARED = 2 * _LONGEST_BACKUP
_AT_ONCE = 16


@dataclass(frozen=True)
class Backup:
    """What a backup lists."""

    database: str
    """Backend of its database."""
    schemas: tuple[str, ...]
    """Those that are whole; of others, it has the rows to which these refer."""
    tables: tuple[tuple[Definition, tuple[RowFile, ...]], ...]
    """Parents first."""
    left_out: tuple[str, ...]
    """What of the tables is not in it."""
    collations: Mapping[str, str] = field(default_factory=dict)
    """Of MySQL: how each schema compares texts."""


def chunks_of(rows: Iterator[Cells], key: Sequence[int]) -> Iterator[list[Cells]]:
    """
    Split rows into chunks.

    A chunk ends where a hash of the row's key says so. So where a row was added, changed or
    deleted, one chunk or two differ, and not all that follow.

    Parameters
    ----------
    rows : iterator of Cells
        In the order of their keys.
    key : sequence of int
        Positions of the key's values.
    """
    some: list[Cells] = []
    length = 0
    for row in rows:
        some.append(row)
        added = length_of(row) + len(row)
        length += added
        name = json.dumps([row[index] for index in key]).encode()
        number = int.from_bytes(blake2b(name, digest_size=6).digest(), "big")
        ends = length >= _LEAST and number * _USUAL < added << 48
        if ends or length >= _MOST:
            yield some
            some, length = [], 0
    if some:
        yield some


class Backups:
    """
    The backups in a store.

    Parameters
    ----------
    config : StoreConfig
        Where the store is configured.
    store : str, optional
        Its name; the default store otherwise.
    """

    def __init__(self, config: StoreConfig, store: str | None) -> None:
        name = store or config.stores.get("default")
        if not isinstance(name, str):
            raise StoreError(
                "there is no default store: name the store of the backups, store='main'"
            )
        self.store_name = name
        self.place = Place(FOLDER, name, config)
        self._known: dict[tuple[str, str], str] = {}
        self._began = time.monotonic()
        self._last = ""

    def names(self) -> list[str]:
        """Return the names of all backups, oldest first."""
        return sorted(name for each in self.place.listed() if (name := _name_of(each.path)))

    def read(self, name: str | None = None) -> tuple[str, Backup]:
        """Return a backup and its name; the newest by default."""
        if name is None:
            if not (names := self.names()):
                raise ArrayInvalidError(f"there is no backup in store {self.store_name!r}")
            name = names[-1]
        contents = self.place.read(f"{name}.json") if _NAME.fullmatch(str(name)) else None
        if contents is None:
            raise ArrayInvalidError(
                f"there is no backup {short_repr(name)} in store {self.store_name!r}; "
                f"dj_npy.backups({self.store_name!r}) lists them"
            )
        try:
            return name, _of_json(json.loads(contents))
        except ArrayInvalidError as error:  # of a later version
            raise ArrayInvalidError(f"{name} in store {self.store_name!r}: {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ArrayCorruptError(
                f"the backup {name} in store {self.store_name!r} is damaged "
                f"({type(error).__name__}: {error}). Restore another, and remove "
                f"{FOLDER}/{name}.json"
            ) from None

    def begin(self) -> None:
        """Find out which chunks a new backup need not write."""
        self._began = time.monotonic()
        listed = list(self.place.listed())
        there = {each.path for each in listed}
        youngest = self.place.store.now() - _LONGEST_BACKUP
        for each in listed:  # of a backup that was stopped or killed, for one
            if (found := _CHUNK.fullmatch(each.path)) and each.modified > youngest:
                self._known[found[1], found[2]] = each.path
        if names := sorted(name for path in there if (name := _name_of(path))):
            self._last = names[-1]
            # If it is damaged, or was removed meanwhile, its chunks are written again.
            with suppress(ArrayCorruptError, ArrayInvalidError):
                for _, chunks in self.read(self._last)[1].tables:
                    for chunk in chunks:
                        found = _CHUNK.fullmatch(chunk.path)
                        if found and chunk.path in there:
                            self._known[found[1], found[2]] = chunk.path

    def write(
        self, folder: str, names: Sequence[str], rows: Sequence[Cells]
    ) -> tuple[RowFile, int]:
        """
        Write rows of a table, unless a chunk has them; return it, and the number of bytes written.

        Thread-safe.
        """
        text, absent = io.StringIO(newline=""), absent_text(rows)
        write_csv(text, names, rows, absent)
        contents = text.getvalue().encode()
        digest = sha256(contents).hexdigest()
        path, nbytes = self._known.get((folder, digest)), 0
        if path is None:
            path = f"{_ROWS}/{folder}/{digest}.{secrets.token_hex(4)}.csv.gz"
            zipped = gzip.compress(contents, 6, mtime=0)
            nbytes = len(zipped)
            self.place.write(path, zipped)
        return RowFile(path, len(rows), len(contents), digest, absent), nbytes

    def end(self, backup: Backup) -> str:
        """Write the list of a new backup, by which it comes into being; return its name."""
        if time.monotonic() - self._began > _LONGEST_BACKUP.total_seconds():
            raise StoreError(
                f"the backup took longer than {_LONGEST_BACKUP}, and was given up, as another "
                f"process may have removed some of its chunks meanwhile. Nothing is lost. Back up "
                f"fewer schemas at a time"
            )
        now = datetime.now(UTC)
        name = f"{now:%Y-%m-%dT%H%M%S.%f}Z"
        while name <= self._last:  # by a clock that is ahead of ours; another may do the same
            last = datetime.strptime(f"{self._last[:-1]}+0000", "%Y-%m-%dT%H%M%S.%f%z")
            more = timedelta(microseconds=1 + secrets.randbelow(1_000_000))
            name = f"{last + more:%Y-%m-%dT%H%M%S.%f}Z"
        self.place.write(f"{name}.json", _to_json(backup, name))
        return name

    def rows(self, definition: Definition, chunks: Sequence[RowFile]) -> Iterator[Cells]:
        """Yield the rows of a table; raise if a chunk is not as it was written."""
        names = [each.name for each in definition.attributes]
        for chunk in chunks:
            try:
                yield from read_rows(self.place, chunk, names)
            except (ArrayCorruptError, ArrayMissingError) as error:
                raise ArrayCorruptError(
                    f"{error}. Restore another backup: dj_npy.backups({self.store_name!r}) lists "
                    f"them"
                ) from None

    def prune(self, keep: int) -> int:
        """Remove all backups but the newest, and the chunks of no other; return their number."""
        listed = list(self.place.listed())
        spared = self.place.store.now() - _SPARED
        lists = sorted((each for each in listed if _name_of(each.path)), key=lambda each: each.path)
        aged = [each for each in lists if each.modified < spared]
        # One that is being written may have begun from the newest of these.
        gone = [each for each in aged[:-1] if each not in lists[-keep:]]
        kept = {each.path for each in lists} - {each.path for each in gone}
        needed: set[str] = set()
        for path in kept:
            try:
                _, backup = self.read(_name_of(path))
            except ArrayInvalidError:  # another process has removed it meanwhile
                if self.place.nbytes(path) is not None:
                    raise
                continue
            for _, chunks in backup.tables:
                needed.update(chunk.path for chunk in chunks)
        for each in gone:  # before its chunks, which are nothing without it
            self._remove(each)
        unneeded = [
            each
            for each in listed
            if each.modified < spared and each.path not in needed and _is_part(each.path)
        ]
        all_in_threads(self._remove, unneeded, _AT_ONCE)
        return len(gone)

    def _remove(self, each: Listed) -> bool:
        self.place.remove(each.path)
        return True


def _is_part(path: str) -> bool:
    """Whether it is a chunk, or what a killed process has left of one."""
    is_temporary = TEMPORARY.fullmatch(path.rpartition("/")[2]) is not None
    return is_temporary or _CHUNK.fullmatch(path) is not None


def _name_of(path: str) -> str | None:
    """Return the name of a backup from the path of its list; None for another file."""
    name = path.removesuffix(".json")
    return name if name != path and _NAME.fullmatch(name) else None


def _to_json(given: Backup, name: str) -> bytes:
    contents = {
        "about": "a backup by dj-npy: dj-npy restore makes tables and rows of it",
        "version": _VERSION,
        "created": name,
        "database": given.database,
        "schemas": list(given.schemas),
        "left_out": list(given.left_out),
        "collations": dict(given.collations),
        "tables": [
            {
                **definition.to_json(),
                "class": definition.class_name,
                "definition": definition_text(definition, ""),
                "chunks": [chunk._asdict() for chunk in chunks],
            }
            for definition, chunks in given.tables
        ],
    }
    contents["sha256"] = _digest(contents)
    return json.dumps(contents, indent=1, ensure_ascii=False).encode() + b"\n"


def _digest(contents: dict[str, Any]) -> str:
    return sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()


def _of_json(given: Any) -> Backup:
    if given["version"] != _VERSION:
        raise ArrayInvalidError(
            f"the backup was written by a later version of dj-npy (its format is "
            f"{given['version']!r:.20}): update dj-npy"
        )
    if given.pop("sha256") != _digest(given):
        raise ValueError("it is not as it was written")
    tables: list[tuple[Definition, tuple[RowFile, ...]]] = []
    keys: dict[tuple[str, str], list[str]] = {}
    for each in given["tables"]:
        definition = Definition.of_json(each)
        for attribute in definition.attributes:
            kind_of_type(attribute.storage)
        chunks = tuple(RowFile(**chunk) for chunk in each["chunks"])
        if not all(_CHUNK.fullmatch(chunk.path) for chunk in chunks):
            raise ValueError("a path is not that of a chunk")
        if definition.name in keys or not definition.key:
            raise ValueError(f"{'.'.join(definition.name)} is there twice, or has no key")
        for key in definition.foreign_keys:
            if [*key.attributes.values()] != keys.get((key.schema, key.table)):
                raise ValueError(
                    f"{'.'.join(definition.name)} refers to what is no key of a parent"
                )
        keys[definition.name] = definition.key
        tables.append((definition, chunks))
    return Backup(
        given["database"],
        tuple(given["schemas"]),
        tuple(tables),
        tuple(given["left_out"]),
        dict(given["collations"]),
    )
