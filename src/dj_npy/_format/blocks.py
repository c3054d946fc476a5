"""Arrays inserted block by block: from a generator, another process or an acquisition."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from dj_npy._errors import ArrayInvalidError
from dj_npy._format import npyfile
from dj_npy._format.accepted import check_array, check_dtype
from dj_npy._format.npyfile import AnyArray, Header
from dj_npy._text import kind_of


class Blocks:
    """
    An array to insert that is not in memory: blocks of rows, written as they arrive.

    Parameters
    ----------
    shape : tuple of int
        Shape of the whole array; at least one axis.
    dtype : dtype or str
        Dtype of the array and of each block.
    blocks : iterable of array
        Consecutive blocks along the first axis, of any lengths: shape ``(n, *shape[1:])``.
        Anything that NumPy converts to an array of that dtype, such as a Dask array's blocks.
        The memory of a block may be reused for the next. Iterated once, in the thread that
        inserts.

    Raises
    ------
    ArrayInvalidError
        If there can be no such array. An insert raises it, and leaves nothing, if a block has
        another dtype or shape, or if the blocks have fewer or more rows than the shape says. An
        error of `blocks` itself is raised by the insert.

    Examples
    --------
    >>> frames = (np.full((10, 64, 64), i, "uint16") for i in range(100))
    >>> row = {"recording_id": 2, "movie": Blocks((1000, 64, 64), "uint16", frames)}
    """

    def __init__(self, shape: Iterable[int], dtype: Any, blocks: Iterable[Any]) -> None:
        # An array, perhaps a large one, is no shape.
        is_several = isinstance(shape, Iterable) and getattr(shape, "ndim", 1) == 1
        if isinstance(shape, str | bytes) or not is_several:
            raise _no_shape(kind_of(shape))
        try:
            self.shape = tuple(int(n) if isinstance(n, np.integer) else n for n in shape)
            self.dtype: np.dtype[Any] = np.dtype(dtype)
        except TypeError as error:
            raise ArrayInvalidError(f"Blocks(shape, dtype, blocks): {error}") from None
        if not self.shape or not npyfile.is_shape(self.shape, self.dtype.itemsize):
            raise _no_shape(f"{self.shape!r:.80}")
        check_dtype(self.dtype)
        if not isinstance(blocks, Iterable) or isinstance(blocks, str | bytes | Mapping):
            raise ArrayInvalidError(
                f"the blocks of Blocks must be an iterable of arrays, not {kind_of(blocks)}"
            )
        is_array = getattr(blocks, "dtype", np.dtype(object)) != np.dtype(object)
        if is_array and getattr(blocks, "ndim", 0) == len(self.shape):  # its rows are no blocks
            raise ArrayInvalidError(
                f"the blocks of Blocks must be an iterable of arrays, not {kind_of(blocks)}: insert"
                f" it itself, without Blocks; for parts of a stored array, use ref.blocks()"
            )
        self._blocks = blocks

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def header(self) -> Header:
        """Header of its file: always C order."""
        length = len(npyfile.header_bytes(self.dtype, self.shape, False))
        return Header(self.dtype, self.shape, False, length)

    def __iter__(self) -> Iterator[memoryview]:
        """Yield the bytes of its file, in pieces."""
        # Buffered, as a block may be a few bytes, and copied, as its memory may be reused.
        piece = bytearray(npyfile.header_bytes(self.dtype, self.shape, False))
        rows = 0
        for value in self._blocks:
            block = self._as_block(value, rows)
            rows += len(block)
            for part in npyfile.pieces_in_c_order(block):
                piece += part
                if len(piece) >= npyfile.PIECE:
                    yield memoryview(piece)
                    piece = bytearray()
        yield memoryview(piece)
        if rows != self.shape[0]:
            raise ArrayInvalidError(
                f"the blocks of an array of shape {self.shape} were {rows} rows in all"
            )

    def __repr__(self) -> str:
        return f"Blocks(shape={self.shape}, dtype={self.dtype})"

    def _as_block(self, value: Any, rows: int) -> AnyArray:
        if not isinstance(value, np.ndarray) and hasattr(value, "__array__"):
            value = np.asarray(value)
        check_array(value)
        block: AnyArray = value
        if block.ndim != len(self.shape) or block.shape[1:] != self.shape[1:]:
            axes = ", ".join(("n", *map(str, self.shape[1:])))
            raise ArrayInvalidError(
                f"a block must have shape ({axes}), as its array is to have shape {self.shape}; "
                f"the one after {rows} rows has shape {block.shape}"
            )
        if block.dtype != self.dtype:
            raise ArrayInvalidError(
                f"a block must have dtype {self.dtype}, as its array; the one after {rows} rows "
                f"has {block.dtype}"
            )
        if rows + len(block) > self.shape[0]:
            raise ArrayInvalidError(
                f"the blocks of an array of shape {self.shape} are {rows + len(block)} rows or more"
            )
        return block


def _no_shape(given: str) -> ArrayInvalidError:
    return ArrayInvalidError(
        f"the shape of Blocks is a tuple of one or more lengths, not {given}: "
        f"Blocks((1000, 64, 64), 'uint16', blocks)"
    )
