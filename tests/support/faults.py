"""A proxy of our own in front of a real server: it counts the requests, and does harm when told."""

import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Request:
    """What a client asked for."""

    method: str
    path: str
    query: str
    range: str | None
    length: int
    condition: str | None
    headers: dict[str, str] = field(default_factory=dict)
    """With names in lower case."""
    client: str = ""
    """The address that it came from."""

    @property
    def is_conditional(self) -> bool:
        return bool({"if-match", "if-none-match"} & self.headers.keys())

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Fault:
    """
    What is done to a request; nothing, if all is left as it is.

    `status` answers in the server's place. `lose` hands the request on and resets the
    connection instead of answering; `reset` does so at once. `cut` sends that many bytes of
    the body, then resets. `stall` waits that many seconds before the first byte of the body.
    `late` hands the request on and then answers with that status, as if it had failed.
    `whole` hides the range from the server, which so answers with 200 and everything;
    `other` asks it for another range.
    `chunked` sends the body in chunks, without a length. `drip` sends the head byte by byte,
    one in so many seconds; `again` says ``100 Continue`` without end.
    `slow` takes that many seconds to read what the client sends. `headers` are those of the
    answer that are others; None: it has none of that name.
    """

    status: int = 0
    code: str = "SlowDown"
    message: str = ""
    lose: bool = False
    reset: bool = False
    cut: int | None = None
    stall: float = 0
    late: int = 0
    whole: bool = False
    other: str = ""
    slow: float = 0
    chunked: bool = False
    drip: float = 0
    again: bool = False
    headers: dict[str, str | None] = field(default_factory=dict)


@dataclass
class Proxy:
    """A running proxy: where it is, what it has seen, and what it does next."""

    endpoint: str
    requests: list[Request] = field(default_factory=list)
    harm: Callable[[Request], Fault] = lambda request: Fault()

    def times(self, count: int, fault: Fault, method: str = "", name: str = "") -> None:
        """Do harm to the next `count` requests of that method and name, and to no other."""
        left = [count]
        lock = threading.Lock()

        def harm(request: Request) -> Fault:
            with lock:
                fits = method in ("", request.method) and name in ("", request.name)
                if not fits or left[0] == 0:
                    return Fault()
                left[0] -= 1
                return fault

        self.harm = harm

    def asked(self, method: str = "", name: str = "") -> list[Request]:
        """The requests of that method and name so far."""
        return [
            request
            for request in self.requests
            if method in ("", request.method) and name in ("", request.name)
        ]


@contextmanager
def proxy_of(endpoint: str, address: str = "127.0.0.1") -> Iterator[Proxy]:
    """A proxy in front of the server at `endpoint`, ``http://host:port``."""
    upstream = urlsplit(endpoint).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except (ConnectionError, TimeoutError):
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

        def do_any(self) -> None:
            target = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            request = Request(
                self.command,
                target.path,
                target.query,
                self.headers.get("Range"),
                length,
                self.headers.get("If-None-Match"),
                {name.lower(): value for name, value in self.headers.items()},
                str(self.client_address[0]),
            )
            proxy.requests.append(request)
            fault = proxy.harm(request)
            if fault.reset:
                self.drop()
                return
            body = self.body(length, fault.slow)
            reason = f"<Message>{fault.message}</Message>" if fault.message else ""
            failed = f"<Error><Code>{fault.code}</Code>{reason}</Error>".encode()
            if fault.status:
                self.answer(fault.status, {}, failed, fault)
                return
            headers = dict(self.headers.items())
            if fault.whole or fault.other:
                headers = {k: v for k, v in headers.items() if k.lower() != "range"}
            if fault.other:
                headers["Range"] = fault.other
            connection = http.client.HTTPConnection(upstream, timeout=60)
            try:
                connection.putrequest(self.command, self.path, skip_host=True)
                for name, value in headers.items():
                    if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                        connection.putheader(name, value)
                if body or self.command in ("PUT", "POST"):
                    connection.putheader("Content-Length", str(len(body)))
                connection.endheaders(body or None)
                response = connection.getresponse()
                answer = response.read()
            finally:
                connection.close()
            if fault.lose:
                self.drop()
                return
            if fault.late:
                self.answer(fault.late, {}, failed, fault)
                return
            self.answer(response.status, dict(response.getheaders()), answer, fault)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_any

        def body(self, length: int, slow: float) -> bytes:
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                parts = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            if not slow:
                return self.rfile.read(length)
            parts = []
            for n in range(10):
                parts.append(self.rfile.read(length * (n + 1) // 10 - length * n // 10))
                time.sleep(slow / 10)
            return b"".join(parts)

        def answer(self, status: int, headers: dict[str, str], body: bytes, fault: Fault) -> None:
            try:
                while fault.again:
                    self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                    time.sleep(0.01)
                if fault.drip:
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
                while fault.drip:
                    self.wfile.write(b"x")
                    time.sleep(fault.drip)
            except OSError:
                self.close_connection = True
                return
            self.send_response_only(status)
            told = {name.lower(): value for name, value in headers.items()}
            told.setdefault("content-length", str(len(body)))
            if fault.chunked:
                del told["content-length"]
                self.send_header("Transfer-Encoding", "chunked")
            changed = {name.lower(): value for name, value in fault.headers.items()}
            for name, value in (told | changed).items():
                if name not in ("connection", "transfer-encoding") and value is not None:
                    self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            if fault.stall:
                self.wfile.flush()
                time.sleep(fault.stall)
            if fault.cut is not None:
                chunk = b"%x\r\n" % len(body) if fault.chunked else b""
                self.wfile.write(chunk + body[: fault.cut])
                self.wfile.flush()
                self.drop()
                return
            if not fault.chunked:
                self.wfile.write(body)
                return
            for start in range(0, len(body), 1 << 20):
                piece = body[start : start + (1 << 20)]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")

        def drop(self) -> None:
            # Linger of 0 seconds: a reset instead of an orderly end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # the client has gone, or we have dropped it

    server = Server((address, 0), Handler)
    proxy = Proxy(f"http://{address}:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
