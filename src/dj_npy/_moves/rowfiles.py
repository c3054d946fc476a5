"""Rows as neutral text in CSV files. Knows nothing of databases, nor of arrays."""

import csv
import hashlib
import io
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from dj_npy._errors import ArrayCorruptError
from dj_npy._moves.place import Place

Cells = Sequence[str | None]
"""The values of a row as text; None is NULL."""

_PIECE = 1 << 20
_LONGEST_CELL = (1 << 31) - 1
"""Characters: `csv` takes 131,072 by default, and a blob may have a gigabyte."""


def length_of(row: Cells) -> int:
    """Return the number of characters of a row."""
    return sum(len(cell) for cell in row if cell)


class RowFile(NamedTuple):
    """A CSV file."""

    path: str
    rows: int
    nbytes: int
    sha256: str
    missing: str
    """The text that means NULL; no value of the file has it."""


class _TakenError(Exception):
    """A value is the text that should mean NULL."""


def write_rows(
    place: Place, path: str, names: Sequence[str], rows: Callable[[], Iterable[Cells]]
) -> RowFile:
    """
    Write rows to a CSV file.

    Parameters
    ----------
    place : Place
        The package.
    path : str
        The file.
    names : sequence of str
        The header.
    rows : callable
        Returns the rows; called again if one of them has the text that was to mean NULL.
    """
    missing = "\\N"
    while True:
        with tempfile.TemporaryFile(dir=place.temporary_folder) as file:
            try:
                hashed = _Hashed(file)
                raw: Any = hashed
                text = io.TextIOWrapper(raw, encoding="utf-8", newline="")
                count = write_csv(text, names, rows(), missing)
                text.flush()
                file.seek(0)
            except _TakenError:
                missing += "N"
                continue
            except OSError as error:
                if type(error) is not OSError:  # the database's, or a store's
                    raise
                raise place.store.translate_error(error, path, "write") from error
            place.create(path, _pieces_of(file), hashed.nbytes)
            return RowFile(path, count, hashed.nbytes, hashed.digest.hexdigest(), missing)


def write_csv(text: Any, names: Sequence[str], rows: Iterable[Cells], missing: str) -> int:
    """Write rows below a header to a file of text; return their number."""
    writer = csv.writer(text)
    writer.writerow(names)
    count = 0
    for row in rows:
        if missing in row:
            raise _TakenError
        writer.writerow([missing if cell is None else cell for cell in row])
        count += 1
    return count


def absent_text(rows: Sequence[Cells]) -> str:
    """Return a text that means NULL, as no value of these rows has it."""
    missing = "\\N"
    while any(missing in row for row in rows):
        missing += "N"
    return missing


def _pieces_of(file: Any) -> Iterator[memoryview]:
    while piece := file.read(_PIECE):
        yield memoryview(piece)


def read_rows(place: Place, given: RowFile, names: Sequence[str]) -> Iterator[Cells]:
    """
    Yield the rows of a CSV file; raise if it is not as it was written.

    Of one that is gzipped, size and hash are those of its text.
    """
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
    pieces = place.pieces(given.path)
    source = _Source(_unzipped(pieces) if given.path.endswith(".gz") else pieces)
    text = io.TextIOWrapper(io.BufferedReader(source, _PIECE), encoding="utf-8", newline="")
    try:
        reader = csv.reader(text, strict=True)
        if next(reader, None) != list(names):
            raise ValueError("its header is not that of its table")
        count = 0
        for row in reader:
            if len(row) != len(names):
                raise ValueError(f"row {count + 1} has not {len(names)} values")
            yield [None if cell == given.missing else cell for cell in row]
            count += 1
        if count != given.rows:
            raise ValueError(f"it has {count:,} rows, not {given.rows:,}")
        if (source.nbytes, source.digest.hexdigest()) != (given.nbytes, given.sha256):
            raise ValueError("its bytes are not those that were written")
    except (ValueError, csv.Error, zlib.error) as error:  # also UnicodeDecodeError
        raise ArrayCorruptError(f"{given.path} in {place.name}: {error}") from error


def _unzipped(pieces: Iterable[memoryview]) -> Iterator[memoryview]:
    unzip = zlib.decompressobj(wbits=31)
    for piece in pieces:
        rest: bytes | memoryview = piece
        while rest and not unzip.eof:  # a little at a time: a small file may become any amount
            yield memoryview(unzip.decompress(rest, _PIECE))
            rest = unzip.unconsumed_tail
        if rest or unzip.unused_data:
            raise ValueError("something follows its contents")
    if not unzip.eof:
        raise ValueError("it ends early")


def check_bytes(place: Place, given: RowFile) -> None:
    """Raise if a file is not as it was written."""
    digest, nbytes = hashlib.sha256(), 0
    for piece in place.pieces(given.path):
        digest.update(piece)
        nbytes += len(piece)
    if (nbytes, digest.hexdigest()) != (given.nbytes, given.sha256):
        raise ArrayCorruptError(
            f"{given.path} in the package {place.name} was changed: it has {nbytes:,} bytes of "
            f"SHA-256 {digest.hexdigest()}, not {given.nbytes:,} of {given.sha256}. Nothing was "
            f"changed"
        )


class _Hashed(io.RawIOBase):
    """Hashes what is written to a file."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.digest, self.nbytes = hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        self._file.write(piece)
        self.digest.update(piece)
        self.nbytes += len(piece)
        return len(piece)


class _Source(io.RawIOBase):
    """Reads pieces as a file, and hashes them."""

    def __init__(self, pieces: Iterator[memoryview]) -> None:
        self._pieces, self._rest = pieces, memoryview(b"")
        self.digest, self.nbytes = hashlib.sha256(), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = piece
            self.digest.update(piece)
            self.nbytes += len(piece)
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count
