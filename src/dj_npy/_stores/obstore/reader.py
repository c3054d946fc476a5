"""Read objects in S3, GCS and Azure: by ranges, as a stream, or past obstore."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from itertools import chain, islice
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

import obstore
from obstore import exceptions
from obstore.store import AzureStore, GCSStore, S3Store

from dj_npy._concurrency.loop import Room, all_on_loop
from dj_npy._concurrency.threads import current_token
from dj_npy._errors import ArrayCorruptError, NpyError
from dj_npy._selection.parts import Part
from dj_npy._stores.base import Buffer
from dj_npy._stores.listed import Stat
from dj_npy._stores.obstore.direct import Direct
from dj_npy._stores.obstore.failures import FAILURES, MISSING, is_missing_size, is_slow_down
from dj_npy._stores.obstore.unmeasured import Unmeasured, chunks_of
from dj_npy._stores.remote import BUFFERED, ONE_REQUEST, PART, Answer, RemoteStore, pauses
from dj_npy._stores.secret import Redactor

T = TypeVar("T")
Client = S3Store | GCSStore | AzureStore

_ATTEMPTS = 4
_SIGNED_FOR = timedelta(minutes=5)
_MOST_URLS = 1000
_MIN_DIRECT_PART = 1 << 20
_MAX_DIRECT_PART = 32 << 20
_FEW = 8
"""Parts by whose sizes all are judged."""
_TOGETHER = 256
"""Most small files that are asked for together."""
TELLING = 64 << 10
"""Bytes of an answer up to which all of it tells the delay of its first byte."""
_RETRY_RANGES_S = 600
"""Seconds until a server that ignored a range is asked again."""


class CloudReader(RemoteStore):
    """
    The reading half of `CloudStore`.

    Parameters
    ----------
    name, reader, identity, redactor, direct, proxy, asker
        As for `CloudStore`.
    """

    _failures = FAILURES

    def __init__(
        self,
        name: str,
        reader: Client,
        identity: str,
        *,
        redactor: Redactor | None,
        direct: bool,
        proxy: str | None,
        asker: Client | None = None,
    ) -> None:
        super().__init__(name, identity, redactor)
        self._reader, self._asker = reader, asker or reader
        self._ranges: bool | None = None  # whether the server honours ranges; None is unknown
        self._retry_ranges_at = 0.0
        self._direct = Direct(self._sign_url, self.pace) if direct else None
        self._unmeasured = Unmeasured(self._sign_url, proxy)
        self._is_unmeasured = False  # the server omits sizes that obstore requires
        self._urls: dict[str, tuple[SplitResult, float]] = {}
        self._room = Room(lambda: self.pace.small_in_flight, BUFFERED)

    def _sign_url(self, path: str) -> SplitResult:
        url, until = self._urls.get(path) or (None, 0.0)
        if url is None or time.monotonic() > until:
            with self._translated(path, "read"):
                url = urlsplit(str(obstore.sign(self._reader, "GET", path, _SIGNED_FOR)))
            if len(self._urls) >= _MOST_URLS:
                self._urls.clear()
            self._urls[path] = url, time.monotonic() + _SIGNED_FOR.seconds / 2
        return url

    def _get(self, path: str, start: int, stop: int) -> Answer:
        try:
            if self._ranges is not False or time.monotonic() > self._retry_ranges_at:
                return self._get_part(path, start, stop)
        except NpyError:
            raise
        except exceptions.GenericError as error:
            return self._get_after_error(path, start, stop, error)
        except FAILURES as error:
            self._raise_translated(error, path, "read")
        with self._translated(path, "read"):
            return self._get_through(path, start, stop)

    def _get_after_error(self, path: str, start: int, stop: int, error: Exception) -> Answer:
        """Read after an error: past the end of the object, or from a server that ignores ranges."""
        with self._translated(path, "read"):
            if is_missing_size(error) and (found := self._unmeasured.part(path, start, stop)):
                self._is_unmeasured = self._ranges = True
                return found
            answer = self._get_through(path, start, stop)
            if start < answer.size:
                with suppress(exceptions.GenericError):
                    return self._get_range(path, start, stop)
                self._ranges = False
                self._retry_ranges_at = time.monotonic() + _RETRY_RANGES_S
            return answer

    def _get_part(self, path: str, start: int, stop: int) -> Answer:
        if self._is_unmeasured and (found := self._unmeasured.part(path, start, stop)):
            return found
        return self._get_range(path, start, stop)

    def _get_range(self, path: str, start: int, stop: int) -> Answer:
        sent = time.monotonic()
        try:
            result = obstore.get(self._reader, path, options={"range": (start, stop)})
        except MISSING:
            self.pace.answered(time.monotonic() - sent)
            raise
        self.pace.answered(time.monotonic() - sent)
        # Each access to `meta` builds it anew, at a tenth of the cost of a small request.
        data, meta = result.bytes(), result.meta
        size = meta["size"]
        self._ranges = True
        if len(data) != min(stop, size) - start:
            raise self._cut_short(path, min(stop, size) - start, len(data))
        return Answer(data, size, meta["e_tag"] or "")

    def _get_through(self, path: str, start: int, stop: int) -> Answer:
        """Read the object from its beginning up to the range and through it."""
        size, version, chunks = self._stream(path, start, stop)
        return Answer(b"".join(chunk for _, chunk in chunks), size, version)

    def _stream(
        self, path: str, start: int, stop: int
    ) -> tuple[int, str, Iterator[tuple[int, memoryview]]]:
        """Return size, version, and an iterator over the range in chunks, each with its offset."""
        try:
            result = obstore.get(self._reader, path)
        except exceptions.GenericError as error:
            found = self._unmeasured.whole(path) if is_missing_size(error) else None
            if found is None:
                raise
            return found.size, found.version, chunks_of(found.data, start, min(stop, found.size))
        size, version = result.meta["size"], result.meta["e_tag"] or ""
        wanted = range(start, min(stop, size))

        def chunks() -> Iterator[tuple[int, memoryview]]:
            nonlocal result
            done, position, failed = wanted.start, 0, 0
            while done < wanted.stop:
                try:
                    for chunk in result.stream(min_chunk_size=PART):
                        part = memoryview(chunk)[max(0, done - position) : wanted.stop - position]
                        position += len(chunk)
                        if part:
                            yield done, part
                            done += len(part)
                        if done == wanted.stop:
                            return
                    raise self._cut_short(path, len(wanted), done - wanted.start)
                except exceptions.GenericError:  # obstore resumes only with ranges
                    failed += 1
                    if failed == _ATTEMPTS:
                        raise
                result, position = obstore.get(self._reader, path), 0
                if (result.meta["size"], result.meta["e_tag"] or "") != (size, version):
                    raise ArrayCorruptError(f"{self.where(path)} changed while it was read")

        return size, version, chunks()

    def _parts(
        self,
        path: str,
        start: int,
        stop: int,
        use: Any,
        max_nbytes: int = BUFFERED,
    ) -> Iterator[Any]:
        if start < stop and self._honours_ranges(path, start):
            yield from super()._parts(path, start, stop, use, max_nbytes)
            return
        with self._translated(path, "read"):
            size, version, chunks = self._stream(path, start, stop)
        if size < stop:
            yield use(start, Answer(b"", size, version))
            return
        while True:
            with self._translated(path, "read"):  # not errors of `use`
                first, chunk = next(chunks, (None, b""))
            if first is None:
                return
            yield use(first, Answer(chunk, size, version))

    def _honours_ranges(self, path: str, start: int) -> bool:
        if not self._ranges and time.monotonic() > self._retry_ranges_at:
            self._get(path, start, start + 1)
        return bool(self._ranges)

    def _part_of(self, path: str, nbytes: int) -> int:
        if nbytes > ONE_REQUEST:
            self._honours_ranges(path, 0)  # and learn how far away it is
        part = super()._part_of(path, nbytes)
        if self._direct is None or part >= nbytes:
            return part
        # One part per thread, unless it would be too much to request again.
        return min(self.pace.part(nbytes), _MAX_DIRECT_PART)

    def _is_buffered(self, part: Part) -> bool:
        return self._direct is None or not self._direct.works or part.take is not None

    def _read_parts(self, path: str, parts: Iterable[Part]) -> Stat | None:
        waiting = iter(parts)
        few = list(islice(waiting, _FEW))
        if len(few) > 1 and not self._honours_ranges(path, few[0].start):
            return self._read_through(path, few[0].start, chain(few, waiting))
        if len(few) == 1 and (current_token.get() is None or few[0].nbytes >= _MIN_DIRECT_PART):
            stat = self._read_directly(path, few[0])
            if stat is not None:
                return stat
        are_small = sum(part.nbytes for part in few) < len(few) * _MIN_DIRECT_PART
        if len(few) > 1 and are_small and self.pace.is_far and not self._is_unmeasured:
            return self._read_small_parts(path, chain(few, waiting))
        return super()._read_parts(path, chain(few, waiting))

    def _read_small_parts(self, path: str, parts: Iterable[Part]) -> Stat | None:
        """
        Read many parts at once; those that fail or are large, in threads as others.

        Not from a near store, where most of the time would be the loop's own work.
        """
        found: list[Stat] = []
        left: list[Part] = []

        async def read(part: Part) -> bool:
            if part.nbytes >= _MIN_DIRECT_PART:
                left.append(part)
                return True
            try:
                answer = await self._ask(partial(self._get_async, path, part))
            except FAILURES:
                left.append(part)
                return True
            data, meta = answer
            found.append(Stat(meta["size"], meta["e_tag"] or ""))
            if len(data) != part.nbytes or found[-1] != found[0]:
                return False
            part.put(memoryview(data))
            return True

        if not self._on_loop(read, parts, lambda part: part.nbytes):
            return None
        if left:
            stat = super()._read_parts(path, left)
            if stat is None:
                return None
            found.append(stat)
        return found[0] if found[-1] == found[0] else None

    async def _get_async(self, path: str, part: Part) -> tuple[Any, Any]:
        options: Any = {"range": (part.start, part.start + part.nbytes)}
        asked = time.monotonic()
        result = await obstore.get_async(self._asker, path, options=options)
        self.pace.answered(time.monotonic() - asked)
        return await result.bytes_async(), result.meta

    async def _ask(self, send: Callable[[], Awaitable[T]]) -> T:
        """Send a request on the loop, and again while the server says to slow down."""
        for pause in pauses():
            try:
                answer = await send()
            except FAILURES as error:
                if not is_slow_down(error):
                    raise
                self.pace.refused()
                await asyncio.sleep(pause)
            else:
                self.pace.accepted()
                return answer
        return await send()

    @contextmanager
    def _timed(self, nbytes: int) -> Iterator[None]:
        """Note how long a small answer takes, whose last byte comes with the first."""
        asked = time.monotonic()
        yield
        if nbytes <= TELLING:
            self.pace.answered(time.monotonic() - asked)

    def _on_loop(
        self, read: Callable[[T], Awaitable[bool]], items: Iterable[T], nbytes: Callable[[T], int]
    ) -> bool:
        return all_on_loop(read, items, self._room, nbytes)

    @property
    def together(self) -> int:  # type: ignore[override]
        """As in `Store`: one where such a read would not be answered."""
        return 1 if self._is_unmeasured or self._ranges is False else _TOGETHER

    @property
    def single_read_max(self) -> int:  # type: ignore[override]
        """As in `Store`: a single request is faster through the socket, many are not."""
        return 0 if current_token.get() is None else _MIN_DIRECT_PART

    def _read_files(self, files: Iterable[tuple[str, Sequence[Buffer], int]]) -> list[bool]:
        every = list(files)
        # One byte more is requested: if it does not come, that is the size, without reading
        # headers.
        if len(every) == 1:
            path, buffers, nbytes = every[0]
            with suppress(*FAILURES), self._timed(nbytes):
                data = obstore.get_range(self._reader, path, start=0, end=nbytes + 1)
                return [_fill(buffers, memoryview(data), nbytes)]
            return [False]
        whole = [False] * len(every)

        async def read(number: int) -> bool:
            path, buffers, nbytes = every[number]
            get = partial(obstore.get_range_async, self._asker, path, start=0, end=nbytes + 1)
            with suppress(*FAILURES), self._timed(nbytes):
                whole[number] = _fill(buffers, memoryview(await self._ask(get)), nbytes)
            return True

        self._on_loop(read, range(len(every)), lambda number: every[number][2])
        return whole

    def _read_part(self, path: str, part: Part) -> Stat:
        # obstore reads many small parts faster: it holds the GIL less.
        stat = self._read_directly(path, part) if part.nbytes >= _MIN_DIRECT_PART else None
        return stat or super()._read_part(path, part)

    def _read_directly(self, path: str, part: Part) -> Stat | None:
        """Read a part past obstore; None if that failed."""
        if self._direct is None or not self._direct.works:
            return None
        data = memoryview(bytearray(part.nbytes if part.take else 0))
        found = self._direct.fill(path, part.start, part.targets if part.take is None else (data,))
        if found is not None and part.take is not None:
            part.take(data)
        return None if found is None else Stat(*found)

    def _read_through(self, path: str, start: int, parts: Iterable[Part]) -> Stat | None:
        """Read parts from one stream of the object; the first begins at `start`."""
        with self._translated(path, "read"):
            size, version, chunks = self._stream(path, start, sys.maxsize)
        first, chunk = start, memoryview(b"")
        for part in parts:
            position, stop = part.start, part.start + part.nbytes
            if stop > size:
                return None
            found = []
            while position < stop:
                if position >= first + len(chunk):
                    with self._translated(path, "read"):
                        first, chunk = next(chunks)
                    continue
                found.append(chunk[position - first : stop - first])
                position += len(found[-1])
            part.put(memoryview(b"".join(found)))
        return Stat(size, version)

    def _stat(self, path: str) -> Stat:
        # Not a HEAD: its answer has no error code to tell a missing object from a missing bucket.
        answer = self._get(path, 0, 1)
        return Stat(answer.size, answer.version)


def _fill(buffers: Sequence[Buffer], data: memoryview, nbytes: int) -> bool:
    """Fill the buffers with `data` if those are `nbytes` long; return whether they are."""
    if len(data) != nbytes:
        return False
    for buffer in buffers:
        buffer[:] = data[: len(buffer)]
        data = data[len(buffer) :]
    return True
