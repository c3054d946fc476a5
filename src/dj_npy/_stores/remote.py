"""What all stores behind a network share: how objects are created, and read side by side."""

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

from dj_npy._concurrency.threads import all_in_threads, side_by_side
from dj_npy._errors import ArrayCorruptError, ArrayMissingError, NpyError, StoreError
from dj_npy._selection.parts import Limits, Part
from dj_npy._settings import settings
from dj_npy._stores import filecache
from dj_npy._stores.base import CLOCK, MARKER, PROBE, Replace, Stat, Store
from dj_npy._stores.secret import Hidden, cut

T = TypeVar("T")

_CLOCK = f"{CLOCK}/now"
"""An object that is there until it is seen what time the store gives it."""
_CLOCK_TRIES = 3
ONE_REQUEST = 16 << 20
"""Bytes up to which one request is as fast as several."""
PART = 8 << 20
"""Bytes of one of several requests, upwards and downwards."""
SIDE_BY_SIDE = 8
"""Requests in flight: 8 of 8 MiB keep a transfer within 64 MiB beside the array."""
ONE_PUT = 64 << 20
"""Bytes up to which an object is created by one conditional request."""
_SETTLED_S = 1
"""After so long, the last of several who wrote an object side by side has written it."""
CONNECT_TIMEOUT_S = 10
SILENCE_S = 30
"""How long a server may send nothing while it is read from."""
REQUEST_S = 300
"""How long one request may take: 64 MiB want 1.8 Mbit/s."""
RETRY_S = 120
"""How long a request that failed is tried again."""
_TRIES = 9
_BACK_OFF_S = 0.1
_MAX_BACK_OFF_S = 10
_NAMES = 4
"""Names that are tried, all but the first of which nobody else can have."""
MAX_PARTS = 10_000  # https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
MAX_COPY = 5 << 30  # the same: what one CopyObject takes
MAX_PUT = 5 << 30  # and one PutObject


class Answer(NamedTuple):
    """What a server said to a request for a range."""

    data: Any
    """The bytes there are of the range."""
    size: int
    """Of the whole object."""
    version: str
    """As in `Stat`."""


class RemoteStore(Store):
    """
    A store whose objects are reached by requests.

    A backend brings the requests: `_get`, `_put_new`, `_put`, `_upload`, `_copy`, `_remove`,
    `_stat`, `_files`, `_listed` and `refused`.

    Parameters
    ----------
    name : str
        What the DataJoint configuration calls the store.
    identity : str
        Where it is, in words that no other store has: service, bucket, location.
    hidden : Hidden, optional
        The credentials: no message has them.
    """

    _failures: tuple[type[Exception], ...] = (Exception,)
    """What a request may raise."""
    via: str | None = None
    """The proxy that requests go through, as it may be shown."""

    def __init__(self, name: str, identity: str, hidden: Hidden | None = None) -> None:
        super().__init__(name)
        self.identity, self._hidden = identity, hidden or Hidden({})
        self._exclusive: bool | None = None  # not asked yet
        self._checksums = False
        self._probing_for = PROBE
        self._asking = threading.Lock()
        self.ask_time: Callable[[], datetime | None] = lambda: None
        """Returns the server's time, if it can be had without writing anything."""
        self.denied: Callable[[], object] = lambda: None
        """Called when credentials were refused: others may have come into their place."""

    # Writing

    def _create(self, paths: Iterator[str], pieces: Iterator[memoryview], nbytes: int) -> str:
        first = next(paths)
        paths = chain([first], paths)
        if nbytes <= ONE_PUT:
            contents = list(pieces)
            if self._creates_exclusively(first):
                return self._create_first_available(paths, contents)
            path = _random_name(paths)
            return self._written(path, lambda: self._put(path, contents))
        path = self._reserved(paths, first)
        self._upload(path, pieces, nbytes)
        return path

    def _copied(self, paths: Iterator[str], source: str, nbytes: int) -> str | None:
        if nbytes > MAX_COPY or not self._creates_exclusively(source):
            return None
        path = self._reserved(paths, source)
        return self._written(path, lambda: self._copy(source, path))

    def _reserved(self, paths: Iterator[str], wanted: str) -> str:
        """Return a name that may be written to by more than one request."""
        return (
            self._create_first_available(paths, [])
            if self._reserves(wanted)
            else _random_name(paths)
        )

    def _reserves(self, wanted: str) -> bool:
        """Whether a name may be reserved: what is begun under it ends before it is free again."""
        return self._creates_exclusively(wanted)

    def _create_first_available(self, paths: Iterator[str], contents: list[memoryview]) -> str:
        for path in islice(paths, _NAMES):
            if self._put_new(path, contents):
                return path
        self._exclusive = False  # whatever it is asked, it says that the name is taken
        path = next(paths)
        return self._written(path, lambda: self._put(path, contents))

    def _written(self, path: str, write: Callable[[], None]) -> str:
        """Write under a name that is ours, or leave nothing there."""
        try:
            write()
        except BaseException:
            with suppress(NpyError):
                self._remove(path)
            raise
        return path

    def _creates_exclusively(self, wanted: str) -> bool:
        """
        Whether the server honours ``If-None-Match: *``: some ignore it and overwrite.

        `wanted` is what an error calls the object, rather than the one that is tried.
        """
        with self._asking:
            while self._exclusive is None:
                self._probing_for, checksums = wanted, self._checksums
                try:
                    self._exclusive = not (self._put_new(PROBE, []) and self._put_new(PROBE, []))
                except StoreError:
                    # Does it refuse the condition, or any request? Then this will raise.
                    self._put(PROBE, [])
                    if self._checksums == checksums:  # or it was these that it refused
                        self._exclusive = False
            return self._exclusive

    def _mark(self, contents: bytes, replace: bool) -> bool:
        data = [memoryview(contents)]
        if not replace and self._creates_exclusively(MARKER):
            return self._put_new(MARKER, data)
        if not replace:
            # Another process may have been first while this one asked what the server does.
            with suppress(ArrayMissingError):
                self._stat(MARKER)
                return False
        self._put(MARKER, data)
        if not replace:
            time.sleep(_SETTLED_S)
        return replace

    def _now(self) -> datetime:
        if (now := self.ask_time()) is not None:
            return now
        # Always the same name, as it may be that none can be removed.
        for _ in range(_CLOCK_TRIES):  # another process may remove it meanwhile
            try:
                # Other contents: rclone takes no note of what is written again as it was.
                self._put(_CLOCK, [memoryview(secrets.token_bytes(8))])
                # As it is listed: by itself, its time may be told in whole seconds only.
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
        return Limits(settings.merge_gap, settings.range_bytes)

    def _part_of(self, nbytes: int) -> int:
        return nbytes if nbytes <= ONE_REQUEST else PART

    def _read_parts(self, path: str, parts: Iterable[Part]) -> Stat | None:
        found: list[Stat] = []

        def read(part: Part) -> bool:
            stat = self._read_part(path, part)
            found.append(stat)
            return part.start + part.nbytes <= stat.nbytes and stat == found[0]

        return found[0] if all_in_threads(read, parts, SIDE_BY_SIDE) else None

    def _read_part(self, path: str, part: Part) -> Stat:
        answer = self._get(path, part.start, part.start + part.nbytes)
        if len(answer.data) == part.nbytes:  # or the object ends before
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

        return self._parts(path, 0, expected.nbytes, unchanged, at_once=SIDE_BY_SIDE // 2)

    def _open_to_map(self, path: str) -> FileIO:
        return self._copy_of(path, self._stat(path))

    def _open_to_change(self, path: str) -> tuple[FileIO, Replace | None]:
        raise StoreError(
            f"could not map {self.where(path)} with mmap_mode='r+': this store (its server, its "
            f"plugin, or any in a forked process) cannot replace an object on the condition "
            f"that it is still the one that was read, so a change of someone else's might be "
            f"lost. Map it with 'c', and insert what has become of it"
        )

    def _copy_of(self, path: str, stat: Stat) -> FileIO:
        """Open the copy on this machine of that version of an object."""

        def download(file: FileIO) -> None:
            def write(first: int, answer: Answer) -> None:
                self._check_version(path, answer, stat)
                filecache.write_at(file, first, memoryview(answer.data))

            for _ in self._parts(path, 0, stat.nbytes, write):
                pass

        # Without a version the next object of that name might be taken for this one.
        version = stat.version or secrets.token_hex(16)
        return filecache.opened(
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
        at_once: int = SIDE_BY_SIDE,
    ) -> Iterator[T]:
        """Yield ``use(first, answer)`` of one part after the other, each used in its thread."""

        def fetch(first: int) -> T:
            return use(first, self._get(path, first, min(first + PART, stop)))

        return side_by_side(fetch, range(start, stop, PART), at_once)

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
        """Have what a request raises told as ours, `but` what is awaited."""
        with cut():
            try:
                yield
            except NpyError:
                raise
            except self._failures as error:
                if isinstance(error, but):
                    raise
                raise self.refused(error, path, verb) from None

    def _refuse(self, error: Exception, path: str, verb: str) -> NoReturn:
        with cut():
            raise self.refused(error, path, verb) from None

    def _and_the_proxy(self, error: Exception) -> str:
        """Return what to add to what is said of an error, if it may be the proxy's."""
        if self.via is None or isinstance(error, PermissionError):
            return ""
        return f". It goes through the proxy {self.via}: is that running, and right?"

    def _refusal(self, message: str, is_denied: bool) -> StoreError:
        refused = StoreError(message)
        if is_denied:
            refused.errno = errno.EACCES
            self.denied()
        return refused

    # What a backend brings

    @abstractmethod
    def _get(self, path: str, start: int, stop: int) -> Answer:
        """Return bytes `start` to `stop`, 0 <= start < stop, or all that there are of them."""

    @abstractmethod
    def _put_new(self, path: str, contents: Sequence[memoryview]) -> bool:
        """Create an object unless there is one, and return whether this was done."""

    @abstractmethod
    def _put(self, path: str, contents: Sequence[memoryview]) -> None:
        """Write an object."""

    @abstractmethod
    def _upload(self, path: str, pieces: Iterable[memoryview], nbytes: int) -> None:
        """
        Write an object in parts under a name that is ours, or raise and leave nothing there.

        It is removed by whoever writes it, when nothing of it is under way any more.
        """

    @abstractmethod
    def _copy(self, source: str, path: str) -> None:
        """Have the server copy `source` over `path`."""


def _random_name(paths: Iterator[str]) -> str:
    return next(islice(paths, 1, None))


def pauses() -> Iterator[float]:
    """Yield the seconds to wait before each further try of a request: 33 in all, at most."""
    until = time.monotonic() + RETRY_S
    for attempt in range(1, _TRIES):
        pause = min(_BACK_OFF_S * 2**attempt, _MAX_BACK_OFF_S) * random.random()
        if time.monotonic() + pause > until:
            return
        yield pause


def part_size(nbytes: int) -> int:
    """Size of the parts an object of `nbytes` is uploaded in: so many that S3 takes them."""
    return max(PART, -(-nbytes // MAX_PARTS))
