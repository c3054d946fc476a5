"""Opening files, and nothing else that may have been put in the place of one."""

import errno
import os
import stat
import time
from io import FileIO

NONBLOCK = getattr(os, "O_NONBLOCK", 0)
_LEASE_S, _LOOK_S = 100, 0.01
"""How long others (Samba, a server of NFS) may take to hand a file back, and how often to ask."""


def open_regular(path: str, flags: int, mode: int = 0o666) -> int:
    """
    Open a file; an `opener` for `FileIO`.

    Raises OSError at once, naming what is there, for a FIFO (which would wait for its other
    end), a device, a socket or a folder.
    """
    descriptor = _opened(path, flags | NONBLOCK, mode)
    try:
        _refuse_other_than_file(os.fstat(descriptor))
        if NONBLOCK:  # with it, what is on tape would be refused instead of waited for
            os.set_blocking(descriptor, True)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_to_read(path: str) -> FileIO:
    """Open a file for reading, without a buffer; see `open_regular`."""
    return FileIO(path, "r", opener=open_regular)


def _opened(path: str, flags: int, mode: int) -> int:
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
