"""Local files that stay open, because parts of them are asked for again and again."""

import os
from collections import deque
from io import FileIO

import numpy as np

from dj_npy._fileformat import AnyArray, Header

_MOST_FILES = 64
_MOST_BYTES = 1 << 20
"""Above this, a slice takes so long that opening its file does not count."""


class KeptOpen:
    """
    A file of rows that can be read without a look at the store: 6 us a slice instead of 40.

    Nothing holds it but :data:`_recent`, so few files are open at a time.

    Parameters
    ----------
    file : FileIO
        Open for reading; closed when this is let go.
    header : Header
        The file's; see :func:`suits`.
    """

    __slots__ = ("__weakref__", "_dtype", "_file", "_length", "_most", "_offset", "_row", "_size")

    def __init__(self, file: FileIO, header: Header) -> None:
        self._file = file
        self._dtype, (self._length, *self._row) = header.dtype, header.shape
        self._offset, self._size = header.offset, header.file_size
        self._most = min(_MOST_BYTES, (header.file_size - header.offset) // 4)
        _recent.append(self)

    def rows(self, index: slice) -> AnyArray | None:
        """Return consecutive rows; None if that is not what is asked for, or not to be had."""
        start, stop, step = index.indices(self._length)
        if step != 1 or stop <= start:
            return None
        rows: AnyArray = np.empty((stop - start, *self._row), self._dtype)
        nbytes = rows.nbytes
        if nbytes > self._most:
            return None
        descriptor = self._file.fileno()
        stat = os.fstat(descriptor)
        # Without a name, another file may have taken its place.
        if stat.st_size != self._size or not stat.st_nlink:
            return None
        position = self._offset + start * (nbytes // (stop - start))
        return rows if os.preadv(descriptor, (rows.data,), position) == nbytes else None

    def __del__(self) -> None:
        self._file.close()


_recent: deque[KeptOpen] = deque(maxlen=_MOST_FILES)


def suits(header: Header) -> bool:
    """Whether rows are consecutive bytes, and of a type that the system's calls fill."""
    in_order = header.shape and (not header.fortran_order or len(header.shape) == 1)
    return bool(in_order) and header.dtype.kind in "biufc" and hasattr(os, "preadv")
