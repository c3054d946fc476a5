"""Files in a local folder, or one of a mounted file server."""

import errno
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from io import FileIO
from itertools import chain, count, islice
from stat import S_ISDIR, S_ISLNK, S_ISREG
from typing import Any

from dj_npy._concurrency.threads import all_in_threads
from dj_npy._errors import ArrayMissingError, NpyError, StoreError
from dj_npy._format.aliases import TEMPORARY_SUFFIX
from dj_npy._selection.parts import Limits, Part
from dj_npy._settings import settings
from dj_npy._stores.base import MARKER, Buffer, Store
from dj_npy._stores.listed import UNTIMED, Listed, Stat
from dj_npy._stores.local.file import Scratch, read_part, write
from dj_npy._stores.local.owners import describe_owner
from dj_npy._stores.local.rename import (
    Names,
    has_moved,
    remove_if_there,
    replace_file,
    sync_folder,
)
from dj_npy._stores.regularfile import NONBLOCK, open_regular, open_to_read

_CHANGED = "user.dj_npy.changed"
"""Extended attribute of a file that was opened for writing."""
_ATTEMPTS = 100
"""Tries to create a file and its folder, while collections keep removing the folder."""
_CLOCK_S = 0.005
_READ_PIECE = 1 << 20
_MAX_DURABLE = 10_000
_SIDE_BY_SIDE = 32 << 20
"""Size in bytes from which several threads read: one copies 256 MB a quarter slower."""
_READERS = 4
_FAR_S = 0.0005
"""To open a file takes longer than this on a file server, and a fifth of it on a disk."""
_WORKERS = 64
_FEW, _FEW_FAR, _MANY = 8, 4, 64
"""Files that one thread reads together: until it is known where they are, on a server, a disk."""
_READ = os.O_RDONLY | NONBLOCK | getattr(os, "O_CLOEXEC", 0)
_PART = 8 << 20
_LIMITS = Limits(gap=16 << 10, part=1 << 20, runs=1024)
_NO_FILE = {errno.ENOENT, errno.ENOTDIR}
_GONE = {*_NO_FILE, errno.ESTALE}
"""ESTALE: another machine has removed it from a file server."""
_DENIED = {errno.EACCES, errno.EPERM}


class LocalStore(Store):
    """
    A store whose `location` is a folder.

    Parameters
    ----------
    name : str
        Name of the store in the DataJoint configuration.
    location : str
        The folder. It must exist: a missing one is more likely a file server that is not mounted
        than a place to put data.
    """

    is_local = True
    single_read_max = 4 << 20

    def __init__(self, name: str, location: str) -> None:
        super().__init__(name)
        self.location = os.path.abspath(location)
        self._durable: set[str] = set()  # folders whose names have been synced
        self._durable_since = 0  # mtime of the location
        self._names = Names()

    @property
    def is_far(self) -> bool:  # type: ignore[override]
        """As in `Store`: it is on a file server."""
        return self.pace.delay_s > _FAR_S

    @property
    def workers(self) -> int:  # type: ignore[override]
        """As in `Store`."""
        return _WORKERS if self.is_far else Store.workers

    @property
    def together(self) -> int:  # type: ignore[override]
        """As in `Store`; a few until it is known how far it is."""
        if not self.pace.is_known:
            return _FEW
        return _FEW_FAR if self.is_far else _MANY

    def _create(
        self,
        paths: Iterator[str],
        pieces: Iterator[memoryview],
        nbytes: int,  # noqa: ARG002
    ) -> str:
        path = next(paths)
        folder = os.path.dirname(self._full(path))
        own, named = None, False
        try:
            file = self._new_file(folder)
            try:
                with file:
                    write(file, pieces)
                    own = os.fstat(file.fileno())
                while not self._names.give(file.name, self._full(path), own):
                    path = next(paths)
                named = True
                if settings.fsync:
                    self._sync_names(folder)
            except BaseException:
                names = [file.name]
                # Ctrl-C may have come after the rename and before `named` was set.
                if named or (own and has_moved(file.name, self._full(path), own)):
                    names.append(self._full(path))
                for name in names:
                    with suppress(OSError):  # the first error is the one to raise
                        os.unlink(name)
                raise
        except NpyError:  # from the store that the pieces come from
            raise
        except OSError as error:
            raise self.translate_error(error, path, "write") from error
        return path

    def _new_file(self, folder: str) -> Any:
        """Create a file with a random name, and its folder if needed."""
        for attempt in count(1):
            name = _temporary_in(folder)
            try:
                self._make_folder(folder)
                asked = time.monotonic()
                try:
                    return open(name, "xb", buffering=0)
                finally:
                    self.pace.answered(time.monotonic() - asked)
            except FileExistsError:  # the name is unique: the answer was lost
                with suppress(OSError):
                    os.unlink(name)
                if attempt == _ATTEMPTS:
                    raise
            except OSError as error:  # a collection removed the empty folder
                if error.errno not in (errno.ENOENT, errno.ESTALE) or attempt == _ATTEMPTS:
                    raise
        raise AssertionError("not reached")

    def _make_folder(self, folder: str) -> None:
        if folder == self.location and not os.path.isdir(folder):
            raise FileNotFoundError(errno.ENOENT, "no such folder", folder)
        try:
            os.mkdir(folder)
        except FileExistsError:
            return  # or it is a file: opening a file in it will fail
        except FileNotFoundError:
            self._make_folder(os.path.dirname(folder))
            with suppress(FileExistsError):  # another process was faster
                os.mkdir(folder)
        except OSError:  # on read-only file systems, some give another error
            if os.path.isdir(folder):
                return
            raise
        self._durable.discard(folder)  # it is new: it was removed before

    def _sync_names(self, folder: str) -> None:
        """
        Sync the file's name, and those of the folders that lead to it.

        A folder's name is synced once per process, whoever created the folder: another process may
        have died before it did that. A collection that removes folders, some of which are then
        created anew, changes the location's mtime. It cannot remove these folders any more, as they
        contain a file.
        """
        changed = os.stat(self.location).st_mtime_ns
        if changed != self._durable_since:
            self._durable.clear()
            self._durable_since = changed
        sync_folder(folder)
        while folder != self.location and folder not in self._durable:
            parent = os.path.dirname(folder)
            sync_folder(parent)
            if len(self._durable) >= _MAX_DURABLE:
                self._durable.clear()
            self._durable.add(folder)
            folder = parent

    @property
    def limits(self) -> Limits:
        return _LIMITS

    def _part_of(self, path: str, nbytes: int) -> int:  # noqa: ARG002
        return nbytes if nbytes < _SIDE_BY_SIDE else _PART

    def _read_parts(self, path: str, parts: Iterable[Part]) -> Stat | None:
        waiting = iter(parts)
        few = list(islice(waiting, _READERS))
        many = len(few) == _READERS and all(part.nbytes >= _PART for part in few)
        # Parts that are read one after the other can share a buffer.
        scratch = None if many else Scratch()
        with _Translated(self, path, "read"), open_to_read(self._full(path)) as file:
            stat = os.fstat(file.fileno())

            def read(part: Part) -> bool:
                start, nbytes = part.runs[-1] if part.runs else part[:2]
                if start + nbytes > stat.st_size:
                    return False
                return read_part(file, part, scratch or Scratch())

            every = chain(few, waiting)
            whole = all_in_threads(read, every, _READERS) if many else all(map(read, every))
            return _stat_of(stat) if whole else None

    def _read_files(self, files: Iterable[tuple[str, Sequence[Buffer], int]]) -> list[bool]:
        if not hasattr(os, "preadv"):
            return super()._read_files(files)
        read, location, one_more = [], self.location, bytearray(1)
        clock = time.monotonic
        for path, buffers, nbytes in files:
            try:
                asked = clock()
                descriptor = os.open(f"{location}/{path}", _READ)
                self.pace.answered(clock() - asked)
                try:
                    # One byte more is requested: if it does not come, that is the size, without a
                    # stat.
                    read.append(os.preadv(descriptor, (*buffers, one_more), 0) == nbytes)
                finally:
                    os.close(descriptor)
            except OSError:
                read.append(False)
        return read

    def _read_beginning(self, path: str, length: int) -> tuple[bytes, Stat]:
        with _Translated(self, path, "read"), open_to_read(self._full(path)) as file:
            return file.read(length) or b"", _stat_of(os.fstat(file.fileno()))

    def _pieces(self, path: str) -> Iterator[memoryview]:
        with _Translated(self, path, "read"), open_to_read(self._full(path)) as file:
            while piece := file.read(_READ_PIECE):
                yield memoryview(piece)

    def _remove(self, path: str) -> None:
        with _Translated(self, path, "remove"):
            remove_if_there(self._full(path))

    def _stat(self, path: str) -> Stat:
        with _Translated(self, path, "read"):
            return _stat_of(os.stat(self._full(path)))

    def _files(self, folder: str) -> Iterator[Listed]:
        for entry in self._entries(folder):
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from self._files(path)
                continue
            try:
                stat = entry.stat(follow_symlinks=False)
            except OSError as error:
                if error.errno in _GONE:  # removed meanwhile
                    continue
                raise self.translate_error(error, path, "list") from error
            if S_ISREG(stat.st_mode) or S_ISLNK(stat.st_mode):
                yield self._listed_as(path, stat)

    def _entries(self, folder: str) -> Iterator[os.DirEntry[str]]:
        """Yield the entries of a folder, one at a time; a missing folder is empty."""
        try:
            with os.scandir(self._full(folder) if folder else self.location) as scanned:
                yield from scanned
        except OSError as error:
            if error.errno not in _GONE or not os.path.isdir(self.location):
                raise self.translate_error(error, folder, "list") from error

    def _listed(self, path: str) -> Listed:
        with _Translated(self, path, "read"):
            return self._listed_as(path, os.lstat(self._full(path)))

    def _listed_as(self, path: str, stat: os.stat_result) -> Listed:
        version = _stat_of(stat).version
        leads_to = version if stat.st_nlink == 1 else ""
        if S_ISLNK(stat.st_mode):
            with suppress(OSError):  # a broken link
                leads_to = _stat_of(os.stat(self._full(path))).version
        return Listed(path, stat.st_size, _time_of(stat), version, leads_to)

    def _now(self) -> datetime:
        with _Translated(self, "", "write"):
            before = os.stat(self.location).st_mtime_ns
            while True:
                name = _temporary_in(self.location)
                with open(name, "wb") as file:
                    now = _time_of(os.fstat(file.fileno()))
                remove_if_there(name)
                # `_sync_names` relies on it: the location's mtime has now changed, within the
                # clock's resolution.
                if os.stat(self.location).st_mtime_ns != before:
                    return now
                time.sleep(_CLOCK_S)

    def place(self) -> object:
        try:
            folder = os.stat(self.location)
        except OSError:
            return None
        try:
            # The roots of two disks that are mounted one after the other have equal numbers.
            marked = os.stat(self._full(MARKER)).st_mtime_ns
        except OSError:
            marked = None
        return folder.st_dev, folder.st_ino, marked

    def is_empty(self) -> bool:
        return next(self._entries(""), None) is None

    def _mark(self, contents: bytes, replace: bool) -> bool:
        name = f"{MARKER}-{secrets.token_hex(8)}" if replace else MARKER
        try:
            path = self._create(iter((name,)), iter((memoryview(contents),)), len(contents))
        except StopIteration:  # the name is taken
            return False
        if replace:
            try:
                replace_file(self._full(path), self._full(MARKER))
                sync_folder(self.location)
            except OSError as error:
                with suppress(OSError):
                    os.unlink(self._full(path))
                raise self.translate_error(error, MARKER, "write") from error
        return True

    def _prune(self, folder: str, is_removable: Callable[[str], bool]) -> None:
        self._now()  # changes the mtime: see `_sync_names`
        self._prune_below(folder, is_removable)

    def _prune_below(self, folder: str, is_removable: Callable[[str], bool]) -> None:
        for entry in self._entries(folder):
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                self._prune_below(path, is_removable)
                if is_removable(path):
                    with suppress(OSError):  # not empty, or no permission
                        os.rmdir(self._full(path))

    def _open_to_map(self, path: str) -> FileIO:
        with _Translated(self, path, "map"):
            return open_to_read(self._full(path))

    def _open_to_change(self, path: str) -> tuple[FileIO, None]:
        with _Translated(self, path, "map"):
            file = FileIO(self._full(path), "r+", opener=_open_no_follow)
        # Without extended attributes, `verify` cannot tell a change from damage.
        with suppress(AttributeError, OSError):
            os.setxattr(file.fileno(), _CHANGED, b"mmap_mode='r+'")
        return file, None

    def _changed(self, path: str) -> str | None:
        with suppress(AttributeError, OSError):
            os.getxattr(self._full(path), _CHANGED)
            return ""
        return None

    def _full(self, path: str) -> str:
        return f"{self.location}/{path}"

    def translate_error(self, error: Exception, path: str, verb: str) -> NpyError:
        what = f"could not {verb} {self.where(path)} (folder {self.location!r})"
        try:
            is_there = S_ISDIR(os.stat(self.location).st_mode)
        except OSError as lost:
            is_there, error = lost.errno not in _NO_FILE, lost
        if not is_there:
            return StoreError(
                f"{what}: that folder does not exist. Is the file server mounted? "
                f"Otherwise create it, or correct `location` in the store's configuration"
            )
        code = getattr(error, "errno", None) or 0
        if verb in ("read", "map") and code in _NO_FILE:
            return ArrayMissingError(
                f"{what}: there is no such file. The row refers to it: restore it from a copy, "
                f"or delete the row"
            )
        advice = {
            errno.ENOSPC: "the disk is full; nothing was stored. Free some space and try again",
            errno.EDQUOT: "the quota is used up; nothing was stored. Free some space and try again",
            errno.EROFS: "the file system is read-only",
            errno.ELOOP: "there is a symbolic link, which is not followed in order to change "
            "a file, nor in a circle",
        }
        # not `str`, which would name the temporary file
        reason = advice.get(code) or getattr(error, "strerror", None) or type(error).__name__
        if code in _DENIED:
            denied_path = self._full(path)
            if verb in ("write", "remove"):  # the folder's permissions decide, not the file's
                denied_path = os.path.dirname(denied_path)
            reason = f"permission denied for this user{describe_owner(denied_path)}"
        translated = StoreError(f"{what}: {reason}")
        translated.errno = code or None
        return translated


class _Translated:
    """Translates errors of the disk. A class: a generator would cost 1 us, a tenth of a read."""

    __slots__ = ("_path", "_store", "_verb")

    def __init__(self, store: LocalStore, path: str, verb: str) -> None:
        self._store, self._path, self._verb = store, path, verb

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        # Not one of ours, of a store that the bytes go to or come from.
        if isinstance(error, OSError) and not isinstance(error, NpyError):
            raise self._store.translate_error(error, self._path, self._verb) from error


def _temporary_in(folder: str) -> str:
    return f"{folder}/.{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"


def _open_no_follow(path: str, flags: int) -> int:
    """Open a file, and refuse a symbolic link in its place."""
    return open_regular(path, flags | getattr(os, "O_NOFOLLOW", 0))


def _stat_of(stat: os.stat_result) -> Stat:
    return Stat(stat.st_size, f"{stat.st_ino}-{stat.st_mtime_ns}")


def _time_of(stat: os.stat_result) -> datetime:
    try:
        return datetime.fromtimestamp(stat.st_mtime, UTC) if stat.st_mtime >= 0 else UNTIMED
    except (ValueError, OverflowError, OSError):
        return UNTIMED
