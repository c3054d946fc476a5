"""How far away a store is, told by its own answers, and what follows for its requests."""

import time

_WINDOW_S = 10
"""How long the least delay is believed."""
_REQUEST_S = 0.0005
"""What a request of some MiB costs the processor; while one waits, others are sent."""
_LEAST, _MOST = 8, 64
"""Requests in flight: a near store gains nothing from more than 8, a machine from more than 64."""
_SMALL_PART, _PART = 2 << 20, 8 << 20
"""Smallest parts, in bytes, that a large read from a far store and a near one is cut into."""


class Pace:
    """
    The delay until the first byte of an answer, and how many requests of some MiB it takes.

    As in TCP BBR (Cardwell et al., ACM Queue 14(5), 2016), the delay is the least of the last
    seconds: load only ever adds to it. Until a request has told, a store counts as near.
    Thread-safe: an update that is lost is made good by the next.
    """

    def __init__(self) -> None:
        self.delay_s = 0.0
        self._believed_until = 0.0

    def answered(self, delay_s: float) -> None:
        """Note how long the first byte of an answer took."""
        now = time.monotonic()
        if delay_s < self.delay_s or now > self._believed_until:
            self.delay_s, self._believed_until = delay_s, now + _WINDOW_S

    @property
    def is_known(self) -> bool:
        """Whether there was any answer."""
        return self._believed_until > 0

    @property
    def in_flight(self) -> int:
        """How many large requests to have in flight."""
        return min(max(_LEAST, int(self.delay_s / _REQUEST_S)), _MOST)

    @property
    def is_far(self) -> bool:
        """Whether waiting, more than anything else, is what requests cost."""
        return self.in_flight > _LEAST

    def part(self, nbytes: int) -> int:
        """Return the size of the parts in which to read so many consecutive bytes."""
        return max(-(-nbytes // self.in_flight), _SMALL_PART if self.is_far else _PART)
