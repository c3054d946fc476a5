"""Local files that stay open, because parts of them are asked for again and again."""

import os
from collections import deque
from contextlib import suppress

import numpy as np

from dj_npy._filecache import QuietFile
from dj_npy._fileformat import AnyArray, Header

with suppress(ImportError):  # Windows has neither this nor `os.preadv`
    from resource import RLIMIT_NOFILE, getrlimit

_MOST_FILES = 64
_MOST_BYTES = 1 << 20
"""Above this, a slice takes so long that opening its file does not count."""


class KeptOpen:
    """
    A file of rows that is read without a look at the store: 5 us a slice instead of 45.

    Few are open at a time: the one that was opened first is closed for the next.

    Parameters
    ----------
    path : str
        Where it is.
    header : Header
        Its header; see :func:`suits`.
    """

    __slots__ = ("_dtype", "_file", "_length", "_most", "_offset", "_row", "_size", "_status")

    def __init__(self, path: str, header: Header) -> None:
        self._dtype, (self._length, *self._row) = header.dtype, header.shape
        self._offset, self._size = header.offset, header.file_size
        self._most = min(_MOST_BYTES, (header.file_size - header.offset) // 4)
        self._file: QuietFile | None = QuietFile(path)
        self._status = os.fstat(self._file.fileno())
        while len(_open) >= min(_MOST_FILES, getrlimit(RLIMIT_NOFILE)[0] // 4):
            # Whoever is reading it holds the file, which is closed when he has done.
            _open.popleft()._file = None
        _open.append(self)

    @property
    def closed(self) -> bool:
        """Whether it will not be read any more."""
        return self._file is None

    def begins_with(self, prefix: bytes) -> bool:
        """Whether it is the expected file, as far as header and size show."""
        file = self._file
        return (
            file is not None
            and self._status.st_size == self._size
            and os.pread(file.fileno(), len(prefix), 0) == prefix
        )

    def rows(self, index: slice) -> AnyArray | None:
        """Return consecutive rows; None if that is not what is asked for, or not to be had."""
        start, stop, step = index.indices(self._length)
        file = self._file
        if step != 1 or stop <= start or file is None:
            return None
        rows: AnyArray = np.empty((stop - start, *self._row), self._dtype)
        nbytes = rows.nbytes
        if nbytes > self._most:
            return None
        try:
            found, expected = os.stat(file.name), self._status
        except OSError:
            self._file = None
            return None
        if (found.st_size, found.st_ino, found.st_dev) != (
            self._size,
            expected.st_ino,
            expected.st_dev,
        ):
            self._file = None  # another file has its name by now
            return None
        position = self._offset + start * (nbytes // (stop - start))
        return rows if os.preadv(file.fileno(), (rows.data,), position) == nbytes else None


_open: deque[KeptOpen] = deque()


def suits(header: Header) -> bool:
    """Whether rows are consecutive bytes, and of a type that the system's calls fill."""
    in_order = header.shape and (not header.fortran_order or len(header.shape) == 1)
    return bool(in_order) and header.dtype.kind in "biufc" and hasattr(os, "preadv")
