"""HTTP as uvicorn speaks it, with time limits: anybody on this machine can connect."""

from asyncio import TimerHandle, Transport

from uvicorn.protocols.http.h11_impl import H11Protocol

_ASK_S = 10
"""Seconds until a connection has sent all headers of a request, of its first or of the next."""
_READ_S = 60
"""Seconds that a client may read nothing of an answer, or hardly anything."""


class Protocol(H11Protocol):
    """A connection that is closed if there are too many, or if its client is too slow."""

    _timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Wait for a request."""
        super().connection_made(transport)
        self._close_after(_ASK_S)
        if len(self.connections) > (self.limit_concurrency or 0):
            transport.abort()

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
            self._timer = self.loop.call_later(seconds, self.transport.abort)
