"""Private copies of remote files on this machine's disk, for memory maps."""

import hashlib
import logging
import os
import re
import secrets
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from fasteners import InterProcessLock

from dj_npy._errors import NpyError, StoreError
from dj_npy._settings import settings
from dj_npy._stores.regularfile import open_regular, open_to_read

logger = logging.getLogger("dj_npy")

_PARTIAL = ".part"
_ABANDONED_S = 3600.0
"""Age in seconds after which a download that does not grow is abandoned."""
_LOCKS = 64
_OURS = re.compile(rf"[0-9a-f]{{64}}({re.escape(_PARTIAL)})?")
"""Names of copies and downloads: no other file is ever removed."""

_thread_locks = [threading.Lock() for _ in range(_LOCKS)]


def _forget_locks() -> None:
    """In a forked child: replace the locks, which no thread of it holds."""
    _thread_locks[:] = [threading.Lock() for _ in range(_LOCKS)]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)


class QuietFile(FileIO):
    """A file that is closed without a warning when it is garbage collected."""

    def __del__(self) -> None:
        self.close()


def open_copy(
    key: tuple[str, ...], nbytes: int, download: Callable[[FileIO], None], label: str
) -> FileIO:
    """
    Open the local copy of a remote file; download it if needed.

    It is downloaded once for all threads and processes, and appears whole or not at all. Beyond
    ``settings.cache_bytes``, the copies opened longest ago are removed; a map of a removed copy
    stays valid (on Windows, a mapped copy is not removed).

    Parameters
    ----------
    key : tuple of str
        Identifies the remote file and the version of its contents.
    nbytes : int
        Size of the file.
    download : callable
        Writes the file's bytes to an open file.
    label : str
        What an error calls the file.

    Raises
    ------
    StoreError
        If the cache folder cannot be used, or others may enter it.
    """
    name = _name(key)
    with _translate_errors(label, nbytes):
        folder = _private_folder("maps")
        copy = folder / name
        with _locked(folder, name):
            return _open_complete(copy, nbytes) or _download(copy, nbytes, download, label)


def find_copy(key: tuple[str, ...], nbytes: int) -> FileIO | None:
    """Open a copy that :func:`open_copy` has made of so many bytes; None if there is none."""
    name = _name(key)
    with _translate_errors(f"the copy {name[:8]}", nbytes):
        return _open_complete(_private_folder("maps") / name, nbytes)


def working_copy(key: tuple[str, ...], original: FileIO, label: str) -> FileIO:
    """
    Open a writable copy of a file; only the caller removes it.

    `key` identifies the remote file; otherwise as :func:`open_copy`.
    """
    name = _name(key)
    with _translate_errors(label, os.fstat(original.fileno()).st_size):
        folder = _private_folder("changed")
        others = sorted(map(str, folder.glob(f"{name[:32]}-*.npy")))
        if others:
            logger.warning(
                "There are other working copies of %s: %s. Their names end in the number of the "
                "process; if it has ended, what it changed was never written back.",
                label,
                ", ".join(others),
            )
        path = folder / f"{name[:32]}-{secrets.token_hex(4)}-{os.getpid()}.npy"
        file = FileIO(os.fspath(path), "x+", opener=_open_private)
        try:
            shutil.copyfileobj(original, file, 1 << 20)
        except BaseException:
            file.close()
            with suppress(OSError):
                path.unlink()
            raise
        return file


def _name(key: tuple[str, ...]) -> str:
    return hashlib.sha256("\0".join(key).encode("utf-8", "surrogatepass")).hexdigest()


@contextmanager
def _translate_errors(label: str, nbytes: int) -> Iterator[None]:
    try:
        yield
    except NpyError:
        raise
    except OSError as error:
        raise StoreError(
            f"could not map {label}: its copy cannot be kept in {str(settings.cache_dir)!r} "
            f"({error.strerror or error}). Set DJ_NPY_CACHE_DIR to a folder of yours, or one for "
            f"all users (chmod 1777), with {nbytes / 1e6:.0f} MB to spare, or load the array "
            f"instead of mapping it"
        ) from error


def write_at(file: FileIO, offset: int, data: memoryview) -> None:
    """Write at an offset of a file, safe with other threads at the same file."""
    if not hasattr(os, "pwrite"):  # Windows
        with FileIO(os.fspath(file.name), "r+") as own:
            own.seek(offset)
            while data:
                data = data[own.write(data) :]
        return
    while data:
        count = os.pwrite(file.fileno(), data, offset)
        data, offset = data[count:], offset + count


def _private_folder(name: str) -> Path:
    """Create a folder in the cache, which users may share, that is private to this user."""
    cache = Path(settings.cache_dir).absolute()
    cache.mkdir(parents=True, exist_ok=True)
    if os.name == "nt":  # the cache is below the user's own folder
        (cache / name).mkdir(exist_ok=True)
        return cache / name
    own = cache / f"user-{os.geteuid()}"
    for folder in (own, own / name):
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        _refuse_unless_private(folder)
    return own / name


def _refuse_unless_private(folder: Path) -> None:
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise StoreError(
            f"refused the cache folder {str(folder)!r}: it must be a folder of this user that "
            f"nobody else may enter (chmod 700), and no link. Set DJ_NPY_CACHE_DIR to another"
        )


@contextmanager
def _locked(folder: Path, name: str) -> Iterator[None]:
    """Hold one of a fixed set of locks, which are never removed; unrelated copies may share one."""
    number = int(name[:8], 16) % _LOCKS
    # A file lock excludes only other processes, and ends when any thread of this one closes the
    # file.
    with _thread_locks[number]:
        lock = folder / f"lock-{number:02}"
        os.close(_open_private(str(lock), os.O_RDWR | os.O_CREAT))  # which would follow a link
        with InterProcessLock(lock):
            yield


def _open_private(path: str, flags: int) -> int:
    return open_regular(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)


def _download(copy: Path, nbytes: int, download: Callable[[FileIO], None], label: str) -> FileIO:
    _make_room(copy.parent, nbytes)
    partial = copy.with_suffix(_PARTIAL)
    with suppress(FileNotFoundError):  # left by a process that was killed
        partial.unlink()
    file = FileIO(partial, "x+", opener=_open_private)
    try:
        download(file)
        if os.fstat(file.fileno()).st_size != nbytes:
            raise StoreError(f"could not map {label}: expected a copy of {nbytes} bytes")
        os.fsync(file.fileno())
        if os.name == "nt":  # Windows cannot rename an open file
            file.close()
        os.replace(partial, copy)
    except BaseException:
        file.close()
        with suppress(OSError):
            partial.unlink()
        raise
    if file.closed:
        return open_to_read(os.fspath(copy))
    file.name = os.fspath(copy)  # joblib's workers open a map by this name
    file.seek(0)
    return file


def _open_complete(copy: Path, nbytes: int) -> FileIO | None:
    try:
        file = FileIO(os.fspath(copy), "r", opener=_open_private)
    except FileNotFoundError:
        return None
    status = os.fstat(file.fileno())
    # Another folder may have been put in the place of ours since it was checked.
    private = os.name == "nt" or (status.st_uid == os.geteuid() and not status.st_mode & 0o077)
    if private and status.st_size == nbytes:
        with suppress(OSError):  # another process just removed it to make room
            os.utime(file.fileno() if os.utime in os.supports_fd else copy)
        return file
    file.close()
    return None


def _make_room(folder: Path, nbytes: int) -> None:
    """Remove the least recently opened copies until `nbytes` more fit the limit."""
    copies = []
    for entry in os.scandir(folder):
        if not _OURS.fullmatch(entry.name):
            continue
        with suppress(OSError):  # another process removed it, or Windows maps it
            status = entry.stat(follow_symlinks=False)
            if not entry.name.endswith(_PARTIAL):
                copies.append((status.st_mtime, status.st_size, entry.path))
            elif time.time() - status.st_mtime > _ABANDONED_S:
                os.unlink(entry.path)
    excess = sum(size for _, size, _ in copies) + nbytes - settings.cache_bytes
    for _, size, path in sorted(copies):
        if excess <= 0:
            break
        with suppress(OSError):
            os.unlink(path)
            excess -= size
