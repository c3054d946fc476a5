"""Read ranges of objects from a socket directly into an array's memory."""

import re
import ssl
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from http.client import HTTPException
from urllib.parse import SplitResult

from dj_npy._stores import remote
from dj_npy._stores.deadline import Connection, SecureConnection
from dj_npy._stores.environment import tls
from dj_npy._stores.pace import Pace

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")  # RFC 9110, section 14.4


class Direct:
    """
    Reads without the copy that a client makes when it returns bytes.

    It is tried first and may always decline: any answer but the expected one is left to obstore,
    which retries and classifies errors.

    Parameters
    ----------
    sign : callable
        Returns a presigned URL for a path.
    pace : Pace
        Learns from the requests.
    """

    def __init__(self, sign: Callable[[str], SplitResult], pace: Pace) -> None:
        self._sign, self._pace = sign, pace
        self._idle: deque[Connection] = deque()
        weakref.finalize(self, _close, self._idle).atexit = False
        self._secure: ssl.SSLContext | None = None
        self.works = True

    def fill(self, path: str, start: int, targets: Sequence[memoryview]) -> tuple[int, str] | None:
        """
        Fill `targets`, one after the other, starting at byte `start` of an object.

        Returns the object's size and version, or None; then the contents of `targets` are
        undefined.
        """
        url = self._sign(path)
        while self._idle:  # the server may have closed idle connections
            try:
                return self._request(self._idle.pop(), url, start, targets)
            except (ConnectionError, HTTPException, IndexError):
                continue
            except OSError:  # a time-out, which a new connection would not fix
                return None
        try:
            return self._request(self._connect(url), url, start, targets)
        except (OSError, HTTPException):
            return None

    def _connect(self, url: SplitResult) -> Connection:
        if url.scheme == "http":
            connection = Connection(url.netloc, timeout=remote.CONNECT_TIMEOUT_S)
        else:
            if self._secure is None:
                self._secure = tls()
            connection = SecureConnection(
                url.netloc, timeout=remote.CONNECT_TIMEOUT_S, context=self._secure
            )
        connection.connect()
        return connection

    def _request(
        self,
        connection: Connection,
        url: SplitResult,
        start: int,
        targets: Sequence[memoryview],
    ) -> tuple[int, str] | None:
        stop = start + sum(map(len, targets))
        whole = False
        # One deadline for the whole request: a server may also send its headers slowly.
        connection.until = time.monotonic() + remote.REQUEST_S
        try:
            if connection.sock is None:  # the server closed it after its last answer
                connection.connect()
            connection.sock.settimeout(remote.SILENCE_S)
            asked = time.monotonic()  # and not after: another thread may have its turn in between
            connection.request(
                "GET", f"{url.path}?{url.query}", headers={"Range": f"bytes={start}-{stop - 1}"}
            )
            response = connection.getresponse()
            self._pace.answered(time.monotonic() - asked)
            content_range = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if response.status != 206 or content_range is None:
                if response.status in (429, 503):
                    self._pace.refused()
                self.works = response.status in (404, 416, 429) or response.status >= 500
                return None
            if (int(content_range[1]), int(content_range[2])) != (start, stop - 1):
                return None
            for target in targets:
                while target:
                    count = response.readinto(target)
                    if not count:
                        return None
                    target = target[count:]
            whole = True
            return int(content_range[3]), response.headers.get("ETag", "")
        finally:
            if whole:
                self._idle.append(connection)
            else:
                connection.close()


def _close(connections: deque[Connection]) -> None:
    while connections:
        connections.pop().close()
