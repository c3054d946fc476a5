"""Pieces of a file: counted, cut to buffers, with errors of their source recorded."""

from collections.abc import Iterable, Iterator, Sequence

from dj_npy._errors import ArrayInvalidError


def targets(buffers: Sequence[memoryview], offset: int, length: int) -> Iterator[memoryview]:
    """Yield the slices of `buffers` for bytes `offset` to `offset + length` of them all."""
    for buffer in buffers:
        if part := buffer[offset : offset + length]:
            yield part
        length -= len(part)
        offset = max(0, offset - len(buffer))


class RecordedPieces:
    """Pieces, and the error that their source raised."""

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
    """Yield the pieces, and raise if their total is not `nbytes`."""
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
