"""Contents as they pass by: counted, cut to buffers, and what was raised in making them."""

from collections.abc import Iterable, Iterator, Sequence

from dj_npy._errors import ArrayInvalidError


def targets(buffers: Sequence[memoryview], offset: int, length: int) -> Iterator[memoryview]:
    """Yield the parts of the buffers that bytes `offset` to `offset + length` of them all are."""
    for buffer in buffers:
        if part := buffer[offset : offset + length]:
            yield part
        length -= len(part)
        offset = max(0, offset - len(buffer))


class Made:
    """Pieces, and what was raised in making them."""

    def __init__(self, pieces: Iterable[memoryview]) -> None:
        self._pieces = pieces
        self.failure: BaseException | None = None

    def __iter__(self) -> Iterator[memoryview]:
        try:
            yield from self._pieces
        except GeneratorExit:
            raise
        except BaseException as error:
            self.failure = error
            raise


def counted(pieces: Iterable[memoryview], nbytes: int) -> Iterator[memoryview]:
    """Pass the pieces on, and raise if they are not `nbytes` in all."""
    left = nbytes
    for piece in pieces:
        left -= len(piece)
        if left < 0:
            break
        yield piece
    if left:
        raise ArrayInvalidError(
            f"expected {nbytes} bytes to store, found {'more' if left < 0 else nbytes - left}. "
            f"Nothing was stored"
        )
