"""Read and write local files."""

import os
from collections.abc import Iterable
from ctypes import c_int64
from io import FileIO

import numpy as np

from dj_npy._selection.parts import Part
from dj_npy._settings import settings
from dj_npy._stores.local.rename import UNKNOWN, libc_function
from dj_npy._stores.regularfile import open_to_read

_WRITE_BACK = 16 << 20
"""Bytes after which write-back starts: 256 MB are synced in two thirds of the time."""
_SYNC_FILE_RANGE_WRITE = 2  # linux/fs.h
_sync_file_range = libc_function("sync_file_range")
_NO_FILE_SYNC = (
    "This file system cannot sync a file. With DJ_NPY_FSYNC=0 inserts do not wait for the disk, "
    "and what a power cut leaves of them is up to it"
)


def write(file: FileIO, pieces: Iterable[memoryview]) -> None:
    """Write pieces to a file, and sync it if `settings.fsync`."""
    started = written = 0
    for piece in pieces:
        while piece:
            nbytes = file.write(piece)
            piece = piece[nbytes:]
            written += nbytes
        if settings.fsync and written - started >= _WRITE_BACK:
            _start_write_back(file.fileno(), started, written - started)
            started = written
    if settings.fsync:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in UNKNOWN:
                raise
            raise OSError(error.errno, f"{error.strerror}. {_NO_FILE_SYNC}") from error


def _start_write_back(descriptor: int, offset: int, nbytes: int) -> None:
    """Start write-back of what is written while more is being written (Linux)."""
    if _sync_file_range is not None:
        # Errors are ignored: fsync will report them.
        _sync_file_range(descriptor, c_int64(offset), c_int64(nbytes), _SYNC_FILE_RANGE_WRITE)


class Scratch:
    """A reusable buffer for data that are copied out after each read."""

    def __init__(self) -> None:
        self._memory = memoryview(b"")

    def of(self, nbytes: int) -> memoryview:
        if len(self._memory) < nbytes:
            self._memory = memoryview(np.empty(nbytes, np.uint8))  # type: ignore[arg-type]
        return self._memory[:nbytes]


def read_part(file: FileIO, part: Part, scratch: Scratch) -> bool:
    """Read a part, and return whether the file is long enough."""
    if part.take is None:
        position = part.start
        for target in part.targets:
            if not _read_at(file, position, target):
                return False  # it was truncated meanwhile
            position += len(target)
        return True
    data, done = scratch.of(part.nbytes), 0
    for start, nbytes in part.runs or ((part.start, part.nbytes),):
        if not _read_at(file, start, data[done : done + nbytes]):
            return False
        done += nbytes
    part.take(data)
    return True


def _read_at(file: FileIO, position: int, target: memoryview) -> bool:
    """Fill `target` from `position`, and return whether the file is long enough."""
    if not hasattr(os, "preadv"):  # Windows, macOS before 11
        with open_to_read(os.fspath(file.name)) as own:
            own.seek(position)
            while target and (count := own.readinto(target)):
                target = target[count:]
        return not target
    while target:  # Linux reads at most 2 GiB at a time
        nbytes = os.preadv(file.fileno(), (target,), position)
        if not nbytes:
            return False
        target, position = target[nbytes:], position + nbytes
    return True
