"""HTTP requests that end in time, however slowly a server answers."""

import io
import socket
import time
from functools import partial
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.request import HTTPHandler, HTTPSHandler, Request, build_opener


class _Timed(socket.SocketIO):
    """Bytes from a socket, none of which is waited for beyond a time."""

    def __init__(self, sock: socket.socket, silence_s: float, until: float) -> None:
        super().__init__(sock, "r")
        self._own, self._silence_s, self._until = sock, silence_s, until

    def readinto(self, buffer: Any) -> int | None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the server has not answered in time")
        self._own.settimeout(min(left, self._silence_s))
        return super().readinto(buffer)


class _Plain(HTTPConnection):
    """A connection whose answers, head included, are there `until` then, or an error is."""

    until: float

    def __init__(self, *args: Any, **options: Any) -> None:
        until = options.pop("until", None)
        super().__init__(*args, **options)
        if until is not None:
            self.until = until
        self.response_class = self._timed  # type: ignore[assignment, method-assign]

    def _timed(self, sock: socket.socket, *args: Any, **options: Any) -> HTTPResponse:
        response = HTTPResponse(sock, *args, **options)
        response.fp.close()
        sock._io_refs += 1  # type: ignore[attr-defined]  # as `makefile` does
        silence_s = sock.gettimeout() or self.until
        response.fp = io.BufferedReader(_Timed(sock, silence_s, self.until))
        return response


class _Secure(_Plain, HTTPSConnection):
    pass


Connection, SecureConnection = _Plain, _Secure


def opened(request: Request, silence_s: float, until: float) -> Any:
    """As `urllib.request.urlopen`: answer and redirections are there `until` then."""

    class Plain(HTTPHandler):
        def http_open(self, request: Request) -> HTTPResponse:
            return self.do_open(partial(_Plain, until=until), request)  # type: ignore[arg-type]

    class Secure(HTTPSHandler):
        def https_open(self, request: Request) -> HTTPResponse:
            made = partial(_Secure, until=until, context=self._context)  # type: ignore[attr-defined]
            return self.do_open(made, request)  # type: ignore[arg-type]

    return build_opener(Plain, Secure).open(request, timeout=silence_s)
