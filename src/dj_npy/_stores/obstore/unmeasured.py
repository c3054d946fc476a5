"""Read from servers whose answers lack a size that obstore requires."""

import mmap
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from http.client import HTTPException
from typing import Any
from urllib.parse import SplitResult
from urllib.request import Request

from dj_npy._stores import remote
from dj_npy._stores.deadline import open_url
from dj_npy._stores.remote import Answer

_ATTEMPTS = 4
_BACK_OFF_S = 0.1


class Unmeasured:
    """
    Reads that count the bytes that arrive.

    Tried only after obstore has failed; returns None for any answer that is not complete.

    Parameters
    ----------
    sign : callable
        Returns a presigned URL for a path.
    proxy : str, optional
        URL of a proxy; default is the environment's.
    """

    def __init__(self, sign: Callable[[str], SplitResult], proxy: str | None) -> None:
        self._sign, self._proxy = sign, proxy

    def part(self, path: str, start: int, stop: int) -> Answer | None:
        """Return bytes `start` to `stop`, or fewer at the end; None without an exact answer."""
        return self._request(path, f"bytes={start}-{stop - 1}", lambda answer: _part(answer, start))

    def whole(self, path: str) -> Answer | None:
        """Return a whole object, in a temporary file."""
        return self._request(path, None, _whole)

    def _request(
        self, path: str, byte_range: str | None, use: Callable[[Any], Answer | None]
    ) -> Answer | None:
        for attempt in range(_ATTEMPTS):
            url = self._sign(path).geturl()
            request = Request(url, headers={"Range": byte_range} if byte_range else {})
            until = time.monotonic() + remote.REQUEST_S
            try:
                with open_url(request, remote.SILENCE_S, until, self._proxy) as answer:
                    return use(answer)
            except (OSError, HTTPException) as error:
                is_final = isinstance(getattr(error, "code", None), int)
                if is_final or attempt + 1 == _ATTEMPTS or time.monotonic() > until:
                    return None
                time.sleep(_BACK_OFF_S * 2**attempt)
        return None


def _part(answer: Any, start: int) -> Answer | None:
    content_range = re.fullmatch(
        r"bytes (\d+)-(\d+)/(\d+)", answer.headers.get("Content-Range", "")
    )
    if answer.status != 206 or content_range is None or int(content_range[1]) != start:
        return None
    data = answer.read()
    if len(data) != int(content_range[2]) + 1 - start:
        raise HTTPException("cut short")
    return Answer(data, int(content_range[3]), answer.headers.get("ETag", ""))


def _whole(answer: Any) -> Answer | None:
    # Without a length or chunks, a complete answer cannot be told from one that was cut.
    if answer.status != 200 or not (answer.chunked or answer.length is not None):
        return None
    with tempfile.TemporaryFile() as file:
        while data := answer.read(remote.PART):
            file.write(data)
        file.flush()
        size = file.tell()
        kept = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b""
    return Answer(memoryview(kept), size, answer.headers.get("ETag", ""))


def chunks_of(data: memoryview, start: int, stop: int) -> Iterator[tuple[int, memoryview]]:
    """Yield bytes `start` to `stop` in pieces, each with its offset."""
    for first in range(start, stop, remote.PART):
        yield first, data[first : min(first + remote.PART, stop)]
