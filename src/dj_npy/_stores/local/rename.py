"""Rename a finished file, local or on a file server, to a name that is not taken."""

import ctypes
import errno
import os
from collections.abc import Callable
from contextlib import suppress
from stat import S_IMODE
from typing import Any


def libc_function(name: str) -> Any:
    """Return a function of the C library, or None."""
    try:
        return getattr(ctypes.CDLL(None, use_errno=True), name)
    except (AttributeError, OSError, TypeError):  # not Linux, or an old one
        return None


_renameat2, _statfs = libc_function("renameat2"), libc_function("statfs")
_RENAME_NOREPLACE, _AT_FDCWD = 1, -100  # linux/fs.h, fcntl.h
_LOCAL_FILE_SYSTEMS = {
    *(0xEF53, 0x58465342, 0x9123683E, 0xF2F52010),  # ext2 to 4, XFS, Btrfs, F2FS
    *(0x2FC12FC1, 0xCA451A4E, 0x01021994, 0x794C7630),  # ZFS, bcachefs, tmpfs, overlayfs
    *(0x4D44, 0x2011BAB0, 0x7366746E),  # FAT, exFAT, NTFS
}
"""
`f_type` of file systems whose names only this machine's kernel assigns.

Elsewhere, a free name may be only the client's view: SMB's rename lets the server replace a file in
spite of RENAME_NOREPLACE.
"""

UNKNOWN = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""Errors with which a file system answers to operations that it does not support."""
# FAT, some FUSE and network file systems: no hard links, or not here.
_NO_LINKS = {*UNKNOWN, errno.EPERM, errno.EMLINK, errno.EXDEV}
_NO_RENAME = {*UNKNOWN, errno.EPERM}  # EPERM: in a container
_NO_FOLDER_SYNC = {*UNKNOWN, errno.EBADF, errno.EACCES, errno.EPERM}
"""
SMB, DrvFs, some FUSE; EACCES: write permission for a folder does not imply read permission.

A full or failing disk (ENOSPC, EDQUOT, EIO) is not among these.
"""


_Method = Callable[[str, str], None]
"""Renames the file at the first path to the second; raises FileExistsError if that exists."""


class Names:
    """Gives files their names, and remembers what file systems do not support."""

    def __init__(self) -> None:
        self._renames: dict[int, bool] = {}  # device: supports RENAME_NOREPLACE

    def give(self, temporary: str, final: str, own: os.stat_result) -> bool:
        """
        Give a file its final name, unless that is taken.

        An error proves nothing: a file server may have renamed the file and its first answer been
        lost.
        """
        methods: list[tuple[_Method, set[int]]] = [(os.link, _NO_LINKS), (_reserve, set())]
        if self._knows_rename(temporary, own.st_dev):
            methods.insert(0, (_rename, _NO_RENAME))
        for method, unknown in methods:
            try:
                method(temporary, final)
            except OSError as error:
                if not has_moved(temporary, final, own):
                    if isinstance(error, FileExistsError):
                        return False
                    if error.errno not in unknown:
                        raise
                    if method is _rename and error.errno in UNKNOWN:
                        self._renames[own.st_dev] = False
                    continue
            if method is os.link:
                remove_if_there(temporary)
            return True
        raise AssertionError("not reached")

    def _knows_rename(self, path: str, device: int) -> bool:
        if device not in self._renames:
            known = None not in (_renameat2, _statfs) and _type_of(path) in _LOCAL_FILE_SYSTEMS
            self._renames[device] = known
        return self._renames[device]


def _rename(temporary: str, final: str) -> None:
    """Rename a file, unless the name is taken."""
    old, new = os.fsencode(temporary), os.fsencode(final)
    if _renameat2(_AT_FDCWD, old, _AT_FDCWD, new, _RENAME_NOREPLACE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _reserve(temporary: str, final: str) -> None:
    """Create an empty file, then rename over it: no row refers to it yet."""
    os.close(os.open(final, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        os.replace(temporary, final)
    except BaseException:
        with suppress(OSError):
            if not os.lstat(final).st_size:  # the rename did not happen
                os.unlink(final)
        raise


def has_moved(temporary: str, final: str, own: os.stat_result) -> bool:
    """Whether a file has its final name, in addition to or instead of its temporary one."""
    try:
        found = os.lstat(final)
    except OSError:
        return False
    # File systems without inode numbers, or with equal ones, have no links either.
    if not found.st_ino or not os.path.samestat(found, own) or found.st_size != own.st_size:
        return False
    if os.path.lexists(temporary):
        return found.st_nlink == 2
    return found.st_mtime_ns == own.st_mtime_ns  # inode numbers are reused


def replace_file(new: str, old: str) -> None:
    """Replace a file by another, keeping its mode, group and, if allowed, owner."""
    with suppress(AttributeError, OSError):
        before = os.stat(old)
        for owner in ((-1, before.st_gid), (before.st_uid, -1)):
            with suppress(OSError):
                os.chown(new, *owner)
        os.chmod(new, S_IMODE(before.st_mode))
    own = os.stat(new)
    try:
        os.replace(new, old)
    except OSError:
        if not has_moved(new, old, own):
            raise


def _type_of(path: str) -> int:
    """Return the `f_type` of a path's file system."""
    answer = (ctypes.c_long * 64)()  # twice the size of `struct statfs`, whose first field it is
    failed = _statfs(os.fsencode(path), answer)
    return 0 if failed else answer[0] & 0xFFFFFFFF


def remove_if_there(path: str) -> None:
    """Remove a file, if it exists."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def sync_folder(path: str) -> None:
    """Sync the names in a folder, where a folder can be synced."""
    if os.name == "nt":  # Windows cannot open a folder; NTFS journals names by itself
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
