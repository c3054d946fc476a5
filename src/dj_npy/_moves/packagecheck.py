"""Check a package before anything is made of it."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from dj_npy._concurrency.pipeline import IN_FLIGHT, Pipeline, Task, WorkItem
from dj_npy._datajoint.codec import describe
from dj_npy._errors import ArrayCorruptError, NpyError
from dj_npy._moves.datapackage import Package
from dj_npy._moves.definitions import Definition
from dj_npy._moves.incoming import Incoming, check_values, key_of
from dj_npy._moves.packedarrays import FOLDER, NAMES, hashes, stored_header
from dj_npy._moves.place import Place
from dj_npy._moves.rowfiles import Cells, RowFile, check_bytes, read_rows
from dj_npy._settings import settings
from dj_npy._stores.remote import BUFFERED
from dj_npy._text import key_text, short_repr
from dj_npy._upkeep.ondisk import OnDisk


class FoundArray(NamedTuple):
    """An array of a package, as it was found there."""

    path: str
    description: str
    """JSON of a row that refers to it."""
    nbytes: int
    problem: str
    """Why it is not in the package, if it is not."""


class FoundArrays(OnDisk):
    """The arrays of a package: on disk, as memory use should not grow with their number."""

    def __init__(self) -> None:
        super().__init__()
        self._database.execute(
            "CREATE TABLE arrays (path TEXT PRIMARY KEY, description TEXT, nbytes INT, "
            "problem TEXT, uses INT DEFAULT 0) WITHOUT ROWID"
        )
        self.count = self.nbytes = self.problems = 0

    def begin(self) -> None:
        """Begin to add arrays."""
        self._database.execute("BEGIN")

    def end(self) -> None:
        """Keep what was added."""
        self._database.execute("COMMIT")

    def add(self, each: FoundArray) -> bool:
        """Add an array; return False if its path is there already."""
        done = self._database.execute(
            "INSERT OR IGNORE INTO arrays VALUES (?, ?, ?, ?, 0)", tuple(each)
        )
        self.count += not each.problem
        self.problems += bool(each.problem)
        self.nbytes += each.nbytes
        return done.rowcount > 0

    def use(self, path: str) -> FoundArray | None:
        """Return the array of a row, if it is there, and note that it was used."""
        found = self.get(path)
        if found is not None:
            self._database.execute("UPDATE arrays SET uses = uses + 1 WHERE path = ?", (path,))
        return found

    def get(self, path: str) -> FoundArray | None:
        """Return the array at a path, if it is there."""
        found = self._database.execute(
            "SELECT path, description, nbytes, problem FROM arrays WHERE path = ?", (path,)
        ).fetchone()
        return found and FoundArray(*found)

    def description(self, path: str) -> str | None:
        """Return the JSON of a row that refers to the array at a path, if it is there."""
        found = self.get(path)
        return None if found is None or found.problem else found.description

    def unused(self) -> str | None:
        """Return the path of an array that not exactly one row has."""
        found = self._database.execute("SELECT path FROM arrays WHERE uses <> 1").fetchone()
        return found and str(found[0])


def find_arrays(
    place: Place, package: Package, found: FoundArrays, advance: Callable[[int], None]
) -> None:
    """Find the arrays of a package; raise if one is not as it was written."""
    for file in (file for _, file in package.tables):
        check_bytes(place, file)
    if package.arrays is None:
        return
    check_bytes(place, package.arrays)
    pipeline = Pipeline(
        _work_items(place, package.arrays), settings.max_workers, IN_FLIGHT, adapt=True
    )
    found.begin()
    try:
        for item in pipeline:
            each: FoundArray = item.tasks[0].result() if item.tasks else item.item
            if not found.add(each):
                raise _refused(place, each.path, "it is listed twice")
            advance(each.nbytes)
    finally:
        pipeline.close()
        found.end()


def _work_items(place: Place, listed: RowFile) -> Iterator[WorkItem]:
    for path, size, sha256, checksum, problem in read_rows(place, listed, NAMES):
        if problem is not None:
            yield WorkItem(FoundArray(str(path), "", 0, problem))
            continue
        if not str(path).startswith(f"{FOLDER}/"):
            raise _refused(place, path, f"it is not in {FOLDER}/")
        nbytes = int(size) if re.fullmatch(r"\d{1,18}", size or "") else 0  # type: ignore[arg-type]
        work = partial(_examined, place, place.check(path), nbytes, sha256, checksum)
        yield WorkItem(
            None,
            [Task(work)],
            min(nbytes, BUFFERED),
            workers=lambda: place.store.workers,
        )


def _examined(
    place: Place, path: str, nbytes: int, sha256: str | None, checksum: str | None
) -> FoundArray:
    """Read an array's file; raise if it is not what the package says, or no array."""
    found = hashes(place.pieces(path))
    if found != (nbytes, sha256, checksum):
        raise _refused(
            place, path, f"it was changed: it has {found[0]:,} bytes of SHA-256 {found[1]}"
        )
    try:
        header = stored_header(place.store, place.inside(path), nbytes)
    except NpyError as error:
        raise _refused(place, path, f"it is no array that can be stored: {error}") from None
    description = describe(place.store, place.inside(path), header, found[2], None)
    return FoundArray(path, json.dumps(description), nbytes, "")


def check_rows(place: Place, tables: Sequence[Incoming], found: FoundArrays, backend: str) -> None:
    """Raise unless a database of some kind can hold all values, and each array is of one row."""

    def check_arrays(definition: Definition, row: Cells) -> None:
        _use_arrays(definition, row, found)

    check_values(tables, backend, f"the package {place.name}", check_arrays)
    if path := found.unused():
        raise _refused(place, path, "not exactly one row has it")


def rows_of(place: Place, definition: Definition, file: RowFile) -> Iterator[Cells]:
    """Yield the rows of a table."""
    return read_rows(place, file, [each.name for each in definition.attributes])


def _use_arrays(definition: Definition, row: Cells, found: FoundArrays) -> None:
    for attribute, cell in zip(definition.attributes, row, strict=True):
        if not attribute.is_array or cell is None:
            continue
        each = found.use(cell)
        key = key_text(key_of(definition, row))
        if each is None:
            raise ValueError(f"{attribute.name} of {key}, {short_repr(cell)}, is not listed")
        if each.problem and not attribute.nullable:
            raise ValueError(
                f"{attribute.name} of {key} is not in the package, as it was damaged when it was "
                f"exported ({each.problem})"
            )


def _refused(place: Place, path: Any, why: str) -> ArrayCorruptError:
    return ArrayCorruptError(
        f"{short_repr(path)} in the package {place.name}: {why}. Nothing was changed"
    )
