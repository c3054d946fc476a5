"""LRU cache of loaded arrays, bounded by ``settings.memory``."""

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pickle import PickleBuffer
from typing import Any, Literal, Protocol

import numpy as np

from dj_npy._format.npyfile import AnyArray, bytes_view
from dj_npy._settings import settings


class Loadable(Protocol):
    """
    An object with two slots for its array, managed by :class:`ArrayCache`.

    `_loaded` is None before loading, the array while it is in the cache, then a weak reference.
    `_view_ref` is a weak reference to the view of it that callers hold.
    """

    _loaded: AnyArray | weakref.ref[AnyArray] | None
    _view_ref: weakref.ref[AnyArray] | None


def loaded_array(ref: Loadable) -> AnyArray | None:
    """Return the array of `ref` if it is in memory, without I/O. Callers get a view of it."""
    loaded = ref._loaded
    return loaded() if isinstance(loaded, weakref.ref) else loaded


class ArrayCache:
    """
    The most recently used arrays, up to ``settings.memory`` bytes together.

    An evicted array, or one larger than the whole budget, which evicts nothing, lives as long as
    somebody holds it or a view of it, and its reference still returns the same one. Arrays are
    returned read-only, as they are shared.
    Thread-safe, and safe to fork.
    """

    def __init__(self) -> None:
        self._recent: OrderedDict[int, tuple[weakref.ref[Loadable], int]] = OrderedDict()
        self._reset_locks()
        if hasattr(os, "register_at_fork"):
            # The child lacks the parent's threads, which would release their locks.
            os.register_at_fork(after_in_child=self._reset_locks)

    def _reset_locks(self) -> None:
        # Reentrant: garbage collection may call `_forget` while this thread holds the lock.
        self._mutex = threading.RLock()
        self._loading: dict[int, threading.Lock] = {}
        self._nbytes = sum(nbytes for _, nbytes in list(self._recent.values()))

    def get(self, ref: Loadable, read: Callable[[], AnyArray]) -> AnyArray:
        """Return the array of `ref`, calling `read` if needed; concurrent threads read once."""
        with self._mutex:
            array = self._cached_view(ref)
            if array is not None:
                return array
        identity, mine = id(ref), threading.Lock()
        mine.acquire()
        # An interrupt may come anywhere; no thread must wait for one that it stopped.
        try:
            while True:
                with self._mutex:
                    array = self._cached_view(ref)
                    if array is not None:
                        return array
                    other = self._loading.setdefault(identity, mine)
                if other is mine:
                    return self.put(ref, read())
                with other:  # until that thread has read or failed
                    self._stop_waiting(identity, other)
        finally:
            mine.release()
            self._stop_waiting(identity, mine)

    def get_together(
        self,
        refs: Sequence[Loadable],
        read: Callable[[Sequence[Any]], Sequence[AnyArray | None]],
    ) -> list[AnyArray | None]:
        """
        Return the arrays of `refs`, calling `read` once for those that no thread is reading.

        None for the arrays that `read` did not return and those that another thread is reading.
        """
        mine = threading.Lock()
        mine.acquire()
        found: dict[int, AnyArray | None] = {}
        to_read: dict[int, Loadable] = {}
        try:
            with self._mutex:
                for ref in refs:
                    array = found[id(ref)] = self._cached_view(ref)
                    if array is None and self._loading.setdefault(id(ref), mine) is mine:
                        to_read[id(ref)] = ref
            if to_read:
                arrays = read(list(to_read.values()))
                for (identity, ref), array in zip(to_read.items(), arrays, strict=True):
                    found[identity] = None if array is None else self.put(ref, array)
        finally:
            mine.release()
            for ref in refs:
                self._stop_waiting(id(ref), mine)
        return [found[id(ref)] for ref in refs]

    def _cached_view(self, ref: Loadable) -> AnyArray | None:
        array = loaded_array(ref)
        if array is None:
            return None
        self._mark_used(ref, array)
        return _shared_view(ref, array)

    def _stop_waiting(self, identity: int, lock: threading.Lock) -> None:
        with self._mutex:
            if self._loading.get(identity) is lock:
                del self._loading[identity]

    def put(self, ref: Loadable, array: AnyArray) -> AnyArray:
        """Store `array`, owned by nobody else, as that of `ref`, unless there is one already."""
        with self._mutex:
            loaded = loaded_array(ref)
            if loaded is None:
                loaded = _read_only(array)
            self._mark_used(ref, loaded)
            return _shared_view(ref, loaded)

    def drop(self, ref: Loadable) -> None:
        """Forget the array of `ref`."""
        with self._mutex:
            ref._loaded = None
            self._forget(id(ref))

    def _mark_used(self, ref: Loadable, array: AnyArray) -> None:
        identity = id(ref)
        if identity in self._recent:
            self._recent.move_to_end(identity)
            return
        if array.nbytes > settings.memory:
            ref._loaded = weakref.ref(array)
            return
        ref._loaded = array
        gone = weakref.ref(ref, lambda _: self._forget(identity))
        self._recent[identity] = gone, array.nbytes
        self._nbytes += array.nbytes
        while self._nbytes > settings.memory and self._recent:
            _, (oldest, nbytes) = self._recent.popitem(last=False)
            self._nbytes -= nbytes
            holder = oldest()
            if holder is not None:
                kept = loaded_array(holder)
                holder._loaded = None if kept is None else weakref.ref(kept)

    def _forget(self, identity: int) -> None:
        with self._mutex:
            entry = self._recent.pop(identity, None)
            if entry is not None:
                self._nbytes -= entry[1]


def _read_only(array: AnyArray) -> AnyArray:
    """Return it read-only, such that no view can be made writable."""
    flags = array.flags
    if not flags.writeable:
        return array
    if flags.owndata:
        array.setflags(write=False)
        return array
    order: Literal["C", "F"] = "C" if flags.c_contiguous else "F"
    buffer = read_only_buffer(bytes_view(array))
    return np.ndarray(array.shape, array.dtype, buffer, 0, None, order)


def read_only_buffer(memory: memoryview) -> Any:
    """Return a buffer over `memory` whose arrays cannot be made writable."""
    # NumPy finds the writable owner below a memoryview, but not below a PickleBuffer.
    return PickleBuffer(memory.toreadonly())


def _shared_view(ref: Loadable, array: AnyArray) -> AnyArray:
    """Return the view of `array` for callers: the same one as long as somebody holds it."""
    view = None if ref._view_ref is None else ref._view_ref()
    # Its data are read-only, but not its shape: `x = ref.load(); x.shape = -1`.
    if (
        view is None
        or view.base is not array
        or view.shape != array.shape
        or view.strides != array.strides
        or view.dtype is not array.dtype
    ):
        view = array.view()
        ref._view_ref = weakref.ref(view)
    return view


array_cache = ArrayCache()
