"""What a plan asks of a store: parts of a file, within limits that the store names."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Limits(NamedTuple):
    """In what portions a store is best read, in bytes."""

    gap: int
    """Between two runs: up to here it is read rather than asked around."""
    part: int
    """Most that is read at once; only a single element may be larger."""
    runs: int = 1
    """How many runs may be put together in a part."""


class Part(NamedTuple):
    """Some bytes of a file, to be read at once, and what becomes of them."""

    start: int
    nbytes: int
    """At least one."""
    targets: Sequence[memoryview]
    """Memory that they fill, one piece after the other."""
    take: Callable[[memoryview], object] | None = None
    """
    Called with the bytes instead of filling `targets`; perhaps in another thread, and with
    memory that is used again afterwards.
    """
    runs: Sequence[tuple[int, int]] = ()
    """Where the bytes begin, and how many, if they are of several runs; only for `take`."""

    def put(self, data: memoryview) -> None:
        """Put the bytes where they belong."""
        if self.take is not None:
            self.take(data)
            return
        for target in self.targets:
            # NumPy lets other threads run while it copies; a memoryview does not.
            np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(data[: len(target)], np.uint8))
            data = data[len(target) :]
