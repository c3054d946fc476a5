"""The rows that are in a table before others are inserted: which of these are there already."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from dj_npy._datajoint.catalog import Snapshot
from dj_npy._format.metadata import ArrayMetadata
from dj_npy._moves.definitions import Attribute, Definition
from dj_npy._moves.rowfiles import Cells
from dj_npy._moves.selection import Seed, Selection
from dj_npy._upkeep.ondisk import OnDisk


class PresentRows(OnDisk):
    """
    Keys and hashes of rows: on disk, as memory use should not grow with their number.

    Parameters
    ----------
    has_files : bool
        Whether rows have what refers to the files of other codecs; otherwise that is not compared.
    """

    def __init__(self, has_files: bool = False) -> None:
        super().__init__()
        self._has_files = has_files
        self._database.execute(
            "CREATE TABLE rows (part INT, key TEXT, hash BLOB, PRIMARY KEY (part, key)) "
            "WITHOUT ROWID"
        )

    def add(self, number: int, wanted: Definition, there: Definition, now: Snapshot) -> None:
        """Add the rows of a table, by the attributes that `wanted` has, too."""
        by_name = {each.name: each for each in there.attributes}
        both = tuple(by_name[each.name] for each in wanted.attributes if each.name in by_name)
        shown = Definition(there.schema, there.table, both)
        selection = Selection([shown], [Seed(shown.name, None)], now)
        names = [each.name for each in both]
        compared = self._compared(wanted)

        def rows() -> Iterator[tuple[int, str, bytes]]:
            for row in selection.cells(shown):
                values = dict(zip(names, row, strict=True))
                for each in both:
                    if each.is_array and (text := values[each.name]) is not None:
                        values[each.name] = _fingerprint(text)
                key = json.dumps([values[name] for name in wanted.key])
                yield number, key, _hash(values, compared)

        self._database.execute("BEGIN")
        self._database.executemany("INSERT INTO rows VALUES (?, ?, ?)", rows())
        self._database.execute("COMMIT")

    def differing(
        self,
        number: int,
        wanted: Definition,
        rows: Iterable[Cells],
        described: Callable[[str], str | None],
    ) -> Iterator[dict[str, Any]]:
        """
        Yield the keys of those of some rows that are there, and are others.

        `described` returns the JSON of an array, given what stands for it in a row.
        """
        for row in rows:
            values = dict(zip([each.name for each in wanted.attributes], row, strict=True))
            there = self._hash_of(number, [values[name] for name in wanted.key])
            if there is None:
                continue
            for each in wanted.attributes:
                if each.is_array and (text := values[each.name]) is not None:
                    json_ = described(text)
                    values[each.name] = None if json_ is None else _fingerprint(json_)
            if there != _hash(values, self._compared(wanted)):
                yield {name: values[name] for name in wanted.key}

    def has(self, number: int, key: Sequence[str | None]) -> bool:
        """Whether a row with this key is there."""
        return self._hash_of(number, key) is not None

    def note(self, number: int, key: Sequence[str | None]) -> None:
        """Note that a row with this key has come."""
        self._database.execute(
            "INSERT OR IGNORE INTO rows VALUES (?, ?, ?)", (number, json.dumps(list(key)), b"")
        )

    def _compared(self, wanted: Definition) -> list[Attribute]:
        # DataJoint's own attributes may not be there.
        return [
            each
            for each in wanted.attributes
            if not each.name.startswith("_") and (self._has_files or not each.has_files)
        ]

    def _hash_of(self, number: int, key: Sequence[str | None]) -> bytes | None:
        found = self._database.execute(
            "SELECT hash FROM rows WHERE part = ? AND key = ?", (number, json.dumps(list(key)))
        ).fetchone()
        return found and bytes(found[0])


def _fingerprint(text: str) -> str:
    """Return what two rows of equal arrays have in common; of one without a checksum, all of it."""
    json_ = ArrayMetadata.of(text).json
    if isinstance(json_, dict) and json_.get("checksum"):
        json_ = [json_.get(name) for name in ("checksum", "shape", "dtype", "fortran_order")]
    return json.dumps(json_, sort_keys=True)


def _hash(values: Mapping[str, str | None], attributes: Sequence[Attribute]) -> bytes:
    texts = [_value(values.get(each.name), each.storage) for each in attributes]
    return hashlib.sha256(json.dumps(texts).encode()).digest()


def _value(text: str | None, storage: str) -> str | None:
    """Return the same text for values that some database does not tell apart."""
    if text == "-0.0" and storage.startswith("float"):  # MariaDB has no negative zero
        return "0.0"
    if storage == "json" and text is not None:  # servers order the names in an object
        with suppress(ValueError, RecursionError):
            return json.dumps(json.loads(text), sort_keys=True)
    return text
