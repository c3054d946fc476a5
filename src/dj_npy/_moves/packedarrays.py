"""The arrays of a package: which there are, and how they get there."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import xxhash
from datajoint.errors import DataJointError

from dj_npy._array.file import ArrayFile
from dj_npy._concurrency.pipeline import Task, WorkItem
from dj_npy._errors import ArrayCorruptError, ArrayInvalidError, NpyError
from dj_npy._format import npyfile
from dj_npy._format.accepted import check_header
from dj_npy._format.aliases import folded
from dj_npy._format.metadata import ArrayMetadata
from dj_npy._format.npyfile import CHECKSUM, Header
from dj_npy._format.path import EXTENSION, array_path
from dj_npy._moves.definitions import Definition
from dj_npy._moves.findings import why_not_copied
from dj_npy._moves.place import Place
from dj_npy._moves.values import kind_of_type
from dj_npy._stores import Store, StoreConfig, open_store
from dj_npy._stores.remote import BUFFERED
from dj_npy._upkeep.ondisk import OnDisk

FOLDER = "arrays"
"""Where arrays are in a package."""
NAMES = ("path", "bytes", "sha256", "checksum", "problem")
"""The header of the list of arrays."""


class PackedArray(NamedTuple):
    """An array that a row has."""

    number: int
    table: int
    """Number of the definition."""
    attribute: str
    key: dict[str, Any]
    text: str
    """The JSON of the row."""
    path: str
    """In the package."""

    @property
    def row(self) -> ArrayMetadata:
        """What the row says."""
        return ArrayMetadata.of(self.text)

    @property
    def file_nbytes(self) -> int:
        """Size of the file in bytes; 0 if the row is invalid."""
        return self.row.file_nbytes_if_told()


class Copied(NamedTuple):
    """What became of an array."""

    nbytes: int = 0
    sha256: str = ""
    checksum: str = ""
    what: str = ""
    """What is wrong with it, as in `Finding`; nothing if it was copied."""
    message: str = ""
    failure: NpyError | None = None
    """Why nothing more can be written."""


class ArrayList(OnDisk):
    """The arrays of rows: on disk, as memory use should not grow with their number."""

    def __init__(self) -> None:
        super().__init__()
        self._database.execute(
            "CREATE TABLE arrays (number INTEGER PRIMARY KEY, part INT, attribute TEXT, key TEXT, "
            "text TEXT, path TEXT, nbytes INT, sha256 TEXT, checksum TEXT, problem TEXT)"
        )
        self._database.execute("CREATE TABLE names (name TEXT PRIMARY KEY) WITHOUT ROWID")
        self.count = self.nbytes = 0

    def begin(self) -> None:
        """Begin to add arrays of a table."""
        self._database.execute("BEGIN")

    def end(self) -> None:
        """Keep what was added."""
        self._database.execute("COMMIT")

    def forget(self) -> None:
        """Forget what was added since, and begin again."""
        self._database.execute("ROLLBACK")
        self.begin()
        found = self._database.execute("SELECT count(*), total(nbytes) FROM arrays").fetchone()
        self.count, self.nbytes = found[0], int(found[1])

    def add(
        self, table: int, definition: Definition, attribute: str, key: Mapping[str, str], text: str
    ) -> str:
        """Add the array of a row, and return its path."""
        values = {name: _key_value(definition[name].storage, part) for name, part in key.items()}
        plain = array_path(definition.schema, definition.table, values, attribute)
        path, number = f"{FOLDER}/{plain}", 1
        while not self._is_new(path):
            number += 1
            path = f"{FOLDER}/{plain.removesuffix(EXTENSION)}~{number}{EXTENSION}"
        self.count += 1
        each = PackedArray(self.count, table, attribute, dict(key), text, path)
        self.nbytes += each.file_nbytes
        self._database.execute(
            "INSERT INTO arrays VALUES (?, ?, ?, ?, ?, ?, ?, '', '', '')",
            (each.number, table, attribute, json.dumps(each.key), text, path, each.file_nbytes),
        )
        return path

    def _is_new(self, path: str) -> bool:
        """Whether no other path may be the same file on some disk."""
        done = self._database.execute("INSERT OR IGNORE INTO names VALUES (?)", (folded(path),))
        return done.rowcount > 0

    def __iter__(self) -> Iterator[PackedArray]:
        query = (
            "SELECT number, part, attribute, key, text, path FROM arrays WHERE number > ? "
            "ORDER BY number LIMIT 1000"
        )
        last = 0
        while some := self._database.execute(query, (last,)).fetchall():  # others are noted now
            for number, table, attribute, key, text, path in some:
                last = number
                yield PackedArray(number, table, attribute, json.loads(key), text, path)

    def note(self, each: PackedArray, copied: Copied) -> None:
        """Note what became of an array."""
        self._database.execute(
            "UPDATE arrays SET nbytes = ?, sha256 = ?, checksum = ?, problem = ? WHERE number = ?",
            (copied.nbytes, copied.sha256, copied.checksum, copied.what, each.number),
        )

    def cells(self) -> Iterator[list[str | None]]:
        """Yield the rows of the list in the package."""
        for path, nbytes, sha256, checksum, problem in self._database.execute(
            "SELECT path, nbytes, sha256, checksum, problem FROM arrays ORDER BY number"
        ):
            there = not problem
            yield [
                path,
                str(nbytes) if there else None,
                sha256 if there else None,
                checksum if there else None,
                problem or None,
            ]

    def has(self, path: str) -> bool:
        """Whether an array that was copied has this path."""
        found = self._database.execute(
            "SELECT problem = '' FROM arrays WHERE path = ?", (path,)
        ).fetchone()
        return bool(found and found[0])

    def index_paths(self) -> None:
        """Prepare for `has`."""
        self._database.execute("CREATE INDEX paths ON arrays (path)")


def _key_value(storage: str, text: str) -> Any:
    """Return the value of a key, by which DataJoint's paths are made."""
    try:
        return kind_of_type(storage).decode(text, storage, "postgresql")
    except ValueError:  # only another database has it
        return text


class Copier:
    """
    Copies arrays into a package, in threads.

    Parameters
    ----------
    config : StoreConfig
        Where the stores of the rows are configured.
    place : Place
        The package.
    taken_up : bool
        Whether files may be there already.
    """

    def __init__(self, config: StoreConfig, place: Place, taken_up: bool) -> None:
        self._config, self._place, self._taken_up = config, place, taken_up
        self._failed = False

    def work_items(self, arrays: ArrayList) -> Iterator[WorkItem]:
        """Yield what is to be done for each array."""
        for each in arrays:
            nbytes = 2 * min(each.file_nbytes, BUFFERED)
            task = Task(partial(self.copy, each))
            yield WorkItem(each, [task], nbytes, workers=lambda: self._place.store.writers)

    def copy(self, each: PackedArray) -> Copied:
        """Copy an array, unless it is damaged."""
        if self._failed:
            return Copied()
        row = each.row
        try:
            file = ArrayFile(open_store(self._config, row.store), row)
            header = file.header()
            check_header(header)
        except (DataJointError, OSError) as error:
            return self._wrong(row, error)
        if self._taken_up and (there := self._there(each.path, row.checksum, header.file_size)):
            return there
        source = _Hashed(file.store.pieces(file.path))
        try:
            self._place.create(each.path, source, header.file_size)
        except NpyError as error:
            if source.failed or isinstance(error, ArrayCorruptError | ArrayInvalidError):
                return self._wrong(row, error)
            self._failed = True
            return Copied(failure=error)
        copied = Copied(header.file_size, source.sha256.hexdigest(), source.checksum)
        if row.checksum not in (None, copied.checksum):
            with suppress(NpyError):
                self._place.remove(each.path)
            return self._wrong(row, None)
        return copied

    def _there(self, path: str, checksum: str | None, nbytes: int) -> Copied | None:
        """Return an array that is there already, as it should be; remove another file."""
        size = self._place.nbytes(path)
        if size is None:
            return None
        found = _Hashed(self._place.pieces(path))
        if checksum is not None and size == nbytes:
            for _ in found:
                pass
            if found.checksum == checksum:
                return Copied(nbytes, found.sha256.hexdigest(), checksum)
        self._place.remove(path)
        return None

    def _wrong(self, row: ArrayMetadata, error: Exception | None) -> Copied:
        """Find out what is wrong with a file that could not be copied."""
        what, message = why_not_copied(row, self._config, error)
        return Copied(what=what, message=message)


class _Hashed(Iterator[memoryview]):
    """Pieces of a file, what their hashes are, and whether reading them failed."""

    def __init__(self, pieces: Any) -> None:
        self._pieces, self.failed = iter(pieces), False
        self.sha256, self._xxh3 = hashlib.sha256(), xxhash.xxh3_128()

    def __next__(self) -> memoryview:
        try:
            piece: memoryview = next(self._pieces)
        except StopIteration:
            raise
        except Exception:
            self.failed = True
            raise
        self.sha256.update(piece)
        self._xxh3.update(piece)
        return piece

    @property
    def checksum(self) -> str:
        """Checksum as in rows."""
        return CHECKSUM + self._xxh3.hexdigest()


def stored_header(store: Store, path: str, nbytes: int) -> Header:
    """Return the header of a file, if it is an array that can be stored; otherwise raise."""
    beginning, _ = store.read_beginning(path, npyfile.MAX_HEADER)
    header = npyfile.parse_header(beginning, nbytes, path)
    check_header(header)
    return header


def hashes(pieces: Any) -> tuple[int, str, str]:
    """Return the size, SHA-256 and checksum of a file."""
    found, nbytes = _Hashed(pieces), 0
    for piece in found:
        nbytes += len(piece)
    return nbytes, found.sha256.hexdigest(), found.checksum
