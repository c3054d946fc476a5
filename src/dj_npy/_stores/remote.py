"""What all network stores share: exclusive creation and concurrent reads."""

import errno
import random
import secrets
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from io import FileIO
from itertools import chain, islice
from typing import Any, NamedTuple, NoReturn, TypeVar

from dj_npy._concurrency.threads import all_in_threads, current_token, side_by_side
from dj_npy._errors import ArrayCorruptError, ArrayMissingError, NpyError, StoreError
from dj_npy._selection.parts import Limits, Part
from dj_npy._settings import settings
from dj_npy._stores import filecache
from dj_npy._stores.base import CLOCK, MARKER, PROBE, Replace, Store
from dj_npy._stores.listed import Stat
from dj_npy._stores.secret import Redactor, without_context

T = TypeVar("T")

_CLOCK = f"{CLOCK}/now"
"""A temporary object, written to see what time the store gives it."""
_CLOCK_TRIES = 3
ONE_REQUEST = 16 << 20
"""Size in bytes up to which one request is as fast as several."""
PART = 8 << 20
"""Size in bytes of each of several requests, for reads and writes."""
SIDE_BY_SIDE = 8
"""Concurrent requests to a store that is near."""
BUFFERED = PART * SIDE_BY_SIDE
"""Most bytes of concurrent requests that are not written into the array's own memory."""
READ_AHEAD = 96 << 20
"""Bytes of blocks that are read ahead of the one in use, from a far store."""
ONE_PUT = 64 << 20
"""Size in bytes up to which an object is created by one conditional request."""
_SETTLED_S = 1
"""Seconds until concurrent writers of an object have finished."""
CONNECT_TIMEOUT_S = 10
SILENCE_S = 30
"""Seconds without data after which a read fails."""
REQUEST_S = 300
"""Time limit of one request in seconds: 64 MiB need 1.8 Mbit/s."""
RETRY_S = 120
"""Seconds for which a failed request is retried."""
_TRIES = 9
_BACK_OFF_S = 0.1
_MAX_BACK_OFF_S = 10
_NAMES = 4
"""Names to try; all but the first are random, so unique."""
MAX_PARTS = 10_000  # https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
MAX_COPY = 5 << 30  # the same page: limit of one CopyObject
MAX_PUT = 5 << 30  # and of one PutObject


class Answer(NamedTuple):
    """A server's answer to a range request."""

    data: Any
    """The bytes of the range, or fewer at the end of the object."""
    size: int
    """Size of the whole object."""
    version: str
    """As in `Stat`."""


class RemoteStore(Store):
    """
    A store whose objects are accessed by requests.

    A backend implements `_get`, `_put_new`, `_put`, `_upload`, `_copy`, `_remove`, `_stat`,
    `_files`, `_listed` and `translate_error`.

    Parameters
    ----------
    name : str
        Name of the store in the DataJoint configuration.
    identity : str
        Unique description of the location: service, bucket, location.
    redactor : Redactor, optional
        Removes the credentials from all messages.
    """

    _failures: tuple[type[Exception], ...] = (Exception,)
    """The errors that a request may raise."""
    via: str | None = None
    """URL of the proxy in use, without secrets."""

    def __init__(self, name: str, identity: str, redactor: Redactor | None = None) -> None:
        super().__init__(name)
        self.identity, self._redactor = identity, redactor or Redactor({})
        self._exclusive: bool | None = None  # not probed yet
        self._checksums = False
        self._probing_for = PROBE
        self._probe_lock = threading.Lock()
        self.ask_time: Callable[[], datetime | None] = lambda: None
        """Returns the server's time if it is available without a write."""
        self.denied: Callable[[], object] = lambda: None
        """Called when credentials were refused, to look for new ones."""

    # Writing

    def _create(self, paths: Iterator[str], pieces: Iterator[memoryview], nbytes: int) -> str:
        first = next(paths)
        paths = chain([first], paths)
        if nbytes <= ONE_PUT:
            contents = list(pieces)
            if self._creates_exclusively(first):
                return self._create_first_available(paths, contents)
            path = _random_name(paths)
            return self._write_or_remove(path, lambda: self._put(path, contents))
        path = self._reserve_name(paths, first)
        self._upload(path, pieces, nbytes)
        return path

    def _create_copy(self, paths: Iterator[str], source: str, nbytes: int) -> str | None:
        if nbytes > MAX_COPY or not self._creates_exclusively(source):
            return None
        path = self._reserve_name(paths, source)
        return self._write_or_remove(path, lambda: self._copy(source, path))

    def _reserve_name(self, paths: Iterator[str], wanted: str) -> str:
        """Return a name that several requests may write to."""
        return (
            self._create_first_available(paths, [])
            if self._can_reserve(wanted)
            else _random_name(paths)
        )

    def _can_reserve(self, wanted: str) -> bool:
        """Whether a name may be reserved: no write to it continues after the name is free again."""
        return self._creates_exclusively(wanted)

    def _create_first_available(self, paths: Iterator[str], contents: list[memoryview]) -> str:
        for path in islice(paths, _NAMES):
            if self._put_new(path, contents):
                return path
        self._exclusive = False  # the server reports every name as taken
        path = next(paths)
        return self._write_or_remove(path, lambda: self._put(path, contents))

    def _write_or_remove(self, path: str, write: Callable[[], None]) -> str:
        """Write to a name that is ours, or leave nothing there."""
        try:
            write()
        except BaseException:
            with suppress(NpyError):
                self._remove(path)
            raise
        return path

    def _creates_exclusively(self, wanted: str) -> bool:
        """
        Whether the server honours ``If-None-Match: *``; some ignore it and overwrite.

        `wanted` is the path that errors name, instead of the probe's.
        """
        with self._probe_lock:
            while self._exclusive is None:
                self._probing_for, checksums = wanted, self._checksums
                try:
                    self._exclusive = not (self._put_new(PROBE, []) and self._put_new(PROBE, []))
                except StoreError:
                    # Is the condition refused, or any request? In the latter case this raises.
                    self._put(PROBE, [])
                    if self._checksums == checksums:  # or the checksums were refused
                        self._exclusive = False
            return self._exclusive

    def _mark(self, contents: bytes, replace: bool) -> bool:
        data = [memoryview(contents)]
        if replace:
            self._put(MARKER, data)
            return True
        if self._creates_exclusively(MARKER):
            return self._put_new(MARKER, data)
        # Another process may have been first during the probe.
        with suppress(ArrayMissingError):
            self._stat(MARKER)
            return False
        self._put(MARKER, data)
        time.sleep(_SETTLED_S)
        return False

    def _now(self) -> datetime:
        if (now := self.ask_time()) is not None:
            return now
        # Always the same name, because removal may not be allowed.
        for _ in range(_CLOCK_TRIES):  # another process may remove it
            try:
                # New contents each time: rclone ignores a write of the same contents.
                self._put(_CLOCK, [memoryview(secrets.token_bytes(8))])
                # From the listing: a HEAD may give its time in whole seconds only.
                for each in self._files(_CLOCK.partition("/")[0]):
                    if each.path == _CLOCK:
                        return each.modified
            finally:
                with suppress(NpyError):
                    self._remove(_CLOCK)
        raise StoreError(
            f"store {self.name!r} ({self.identity}) does not list an object that was just "
            f"written there"
        )

    # Reading

    @property
    def limits(self) -> Limits:
        return Limits(settings.merge_gap, min(settings.range_bytes, self.pace.smallest_part))

    @property
    def is_far(self) -> bool:  # type: ignore[override]
        """As in `Store`."""
        return self.pace.is_far

    @property
    def workers(self) -> int:  # type: ignore[override]
        """As in `Store`."""
        return max(Store.workers, self.pace.in_flight)

    @property
    def writers(self) -> int:
        """As in `Store`."""
        return max(Store.workers, self.pace.writes_in_flight)

    @property
    def read_ahead(self) -> int:  # type: ignore[override]
        """As in `Store`."""
        return READ_AHEAD if self.pace.is_far else 0

    def _part_of(self, path: str, nbytes: int) -> int:  # noqa: ARG002
        if nbytes <= ONE_REQUEST and not self.pace.is_far:
            return nbytes
        return self.pace.smallest_part

    def _read_parts(self, path: str, parts: Iterable[Part]) -> Stat | None:
        found: list[Stat] = []
        waiting = iter(parts)
        first = next(waiting)

        def read(part: Part) -> bool:
            stat = self._read_part(path, part)
            found.append(stat)
            return part.start + part.nbytes <= stat.nbytes and stat == found[0]

        whole = all_in_threads(read, chain([first], waiting), self._threads_for(first))
        return found[0] if whole else None

    def _threads_for(self, first: Part) -> int:
        """Return how many threads read the parts, the first of which is given."""
        count = self.pace.in_flight
        if current_token.get() is not None:  # other threads read other arrays
            count = max(SIDE_BY_SIDE, count // 4)
        if self._is_buffered(first):
            count = min(count, BUFFERED // max(first.nbytes, self.limits.part))
        return max(count, 1)

    def _is_buffered(self, part: Part) -> bool:  # noqa: ARG002
        """Whether the bytes of a part are in memory twice until they are copied to the array."""
        return True

    def _read_part(self, path: str, part: Part) -> Stat:
        answer = self._get(path, part.start, part.start + part.nbytes)
        if len(answer.data) == part.nbytes:  # otherwise the object ends before
            part.put(memoryview(answer.data))
        return Stat(answer.size, answer.version)

    def _read_beginning(self, path: str, length: int) -> tuple[bytes, Stat]:
        answer = self._get(path, 0, length)
        return bytes(answer.data), Stat(answer.size, answer.version)

    def _pieces(self, path: str) -> Iterator[memoryview]:
        expected = self._stat(path)

        def unchanged(_: int, answer: Answer) -> memoryview:
            self._check_version(path, answer, expected)
            return memoryview(answer.data)

        return self._parts(path, 0, expected.nbytes, unchanged, max_nbytes=BUFFERED // 2)

    def _open_to_map(self, path: str) -> FileIO:
        return self._open_cached(path, self._stat(path))

    def _open_to_change(self, path: str) -> tuple[FileIO, Replace | None]:
        raise StoreError(
            f"could not map {self.where(path)} with mmap_mode='r+': this store (its server, its "
            f"plugin, or any in a forked process) cannot replace an object on the condition "
            f"that it is still the one that was read, so a change of someone else's might be "
            f"lost. Map it with 'c', and insert what has become of it"
        )

    def _open_cached(self, path: str, stat: Stat) -> FileIO:
        """Open the local copy of that version of an object."""

        def download(file: FileIO) -> None:
            def write(first: int, answer: Answer) -> None:
                self._check_version(path, answer, stat)
                filecache.write_at(file, first, memoryview(answer.data))

            for _ in self._parts(path, 0, stat.nbytes, write):
                pass

        # Without a version, the next object of that name might be mistaken for this one.
        version = stat.version or secrets.token_hex(16)
        return filecache.open_copy(
            (self.identity, path, version), stat.nbytes, download, self.where(path)
        )

    def _check_version(self, path: str, answer: Answer, expected: Stat) -> None:
        if (answer.size, answer.version) != expected:
            raise ArrayCorruptError(f"{self.where(path)} changed while it was read")

    def _parts(
        self,
        path: str,
        start: int,
        stop: int,
        use: Callable[[int, Answer], T],
        max_nbytes: int = BUFFERED,
    ) -> Iterator[T]:
        """Yield ``use(first, answer)`` for each part in order; `use` runs in the part's thread."""
        part = self.pace.smallest_part
        at_once = min(max_nbytes // part, self.pace.in_flight)

        def fetch(first: int) -> T:
            return use(first, self._get(path, first, min(first + part, stop)))

        return side_by_side(fetch, range(start, stop, part), at_once)

    def _cut_short(self, path: str, expected: int, found: int) -> StoreError:
        return StoreError(
            f"could not read {self.where(path)} ({self.identity}): asked for {expected} bytes, "
            f"the server sent {found}. Try again"
        )

    def where(self, path: str) -> str:
        if path.startswith(CLOCK):
            return f"the object that tells the time in store {self.name!r}"
        return super().where(self._probing_for if path == PROBE else path)

    def _missing(self, path: str) -> ArrayMissingError:
        return ArrayMissingError(
            f"could not read {self.where(path)} ({self.identity}): there is no such object. The "
            f"row refers to it: restore it from a copy, or delete the row"
        )

    @contextmanager
    def _translated(
        self, path: str, verb: str, but: type[Exception] | tuple[type[Exception], ...] = ()
    ) -> Iterator[None]:
        """Translate the errors of a request, except `but`."""
        with without_context():
            try:
                yield
            except NpyError:
                raise
            except self._failures as error:
                if isinstance(error, but):
                    raise
                raise self.translate_error(error, path, verb) from None

    def _raise_translated(self, error: Exception, path: str, verb: str) -> NoReturn:
        with without_context():
            raise self.translate_error(error, path, verb) from None

    def _proxy_hint(self, error: Exception) -> str:
        """Return a hint at the proxy to append to an error that it may have caused."""
        if self.via is None or isinstance(error, PermissionError):
            return ""
        return f". It goes through the proxy {self.via}: is that running, and right?"

    def _store_error(self, message: str, is_denied: bool) -> StoreError:
        error = StoreError(message)
        if is_denied:
            error.errno = errno.EACCES
            self.denied()
        return error

    # What a backend implements

    @abstractmethod
    def _get(self, path: str, start: int, stop: int) -> Answer:
        """Return bytes `start` to `stop`, 0 <= start < stop, or fewer at the end of the object."""

    @abstractmethod
    def _put_new(self, path: str, contents: Sequence[memoryview]) -> bool:
        """Create an object unless it exists, and return whether it was created."""

    @abstractmethod
    def _put(self, path: str, contents: Sequence[memoryview]) -> None:
        """Write an object."""

    @abstractmethod
    def _upload(self, path: str, pieces: Iterable[memoryview], nbytes: int) -> None:
        """
        Upload an object in parts to a name that is ours, or raise and leave nothing there.

        The writer removes it, when no request for it is in progress any more.
        """

    @abstractmethod
    def _copy(self, source: str, path: str) -> None:
        """Copy `source` over `path` on the server."""


def _random_name(paths: Iterator[str]) -> str:
    return next(islice(paths, 1, None))


def pauses() -> Iterator[float]:
    """Yield the seconds to wait before each retry of a request: 33 in total at most."""
    until = time.monotonic() + RETRY_S
    for attempt in range(1, _TRIES):
        pause = min(_BACK_OFF_S * 2**attempt, _MAX_BACK_OFF_S) * random.random()
        if time.monotonic() + pause > until:
            return
        yield pause


def part_size(nbytes: int) -> int:
    """Return the part size to upload an object of `nbytes` within S3's limit of parts."""
    return max(PART, -(-nbytes // MAX_PARTS))
