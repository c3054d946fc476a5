"""Memory maps of remote files whose changes are written back."""

import logging
import os
import tempfile
import threading
import weakref
from contextlib import suppress
from io import FileIO
from queue import SimpleQueue
from typing import Any

import numpy as np
import xxhash

from dj_npy._errors import StoreError
from dj_npy._format.npyfile import CHECKSUM, AnyArray, Header
from dj_npy._stores import Replace
from dj_npy._stores.filecache import QuietFile, write_at

logger = logging.getLogger("dj_npy")

_MAX_ATTEMPTS = 3


class WorkingCopy:
    """
    A private copy of a remote file to change and write back.

    Parameters
    ----------
    file : FileIO
        The copy, which only :meth:`finish` removes.
    replace : callable
        Replaces the file in the store.
    what : str
        Name of the file in messages.
    """

    def __init__(self, file: FileIO, replace: Replace, what: str) -> None:
        self.path: str = os.fspath(file.name)
        # A second descriptor: the path may vanish if somebody clears the cache.
        self._file = QuietFile(os.dup(file.fileno()), "r+")
        self._replace, self._what = replace, what
        self._process = os.getpid()
        self._write_lock = threading.Lock()
        self._stored: str | None = _checksum(self._contents())
        # The map may be garbage-collected anywhere: within a call of obstore, which is not
        # reentrant, or while locks are held that starting or joining a thread would need. So the
        # thread is started in advance.
        self._finish_requested: SimpleQueue[bool] = SimpleQueue()
        self._done = threading.Lock()
        self._done.acquire()
        self._failure: BaseException | None = None
        threading.Thread(target=self._finish_thread, daemon=True).start()

    def write_back(self) -> None:
        """
        Write changes back to the store.

        Raises
        ------
        StoreError
            If the file was changed there meanwhile, or cannot be written. The copy is kept.
        """
        if os.getpid() != self._process:  # else obstore hangs, also in the parent
            raise StoreError(
                f"{self._what} was mapped before this process was forked: flush() it in process "
                f"{self._process}, which sees the changes made here"
            )
        try:
            self._write_back()
        except StoreError as error:
            raise StoreError(f"{error}. The changed array is in {self._saved_copy()!r}") from None

    def _write_back(self) -> None:
        with self._write_lock:
            for _ in range(_MAX_ATTEMPTS):
                contents = self._contents()
                checksum = _checksum(contents)
                if checksum == self._stored:
                    return
                self._stored = None
                self._replace([memoryview(contents)], checksum)  # type: ignore[arg-type]
                # Otherwise another thread changed it while it was written: write again.
                if _checksum(contents) == checksum:
                    self._stored = checksum

    def finish(self) -> None:
        """Write back and remove the copy, or log its path on failure; the map is gone."""
        if os.getpid() != self._process:  # a forked child maps the same copy
            return
        interrupt = None
        self._finish_requested.put(True)
        while True:
            try:
                self._done.acquire()
                break
            except BaseException as error:  # Ctrl-C: the changes come first
                interrupt = error
        if self._failure is None:
            with suppress(OSError):  # Windows cannot remove a mapped file
                os.unlink(self.path)
        else:  # logged in this thread, as it may hold a logging lock
            logger.error(
                "Changes of %s were not written back: %s. The changed array is in %r: "
                "numpy.load() it and insert it, or remove it.",
                self._what,
                self._failure,
                self._saved_copy(),
            )
        if interrupt is not None:
            raise interrupt

    def _finish_thread(self) -> None:
        self._finish_requested.get()
        try:
            self._write_back()
        except BaseException as error:
            self._failure = error
        self._done.release()

    def _saved_copy(self) -> str:
        """Return the path of the copy; write it again if it was removed."""
        if not os.path.exists(self.path):
            descriptor, self.path = tempfile.mkstemp(".npy", "dj-npy-changed-")
            with FileIO(descriptor, "w") as file:
                write_at(file, 0, memoryview(self._contents()))  # type: ignore[arg-type]
        return self.path

    def _contents(self) -> AnyArray:
        return np.memmap(self._file, np.uint8, "r")


class WorkingMap(np.memmap[Any, Any]):
    """A map of a working copy: :meth:`flush` writes it back."""

    _mmap: Any
    _working: WorkingCopy | None = None

    def __array_finalize__(self, obj: Any) -> None:
        super().__array_finalize__(obj)
        if getattr(self, "_mmap", None) is not None:  # it is a view of the map
            self._working = getattr(obj, "_working", None)

    def flush(self) -> None:
        """
        Write changes back to the store.

        Raises
        ------
        StoreError
            If the file was changed there meanwhile, or cannot be written. The working copy is
            kept, and the message gives its path.
        """
        if self._working is not None:
            self._working.write_back()


def working_map(file: FileIO, header: Header, replace: Replace, what: str) -> AnyArray:
    """Memory-map a working copy, which is written back when the map is garbage-collected."""
    array = WorkingMap(file, header.dtype, "r+", header.offset, header.shape, header.order)
    working = WorkingCopy(file, replace, what)
    array._working = working
    # All views share this, whatever their type.
    weakref.finalize(array._mmap, working.finish)
    return array


def _checksum(contents: AnyArray) -> str:
    return CHECKSUM + xxhash.xxh3_128_hexdigest(contents)  # type: ignore[arg-type]  # see bytes_view
