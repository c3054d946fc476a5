"""Who is let in, and what becomes of a request: bounded work, and none for who has gone."""

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from datajoint.errors import DataJointError

from dj_npy._concurrency.threads import CancelToken, Stopped, begun, current_token
from dj_npy._errors import ArrayCorruptError, ArrayInvalidError, ArrayMissingError
from dj_npy._stores.secret import Redactor
from dj_npy._view import arrays, movie
from dj_npy._view.answers import Answer, Refused, as_json, axis_of
from dj_npy._view.arrays import Arrays
from dj_npy._view.catalog import Catalog
from dj_npy._view.database import Database
from dj_npy._view.jobs import Jobs
from dj_npy._view.overview import Overviews
from dj_npy._view.trace import trace

logger = logging.getLogger("dj_npy")

WORKERS = 8
"""Requests that are worked on, or whose answers are being sent, at a time."""
_OF_JOBS = ("overview", "projection", "counts")
"""Requests that are about what goes on in the background."""
_PIECE = 1 << 20
_STATIC = Path(__file__).parent / "static"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".txt": "text/plain; charset=utf-8",
}
# H5Web compiles the parsers of its colour scales, which needs 'unsafe-eval'.
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "worker-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors "
)
_NOBODY, _NOTEBOOKS = "'none'", "http://127.0.0.1:* http://localhost:* vscode-webview:"
_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (ArrayInvalidError, 400),
    (ArrayMissingError, 409),
    (ArrayCorruptError, 409),
    (DataJointError, 502),  # a store that fails, or is not configured
    (MemoryError, 413),
)
_LONGEST = 2000
"""Most characters of an error."""

Params = Mapping[str, str]
Scope = Mapping[str, Any]
Receive = Callable[[], Any]
Send = Callable[[Any], Any]


class App:
    """
    The server's ASGI application.

    Parameters
    ----------
    database : Database
        Where rows are.
    token : str
        What a request must know.
    port : int
        Where it listens, on the loopback interface.
    schemas, prelude
        As for `Catalog` and `Arrays`.
    version : str
        Of the package.
    """

    def __init__(
        self,
        database: Database,
        token: str,
        port: int,
        *,
        schemas: tuple[str, ...],
        prelude: tuple[str, ...],
        version: str,
    ) -> None:
        self.database, self._token = database, token
        self.in_notebook = False
        """Whether the page may be shown within the page of a notebook."""
        self._hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")}
        self._catalog, self._jobs = Catalog(database, schemas), Jobs()
        self._overviews = Overviews(self._jobs)
        self.arrays = Arrays(self._catalog, database.config, prelude)
        self._files = dict(_page())
        self._turns = asyncio.Semaphore(WORKERS)
        listing = self._catalog.listing
        self._routes: dict[tuple[str, str], Callable[[Params], Answer]] = {
            ("GET", "schemas"): lambda _: as_json({**listing.schemas(), "version": version}),
            ("GET", "counts"): lambda _: as_json(listing.counts()),
            ("GET", "table"): lambda p: as_json(self._catalog.describe(p.get("table", ""))),
            ("GET", "rows"): lambda p: as_json(self._catalog.rows(p)),
            ("GET", "array"): lambda p: as_json(arrays.info(self.arrays.find(p, anew=True))),
            ("GET", "trace"): lambda p: trace(self.arrays.find(p), p, self._overviews),
            ("GET", "overview"): lambda p: self._overview(p, self._overviews.state),
            ("POST", "overview"): lambda p: self._overview(p, self._overviews.start),
            ("GET", "frame"): lambda p: movie.frame(self.arrays.find(p), p),
            ("GET", "frames"): lambda p: movie.frames(self.arrays.find(p), p),
            ("GET", "series"): lambda p: movie.series(self.arrays.find(p), p),
            ("GET", "projection"): lambda p: movie.projection(self.arrays.find(p), p, self._jobs),
            ("GET", "slice"): lambda p: arrays.part(self.arrays.find(p), p),
            ("GET", "code"): lambda p: as_json({"code": arrays.code(self.arrays.find(p), p)}),
            ("GET", "export"): lambda p: arrays.export(self.arrays.find(p), p),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers = {
            name.decode("latin1"): value.decode("latin1") for name, value in scope["headers"]
        }
        path: str = scope["path"]
        if refusal := self._refusal(path, headers):
            await self._send(send, refusal, path)
            return
        if not path.startswith("/api/"):
            await self._send(send, self._file(scope["method"], path, headers), path)
            return
        gone: asyncio.Future[Any] = asyncio.ensure_future(_gone(receive))
        try:
            async with self._turns:
                if gone.done():
                    return
                token = CancelToken()
                work = partial(
                    self._answer, scope["method"], path[5:], scope["query_string"], token
                )
                call: asyncio.Future[Any] = asyncio.wrap_future(begun(work))
                await asyncio.wait({gone, call}, return_when=asyncio.FIRST_COMPLETED)
                if not call.done():
                    token.stopped = True
                    await asyncio.wait({call})  # it has its turn until it has ended
                    return
                await self._send(send, call.result(), path)
        finally:
            gone.cancel()

    def close(self) -> None:
        """End the work in the background, and close the connections."""
        self._jobs.close()
        self.database.close()

    def _refusal(self, path: str, headers: Mapping[str, str]) -> Answer | None:
        """Return why a request is not even looked at."""
        if headers.get("host", "").lower() not in self._hosts:
            return as_json({"error": f"this server answers at {min(self._hosts)} only"}, 400)
        if not path.startswith("/api/"):
            return None
        origin = headers.get("origin", "").lower()
        if origin and origin.removeprefix("http://") not in self._hosts:
            return as_json({"error": "this server answers no other site's page"}, 400)
        given = headers.get("authorization", "").encode()
        if not hmac.compare_digest(given, f"token {self._token}".encode()):
            sentence = "the address lacks the token: open the one that dj-npy view has printed"
            return as_json({"error": sentence}, 401)
        return None

    def _answer(self, method: str, name: str, query: bytes, token: CancelToken) -> Answer:
        """Answer in a thread."""
        current_token.set(token)
        try:
            route = self._routes.get((method, name))
            if route is None:
                raise Refused(404, f"the server has no {method} /api/{name:.40}")
            params = dict(parse_qsl(query.decode("latin1"), keep_blank_values=True))
            with nullcontext() if name in _OF_JOBS else self._jobs.aside():
                return route(params)
        except Stopped:
            return Answer(())  # nobody waits for it
        except Exception as error:
            return as_json({"error": self._told(error)}, _status(error))

    def _told(self, error: Exception) -> str:
        """Return a sentence for the page, without what is nobody's business there."""
        if isinstance(error, Refused | DataJointError | MemoryError):
            text = " ".join(str(error).split())
        else:
            logger.error("dj-npy view: an error of its own", exc_info=error)
            text = f"an error of the server's own ({type(error).__name__}): its terminal says more"
        own = {"password": self.database.password, "token": self._token}
        for settings in (own, *self.database.config.stores.values()):
            if isinstance(settings, Mapping):
                text = Redactor(dict(settings)).redact(text)
        return text[:_LONGEST]

    def _overview(self, params: Params, do: Callable[[Any, int], dict[str, Any]]) -> Answer:
        shown = self.arrays.find(params)
        return as_json(do(shown, axis_of(params, shown.ref.ndim)))

    def _file(self, method: str, path: str, headers: Mapping[str, str]) -> Answer:
        """Return a file of the page: they are in memory, so that no path leads elsewhere."""
        name = "index.html" if path == "/" else path.removeprefix("/")
        if method != "GET" or name not in self._files:
            return Answer((b"not here\n",), "text/plain; charset=utf-8", 404)
        contents, tag = self._files[name]
        kept = (("ETag", tag), ("Cache-Control", "no-cache"))
        if headers.get("if-none-match") == tag:
            return Answer((), _TYPES[Path(name).suffix], 304, kept)
        return Answer((contents,), _TYPES[Path(name).suffix], 200, kept)

    async def _send(self, send: Send, answer: Answer, path: str) -> None:
        headers = [
            ("Content-Type", answer.media_type),
            ("Content-Length", str(answer.nbytes)),
            ("Content-Security-Policy", _POLICY + (_NOTEBOOKS if self.in_notebook else _NOBODY)),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
            *answer.headers,
        ]
        if path.startswith("/api/"):
            headers.append(("Cache-Control", "no-store"))
        coded = [(name.lower().encode(), value.encode("latin1")) for name, value in headers]
        await send({"type": "http.response.start", "status": answer.status, "headers": coded})
        for piece in answer.pieces:
            for start in range(0, len(piece), _PIECE):
                body = bytes(piece[start : start + _PIECE])
                await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _gone(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _status(error: Exception) -> int:
    if isinstance(error, Refused):
        return error.status
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def _page() -> Any:
    """Yield the name, the contents and the tag of each file of the page."""
    for path in sorted(_STATIC.rglob("*")):
        if path.is_file() and path.suffix in _TYPES:
            contents = path.read_bytes()
            tag = f'"{hashlib.sha256(contents).hexdigest()[:32]}"'
            yield path.relative_to(_STATIC).as_posix(), (contents, tag)
