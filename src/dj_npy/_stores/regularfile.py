"""Open regular files, and refuse anything else in their place."""

import errno
import os
import stat
import time
from io import FileIO

NONBLOCK = getattr(os, "O_NONBLOCK", 0)
_LEASE_S, _LOOK_S = 100, 0.01
"""Seconds that others (Samba, an NFS server) may take to break a lease, and between two tries."""


def open_regular(path: str, flags: int, mode: int = 0o666) -> int:
    """
    Open a regular file; an `opener` for `FileIO`.

    For a FIFO (which would block until its other end opens), a device, a socket or a folder, raises
    OSError at once, which says what is there.
    """
    descriptor = _open_when_free(path, flags | NONBLOCK, mode)
    try:
        _refuse_other_than_file(os.fstat(descriptor))
        if NONBLOCK:  # with it, a file on tape would be refused, not waited for
            os.set_blocking(descriptor, True)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_to_read(path: str) -> FileIO:
    """Open a file for reading, without a buffer; see `open_regular`."""
    return FileIO(path, "r", opener=open_regular)


def _open_when_free(path: str, flags: int, mode: int) -> int:
    until = time.monotonic() + _LEASE_S
    while True:
        try:
            return os.open(path, flags, mode)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ENXIO):
                raise
            _refuse_other_than_file(os.stat(path))
            if error.errno == errno.ENXIO or time.monotonic() > until:
                raise
            time.sleep(_LOOK_S)


def _refuse_other_than_file(status: os.stat_result) -> None:
    mode = status.st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFIFO: "a FIFO (named pipe)", stat.S_IFSOCK: "a socket"}
        what = kinds.get(stat.S_IFMT(mode), "a device")
        raise OSError(errno.ENXIO, f"what is there is not a file, but {what}")
