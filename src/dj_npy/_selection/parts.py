"""Parts of a file that a plan reads, within the limits of a store."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np


class Limits(NamedTuple):
    """Sizes in which a store is best read, in bytes."""

    gap: int
    """Largest gap between two runs that is merged into one read."""
    part: int
    """Largest read; only a single element may be larger."""
    runs: int = 1
    """Most runs that one part may combine."""


class Part(NamedTuple):
    """A byte range of a file to read at once, and where the bytes go."""

    start: int
    nbytes: int
    """At least one."""
    targets: Sequence[memoryview]
    """Buffers to fill, one after the other."""
    take: Callable[[memoryview], object] | None = None
    """
    Called with the bytes instead of filling `targets`; perhaps in another thread, and with
    memory that is reused afterwards.
    """
    runs: Sequence[tuple[int, int]] = ()
    """Start and length of each run, if there are several; only with `take`."""

    def put(self, data: memoryview) -> None:
        """Copy the bytes to the targets, or pass them to `take`."""
        if self.take is not None:
            self.take(data)
            return
        for target in self.targets:
            # NumPy releases the GIL while it copies; a memoryview does not.
            np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(data[: len(target)], np.uint8))
            data = data[len(target) :]


def contiguous_shape(
    shape: Sequence[int], itemsize: int, slowest_first: Iterable[int], limit: int
) -> tuple[int, ...]:
    """Return the shape of a contiguous block of at most `limit` bytes, or of one element."""
    lengths = list(shape)
    step = math.prod(shape) * itemsize
    for axis in slowest_first:
        if step <= limit:
            break
        step //= shape[axis]
        lengths[axis] = max(1, limit // step)
    return tuple(lengths)


def boxes(wanted: range, shape: Sequence[int]) -> Iterator[tuple[int | slice, ...]]:
    """Yield indexes of the few boxes that make up consecutive elements, counted in C order."""
    start = wanted.start
    while start < wanted.stop:
        axis, size = len(shape) - 1, 1
        # Of the axes, the slowest along which a step starts here and is wanted as a whole.
        while axis and start % (size * shape[axis]) == 0:
            if wanted.stop - start < size * shape[axis]:
                break
            size *= shape[axis]
            axis -= 1
        *before, first = map(int, np.unravel_index(start, shape)[: axis + 1])
        count = min(shape[axis] - first, (wanted.stop - start) // size)
        yield (*before, slice(first, first + count))
        start += count * size
