"""How far away a store is, told by its own answers, and what follows for its requests."""

import math
import time

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_WINDOW_S = 10
"""How long the least delay is believed."""
_REQUEST_S = 0.0005
"""What a request of some MiB costs the processor; while one waits, others are sent."""
_LEAST, _MOST = 8, 64
"""Requests in flight: a near store gains nothing from more than 8, a machine from more than 64."""
_MOST_SMALL = 256
"""Small requests in flight, or a quarter of the files that the process may have open."""
_PROMPT = 2
"""An answer that took so many times the least delay did not wait for others."""
_GROWTH = 0.1
"""By how much the limit grows each time that as many requests were accepted."""
_ONE_REFUSAL_S = 0.05
"""Refusals within this time, or within two delays, count as one."""
_FORGIVEN_S = 60
"""How long after the last refusal nothing limits the requests any more."""
_FAR_PART, _NEAR_PART = 1 << 20, 8 << 20
"""Smallest parts, in bytes, that a large read from a far store and a near one is cut into."""


class Pace:
    """
    The delay until the first byte of an answer, and how many requests it takes.

    As in TCP BBR (Cardwell et al., ACM Queue 14(5), 2016), the delay is the least of the last
    seconds: load only ever adds to it. Until a request has told, a store counts as near.
    A server that refuses requests because they are too many is sent half as many, and then slowly
    more, as TCP does. Thread-safe: an update that is lost is made good by the next.
    """

    def __init__(self) -> None:
        self.delay_s = 0.0
        self._believed_until = 0.0
        self._limit = float(_MOST_SMALL)
        self._writes = _MOST
        self._refused_at = -math.inf

    def answered(self, delay_s: float) -> None:
        """Note how long the first byte of an answer took."""
        now = time.monotonic()
        if delay_s < self.delay_s or now > self._believed_until:
            self.delay_s, self._believed_until = delay_s, now + _WINDOW_S

    def wrote(self, delay_s: float) -> None:
        """Note how long the answer to a small write took: where others waited, more are no help."""
        step = 1 if delay_s < _PROMPT * self.delay_s else -1
        self._writes = min(max(self._writes + step, _MOST), _MOST_SMALL)

    def accepted(self) -> None:
        """Note that one of many small requests was not refused."""
        self._limit = min(self._limit + _GROWTH / self._limit, _MOST_SMALL)

    def refused(self) -> None:
        """Note that the server has refused a request because there are too many."""
        now = time.monotonic()
        if now > self._refused_at + max(2 * self.delay_s, _ONE_REFUSAL_S):
            self._limit, self._refused_at = max(self.small_in_flight / 2, 1.0), now

    @property
    def small_in_flight(self) -> int:
        """How many small requests to have in flight."""
        is_forgiven = time.monotonic() > self._refused_at + _FORGIVEN_S
        limit = _MOST_SMALL if is_forgiven else int(self._limit)
        return int(min(limit, _max_open_files() / 4))

    @property
    def is_known(self) -> bool:
        """Whether there was any answer."""
        return self._believed_until > 0

    @property
    def in_flight(self) -> int:
        """How many large requests to have in flight."""
        wanted = min(max(_LEAST, int(self.delay_s / _REQUEST_S)), _MOST)
        return min(wanted, self.small_in_flight)

    @property
    def writes_in_flight(self) -> int:
        """How many small writes to have in flight: twice as many each time that all were prompt."""
        is_very_far = self.delay_s >= _MOST * _REQUEST_S
        return min(self._writes, self.small_in_flight) if is_very_far else self.in_flight

    @property
    def is_far(self) -> bool:
        """Whether waiting, more than anything else, is what requests cost."""
        return self.delay_s > _LEAST * _REQUEST_S

    @property
    def smallest_part(self) -> int:
        """Size in bytes below which parts of a large read cost more than they gain."""
        return _FAR_PART if self.is_far else _NEAR_PART

    def part(self, nbytes: int) -> int:
        """Return the size of the parts in which to read so many consecutive bytes."""
        return max(-(-nbytes // self.in_flight), self.smallest_part)


def _max_open_files() -> float:
    """Return how many files, connections among them, this process may have open."""
    if resource is None:
        return math.inf
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.inf if soft == resource.RLIM_INFINITY else max(soft, 32)
