"""HTTP as uvicorn speaks it, with time limits: anybody on this machine can connect."""

import time
from asyncio import TimerHandle, Transport

from uvicorn.protocols.http.h11_impl import H11Protocol

_ASK_S = 10
"""Seconds until a connection has sent all headers of a request, of its first or of the next."""
_READ_S = 60
"""Seconds that a client may read nothing of an answer, or hardly anything."""


class Protocol(H11Protocol):
    """
    A connection that is closed if its client is too slow.

    When there are too many, the one goes that has been waited for longest. So whoever opens
    connections again and again does not keep the user out.
    """

    _timer: TimerHandle | None = None
    _waits_since = 0.0

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Wait for a request."""
        super().connection_made(transport)
        self._close_after(_ASK_S)
        # At the limit, uvicorn would answer each request by 503.
        if len(self.connections) >= (self.limit_concurrency or 0):
            own = [each for each in self.connections if isinstance(each, Protocol)]
            waiting = [each for each in own if each._timer is not None]  # for their clients
            min(waiting, key=lambda each: each._waits_since)._close()

    def handle_events(self) -> None:
        """Wait for the answer, if all headers are there."""
        super().handle_events()
        if self.cycle and not self.cycle.response_complete:
            self._close_after(None)

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._close_after(_ASK_S)
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Wait for the client to read."""
        super().pause_writing()
        self._close_after(_READ_S)

    def _close_after(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if seconds is not None:
            self._waits_since = time.monotonic()
            self._timer = self.loop.call_later(seconds, self._close)

    def _close(self) -> None:
        self._close_after(None)
        self.connections.discard(self)
        self.transport.abort()
