"""
The ``.npy`` format: headers, dtypes and the bytes of an array. Pure: no I/O.

Source of every rule here: the NumPy format specification, versions 1.0, 2.0 and 3.0
(https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html).
"""

import ast
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from dj_npy._errors import ArrayCorruptError, ArrayInvalidError
from dj_npy._text import printable

AnyArray = npt.NDArray[Any]
ReadBeginning = Callable[[int], tuple[bytes, int]]
"""Reads up to so many bytes from the start of a file; returns them and the file's size."""
Json = str | list[Any]

CHECKSUM = "xxh3_128:"
"""Prefix of a file's checksum; 32 hex digits follow, as printed by ``xxh128sum``."""
MAGIC = b"\x93NUMPY"
ALIGNMENT = 64
"""Data begin at a multiple of this many bytes."""
MAX_HEADER = 256 << 10
"""Longest header read, in bytes: a structured dtype of some 5,000 fields, parsed in under 1 s."""
MAX_DEPTH = 198
"""Deepest nesting of lists in a dtype; Python cannot parse a header with one more."""
FIRST_READ = 512
"""Bytes to read of a file with unknown header; enough for all but structured dtypes."""
MAX_AXES = 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32
"""Most axes that an array may have."""
PIECE = 256 << 10
"""
Bytes per piece when writing: just hashed, a piece is still in the CPU cache.

To hash and write 256 MB takes 32 ms in pieces of 256 KiB, 36 ms of 1 MiB, 42 ms of 128 KiB.
Pieces end at page boundaries of the file; unaligned ones cost a tenth more.
"""

PARSE_ERRORS = (
    *(ValueError, TypeError, SyntaxError, KeyError, IndexError, AttributeError, OverflowError),
    *(MemoryError, RecursionError, SystemError, Warning),
)
"""
What `ast.literal_eval` and `numpy.dtype` raise on hostile text.

Includes warnings that the user turned into errors. They are not silenced, as that would affect
all threads, perhaps permanently.
"""
_ATTEMPTS = 100
_MAX_QUOTED = 300
"""Characters of a file's or row's contents that a message may quote."""

_LENGTH_SIZE = {(1, 0): 2, (2, 0): 4, (3, 0): 4}
_ENCODING = {(1, 0): "latin1", (2, 0): "latin1", (3, 0): "utf8"}
# np.save leaves room for the first axis to grow to this many digits without a longer header.
_GROWTH_DIGITS = 21


@dataclass(frozen=True)
class Header:
    """Contents and length of a ``.npy`` header."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran_order: bool
    offset: int
    """Bytes before the data."""

    @cached_property  # one header is shared by thousands of arrays
    def nbytes(self) -> int:
        """Bytes of the data."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def file_size(self) -> int:
        """Bytes of the whole file."""
        return self.offset + self.nbytes

    @property
    def order(self) -> Any:  # NumPy's literal types differ between functions
        """Memory order: ``"F"`` or ``"C"``."""
        return "F" if self.fortran_order else "C"

    @property
    def strides(self) -> tuple[int, ...]:
        """Bytes in the file from one element to the next along each axis."""
        itemsize, shape, fortran = self.dtype.itemsize, self.shape, self.fortran_order
        return tuple(
            itemsize * math.prod(shape[:n] if fortran else shape[n + 1 :])
            for n in range(len(shape))
        )

    def __str__(self) -> str:
        return f"shape {self.shape}, dtype {self.dtype!s:.{_MAX_QUOTED}}"


def header_of(array: AnyArray) -> Header:
    """Return the header of `array`: Fortran order only if it is not C-contiguous as well."""
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    return Header(
        array.dtype, array.shape, fortran, len(header_bytes(array.dtype, array.shape, fortran))
    )


@lru_cache(maxsize=1024)
def header_bytes(dtype: np.dtype[Any], shape: tuple[int, ...], fortran_order: bool) -> bytes:
    """Return the header that ``np.save`` writes, byte for byte, padding included."""
    text = (
        f"{{'descr': {np.lib.format.dtype_to_descr(dtype)!r}, "
        f"'fortran_order': {fortran_order}, 'shape': {shape!r}, }}"
    )
    if shape:
        text += " " * (_GROWTH_DIGITS - len(repr(shape[-1 if fortran_order else 0])))
    for version, length_size in _LENGTH_SIZE.items():
        try:
            body = text.encode(_ENCODING[version])
        except UnicodeEncodeError:
            continue  # a field name outside latin1 needs version 3.0
        prefix_length = len(MAGIC) + 2 + length_size
        # NumPy pads by 64 bytes where no padding is needed.
        body += b" " * (ALIGNMENT - (prefix_length + len(body) + 1) % ALIGNMENT) + b"\n"
        if len(body) < 1 << 8 * length_size:
            return MAGIC + bytes(version) + len(body).to_bytes(length_size, "little") + body
    raise ArrayInvalidError("<npy> cannot store this dtype: its header would exceed 4 GiB")


def header_length(prefix: bytes, where: str) -> int:
    """Return the offset of the data, from the first 12 bytes of a file."""
    version = (prefix[6], prefix[7]) if len(prefix) > 7 else None
    if version not in _LENGTH_SIZE or not prefix.startswith(MAGIC):
        raise ArrayCorruptError(
            f"{where} is not a .npy file: expected it to begin with {MAGIC!r} and a version "
            f"1.0, 2.0 or 3.0, found {bytes(prefix[:8])!r}"
        )
    prefix_length = 8 + _LENGTH_SIZE[version]
    length = prefix_length + int.from_bytes(prefix[8:prefix_length], "little")
    if length > MAX_HEADER:
        raise ArrayCorruptError(
            f"{where} has a header of {length} bytes, more than the {MAX_HEADER} that are read"
        )
    return length


def read_header(
    read_beginning: ReadBeginning, where: str, expected: tuple[Header, bytes] | None = None
) -> tuple[Header, bytes]:
    """
    Read the header of a file, and return it and its bytes.

    Parsed only if it is not the one that is `expected`. Otherwise as :func:`parse_header`.
    """
    prefix, size = read_beginning(FIRST_READ)
    if expected and size == expected[0].file_size and prefix.startswith(expected[1]):
        return expected
    length = header_length(prefix, where)
    if length > len(prefix):
        prefix, size = read_beginning(length)
    return parse_header(prefix, size, where), prefix[:length]


def parse_header(prefix: bytes, file_size: int, where: str) -> Header:
    """
    Parse a header strictly: three keys, plain literals, and the size of the file.

    Parameters
    ----------
    prefix : bytes
        The file's beginning, at least :func:`header_length` bytes of it.
    file_size : int
        Bytes of the whole file.
    where : str
        Name of the file in error messages.

    Raises
    ------
    ArrayCorruptError
        If the header is not that of an array without Python objects, or the file has another
        size than it says.
    """
    offset = header_length(prefix, where)
    version = (prefix[6], prefix[7])
    try:
        if len(prefix) < offset:
            raise ValueError(f"the file ends inside it, at {len(prefix)} of {offset} bytes")
        text = prefix[8 + _LENGTH_SIZE[version] : offset].decode(_ENCODING[version])
        fields = _literal(text.strip())
        if type(fields) is not dict or fields.keys() != {"descr", "fortran_order", "shape"}:
            raise ValueError("expected the keys descr, fortran_order and shape")
        fortran_order, shape = fields["fortran_order"], fields["shape"]
        if type(fortran_order) is not bool:
            raise ValueError(f"fortran_order is {fortran_order!r:.40}")
        dtype = _dtype(fields["descr"])
        if type(shape) is not tuple or not is_shape(shape, dtype.itemsize):
            raise ValueError(f"shape is {shape!r:.80}")
        header = Header(dtype, shape, fortran_order, offset)
    except PARSE_ERRORS as error:
        # Shortened, as it may quote a whole hostile header.
        raise ArrayCorruptError(
            f"{where} has a bad .npy header: {printable(str(error)[:_MAX_QUOTED])}"
        ) from None
    if header.file_size != file_size:
        raise ArrayCorruptError(
            f"{where} does not have the size its header says ({header}): "
            f"expected {header.file_size} bytes, found {file_size}"
        )
    return header


def _literal(text: str) -> Any:
    """
    Evaluate a literal.

    CPython 3.11 counts the nesting depth globally, so concurrent parsing fails
    (https://github.com/python/cpython/issues/106905): lock, and retry, as other code may parse too.
    """
    for _ in range(_ATTEMPTS):
        with suppress(SystemError), _parse_lock:
            return ast.literal_eval(text)
    return ast.literal_eval(text)


_parse_lock = threading.Lock()


def _reset_lock() -> None:
    """Replace the lock in a forked child, which lacks the thread that may hold it."""
    global _parse_lock
    _parse_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_lock)


def is_shape(lengths: Sequence[Any], itemsize: int = 1) -> bool:
    """
    Return whether NumPy can make an array of these lengths, memory aside.

    NumPy counts an axis of length 0 as 1 when it checks that the size fits in an address.
    """
    return (
        len(lengths) <= MAX_AXES
        and all(type(n) is int and n >= 0 for n in lengths)
        and math.prod(max(n, 1) for n in lengths) * max(itemsize, 1) <= sys.maxsize
    )


def dtype_to_json(dtype: np.dtype[Any]) -> Json:
    """Encode a dtype for a row: its name, or the ``.npy`` descr as nested lists if structured."""
    return (
        str(dtype) if dtype.names is None else _tuples_to_lists(np.lib.format.dtype_to_descr(dtype))
    )


def dtype_from_json(value: Any) -> np.dtype[Any]:
    """
    Decode a dtype from a row, also from one of DataJoint's built-in codec.

    Raises
    ------
    PARSE_ERRORS
        If it is no dtype, or contains Python objects.
    """
    if isinstance(value, str):
        return _dtype_from_text(value)
    if depth(value) > MAX_DEPTH:
        raise ValueError("it is nested too deep")
    return _dtype(_lists_to_tuples(value))


def depth(value: Any) -> int:
    """Return the nesting depth of lists."""
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@lru_cache(maxsize=256)
def _dtype_from_text(text: str) -> np.dtype[Any]:
    """Parse `str(dtype)`, which the built-in codec writes for structured dtypes too."""
    if len(text) > MAX_HEADER:
        raise ValueError(f"it is of {len(text)} characters")
    if text.startswith("(numpy.record, "):
        text = text.removeprefix("(numpy.record, ").removesuffix(")")
    if text.startswith(("[", "{")):
        return _elementary(np.dtype(_unaligned(_literal(text))))
    return _dtype(text)


def _unaligned(literal: Any) -> Any:
    """Remove `aligned`, which would pad offsets that are already aligned."""
    if isinstance(literal, dict):
        return {key: _unaligned(value) for key, value in literal.items() if key != "aligned"}
    if isinstance(literal, (list, tuple)):
        return type(literal)(map(_unaligned, literal))
    return literal


class NpyBytes:
    """
    Iterable over the bytes of an array's ``.npy`` file, in pieces; may be iterated repeatedly.

    Pieces of a contiguous array, in C or Fortran order, are views of its memory; those of any
    other are small copies. A piece stays valid while it is referenced.

    Parameters
    ----------
    array : ndarray
        Any shape, order and byte order; its dtype passes :func:`.accepted.check_dtype`.
    """

    def __init__(self, array: AnyArray) -> None:
        self._array = array.view(np.ndarray)  # a matrix would not become one-dimensional
        self.header = header_of(self._array)

    def __iter__(self) -> Iterator[memoryview]:
        header = self.header
        yield memoryview(header_bytes(header.dtype, header.shape, header.fortran_order))
        array = self._array
        if not array.flags.forc:
            yield from pieces_in_c_order(array)
        elif array.nbytes:
            whole = bytes_view(array)
            first = PIECE - header.offset % PIECE
            yield whole[:first]
            for start in range(first, len(whole), PIECE):
                yield whole[start : start + PIECE]


def empty(shape: tuple[int, ...], dtype: np.dtype[Any], order: Any = "C") -> AnyArray:
    """Return an uninitialized array of exactly that dtype."""
    if dtype.itemsize and dtype.kind not in "mM":
        return np.empty(shape, dtype, order)
    # `numpy.empty` turns |S0 into |S1, although an empty file may claim any number of those, and
    # >M8 into <M8, so the bytes would be swapped.
    return np.ndarray(shape, dtype, order=order)


def stand_in(header: Header) -> AnyArray:
    """
    Return an array with the shape, dtype and strides of the file, and no memory behind it.

    For its attributes and those of its views only: whatever reads an element ends the process.
    """
    if not header.nbytes:
        return empty(header.shape, header.dtype, header.order)
    element = np.empty((), header.dtype)
    return np.lib.stride_tricks.as_strided(element, header.shape, header.strides, writeable=False)


def pieces_in_c_order(array: AnyArray) -> Iterator[memoryview]:
    """Yield the bytes of an array in C order; views of its memory if it is C-contiguous."""
    if array.nbytes == 0:
        return
    if array.flags.c_contiguous:
        whole = bytes_view(array)
        for start in range(0, len(whole), PIECE):
            yield whole[start : start + PIECE]
        return
    for chunk in np.nditer(
        array,
        flags=["external_loop", "buffered"],
        buffersize=max(PIECE // array.itemsize, 1),
        order="C",
    ):
        # A copy, as nditer reuses the buffer of the chunk.
        yield bytes_view(np.array(chunk))


def bytes_view(array: AnyArray) -> memoryview:
    """Return the memory of a contiguous array as bytes, in memory order."""
    if array.nbytes == 0:
        return memoryview(bytearray())
    flat = array
    if array.ndim != 1:
        flat = array.reshape(-1, order="C" if array.flags.c_contiguous else "F")
    # A view as uint8: not every dtype (datetime64, for one) supports the buffer protocol.
    return memoryview(flat.view(np.uint8))  # type: ignore[arg-type]  # before Python 3.12


def _dtype(descr: Any) -> np.dtype[Any]:
    return _elementary(np.lib.format.descr_to_dtype(descr))


def _elementary(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.hasobject:
        raise ValueError("it has Python objects in it")
    if dtype.subdtype is not None:  # "(2,)f8" would add axes to the shape
        raise ValueError("it is an array itself")
    return dtype


def _tuples_to_lists(descr: Any) -> Any:
    return [_tuples_to_lists(part) for part in descr] if isinstance(descr, (list, tuple)) else descr


def _lists_to_tuples(descr: Any) -> Any:
    """Undo :func:`_tuples_to_lists`: lists of fields stay lists, all else becomes tuples."""
    if not isinstance(descr, list):
        return descr
    if _is_subarray(descr):
        return _lists_to_tuples(descr[0]), tuple(descr[1])
    fields = []
    for name, inner, *shape in descr:
        name_ = tuple(name) if isinstance(name, list) else name
        fields.append((name_, _lists_to_tuples(inner), *(tuple(axes) for axes in shape)))
    return fields


def _is_subarray(descr: list[Any]) -> bool:
    """Return whether it is a pair of dtype and shape, and not a list of two fields."""
    shape = descr[-1] if len(descr) == 2 else None
    return isinstance(shape, list) and all(type(length) is int for length in shape)
