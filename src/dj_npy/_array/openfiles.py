"""Local files kept open for repeated slicing."""

import os
import time
import weakref
from collections import deque
from contextlib import suppress

import numpy as np

from dj_npy._format.npyfile import AnyArray, Header
from dj_npy._stores.filecache import QuietFile
from dj_npy._stores.regularfile import open_regular

with suppress(ImportError):  # not on Windows, like `os.preadv`
    from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit

_MAX_FILES = 64
_MAX_READ = 1 << 20
"""Largest slice read this way; for larger ones the time to open the file is negligible."""
_RECHECK_S = 0.1
"""Interval at which the path is checked, which costs a tenth of a slice."""


class KeptOpen:
    """
    An open file whose rows are read without the store: 6 us a slice instead of 50.

    The number of open files is limited: the oldest is closed for the next.

    Parameters
    ----------
    path : str
        Path of the file.
    header : Header
        Its header; see :func:`can_keep_open`.
    """

    __slots__ = (
        "__weakref__",
        "_descriptor",
        "_dtype",
        "_expected",
        "_file",
        "_length",
        "_max_rows",
        "_offset",
        "_path",
        "_recheck_at",
        "_row",
        "_row_nbytes",
    )

    def __init__(self, path: str, header: Header) -> None:
        self._dtype, (self._length, *row) = header.dtype, header.shape
        self._row = tuple(row)
        self._offset = header.offset
        self._path, self._recheck_at = path, 0.0
        self._row_nbytes = (header.file_size - header.offset) // self._length
        self._max_rows = min(_MAX_READ // self._row_nbytes, self._length // 4)
        self._file: QuietFile | None = QuietFile(path, opener=open_regular)
        self._descriptor = self._file.fileno()
        self._expected = _fingerprint(os.fstat(self._descriptor))
        _make_room()
        _open.append(weakref.ref(self))

    def close(self) -> None:
        """Release the file, which is closed when no thread reads it any more."""
        self._file = None

    @property
    def closed(self) -> bool:
        """Whether it is released."""
        return self._file is None

    def matches(self, header: Header, prefix: bytes) -> bool:
        """Return whether size and header are the expected ones."""
        file = self._file
        return (
            file is not None
            and self._expected[0] == header.file_size
            and os.pread(self._descriptor, len(prefix), 0) == prefix
        )

    def rows(self, index: slice) -> AnyArray | None:
        """Return a slice of consecutive rows; None for other slices or if the file has changed."""
        start, stop, step = index.indices(self._length)
        count = stop - start
        file = self._file  # keeps the descriptor open until return
        if step != 1 or not 0 < count <= self._max_rows or file is None:
            return None
        try:
            if (
                _fingerprint(os.fstat(self._descriptor)) == self._expected
                and self._path_leads_here()
            ):
                rows: AnyArray = np.empty((count, *self._row), self._dtype)
                position = self._offset + start * self._row_nbytes
                read = os.preadv(self._descriptor, (rows.data,), position)
                return rows if read == count * self._row_nbytes else None
        except OSError:
            pass
        self._file = None  # it was changed or replaced
        return None

    def _path_leads_here(self) -> bool:
        """Check at intervals that the path still leads here, as a folder may have been moved."""
        if (now := time.monotonic()) < self._recheck_at:
            return True
        self._recheck_at = now + _RECHECK_S
        return os.path.samestat(os.stat(self._path), os.fstat(self._descriptor))


def _fingerprint(status: os.stat_result) -> tuple[int, int, int]:
    # ctime changes with every link, rename and write; checking the path costs more.
    return status.st_size, status.st_nlink, status.st_ctime_ns


_open: deque[weakref.ref[KeptOpen]] = deque()


def _make_room() -> None:
    limit = getrlimit(RLIMIT_NOFILE)[0]
    max_files = _MAX_FILES if limit == RLIM_INFINITY else min(_MAX_FILES, limit // 4)
    with suppress(IndexError):  # another thread was faster
        while len(_open) >= max_files:
            oldest = _open.popleft()()
            if oldest is not None:
                oldest.close()


def can_keep_open(header: Header) -> bool:
    """Return whether rows are contiguous in the file, and of a dtype that `preadv` can fill."""
    in_order = header.shape and (not header.fortran_order or len(header.shape) == 1)
    return bool(in_order) and header.dtype.kind in "biufc" and hasattr(os, "preadv")
