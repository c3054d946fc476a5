"""HTTP requests with a deadline, however slowly a server answers."""

import io
import socket
import time
from functools import partial
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.request import HTTPHandler, HTTPSHandler, Request, build_opener

from dj_npy._stores.environment import Proxies, tls


class _Timed(socket.SocketIO):
    """Reads from a socket, each with the same deadline."""

    def __init__(self, sock: socket.socket, until: float) -> None:
        super().__init__(sock, "r")
        self._own, self._silence_s, self._until = sock, sock.gettimeout(), until

    def readinto(self, buffer: Any) -> int | None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the server has not answered in time")
        self._own.settimeout(left if self._silence_s is None else min(left, self._silence_s))
        return super().readinto(buffer)


class Timed(HTTPConnection):
    """A connection whose answers, headers included, arrive by `until`, or raise an error."""

    until = 0.0

    def response_class(  # type: ignore[override]
        self, sock: socket.socket, *args: Any, **options: Any
    ) -> HTTPResponse:
        """Return a response that is read by the deadline."""
        response = HTTPResponse(sock, *args, **options)
        response.fp.close()
        sock._io_refs += 1  # type: ignore[attr-defined]  # as `makefile` does
        response.fp = io.BufferedReader(_Timed(sock, self.until))
        return response


class Connection(Timed):
    """The same, with the deadline as an argument."""

    def __init__(self, *args: Any, until: float = 0, **options: Any) -> None:
        super().__init__(*args, **options)
        self.until = until


class SecureConnection(Connection, HTTPSConnection):
    """The same over TLS."""


def open_url(request: Request, silence_s: float, until: float, proxy: str | None = None) -> Any:
    """As `urllib.request.urlopen`, with a deadline `until` for the answer and its redirects."""

    class Plain(HTTPHandler):
        def http_open(self, request: Request) -> HTTPResponse:
            return self.do_open(partial(Connection, until=until), request)

    class Secure(HTTPSHandler):
        def https_open(self, request: Request) -> HTTPResponse:
            made = partial(SecureConnection, until=until, context=tls())
            return self.do_open(made, request)

    opener = build_opener(Plain, Secure, Proxies(proxy))
    return opener.open(request, timeout=silence_s)
