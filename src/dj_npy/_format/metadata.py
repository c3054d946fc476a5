"""Check and parse the JSON of a row: ours, that of DataJoint's own codec, or anything."""

import math
import re
from contextlib import suppress
from functools import lru_cache
from json import loads
from typing import Any

import numpy as np

from dj_npy._errors import ArrayCorruptError
from dj_npy._format import npyfile
from dj_npy._format.npyfile import Header
from dj_npy._text import short_repr

_CHECKSUM = re.compile(rf"{npyfile.CHECKSUM}[0-9a-f]{{32}}")
STORE_ID = re.compile(r"[0-9a-f]{32}")


class ArrayMetadata:
    """
    One ``<npy@>`` value in the database; each item is checked on access.

    An invalid item raises :class:`ArrayCorruptError`.

    Parameters
    ----------
    json
        The value from the database; may be anything.
    """

    __slots__ = ("_dtype", "_expected", "_shape", "json")

    def __init__(self, json: Any) -> None:
        self.json = json
        self._shape: tuple[int, ...] | None = None
        self._dtype: np.dtype[Any] | None = None
        self._expected: tuple[Header, bytes] | None = None

    @classmethod
    def of(cls, row: Any) -> "ArrayMetadata":
        """Return what a row says: its JSON, or the text of one."""
        if isinstance(row, str):
            with suppress(ValueError, RecursionError):  # else a text, of which no item is valid
                row = loads(row)
        return cls(row)

    @property
    def path(self) -> str:
        """Path of the file, relative to its store."""
        path = self._get("path")
        if not isinstance(path, str):
            raise self._invalid("path", path)
        return path

    @property
    def store(self) -> str | None:
        """Name of the store; None for the default one, in rows of DataJoint's own codec."""
        store = self._get("store")
        if not isinstance(store, str | None):
            raise self._invalid("store", store)
        return store or None

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        if self._shape is None:
            shape = self._get("shape")
            if not isinstance(shape, list) or not npyfile.is_shape(shape):
                raise self._invalid("shape", shape)
            self._shape = tuple(shape)
        return self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of an element."""
        if self._dtype is None:
            dtype = self._get("dtype")
            try:
                self._dtype = npyfile.dtype_from_json(dtype)
            except npyfile.PARSE_ERRORS:
                raise self._invalid("dtype", dtype) from None
        return self._dtype

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        expected_header = self.expected_header()
        if expected_header is None:
            return math.prod(self.shape) * self.dtype.itemsize
        return expected_header[0].nbytes

    @property
    def file_nbytes(self) -> int:
        """Size of the file in bytes; in rows of DataJoint's own codec, most likely."""
        likely = self.likely_header()
        return self.nbytes if likely is None else likely[0].file_size

    def file_nbytes_if_told(self) -> int:
        """Return the size of the file in bytes; 0 if the JSON is invalid."""
        with suppress(ArrayCorruptError):
            return self.file_nbytes
        return 0

    @property
    def checksum(self) -> str | None:
        """Checksum of the whole file; None in rows of DataJoint's own codec."""
        value = self._get("checksum")
        if value is None or (isinstance(value, str) and _CHECKSUM.fullmatch(value)):
            return value
        return short_repr(value)  # equals no file's checksum

    @property
    def store_id(self) -> str | None:
        """Id of the store it was written to; None in older rows and of DataJoint's own codec."""
        value = self._get("store_id")
        return value if isinstance(value, str) and STORE_ID.fullmatch(value) else None

    def expected_header(self) -> tuple[Header, bytes] | None:
        """Return the header the file must have, and its bytes; None if the row does not say."""
        if self._expected is None:
            offset = self._get("offset")
            if offset is None:
                return None
            json, fortran_order = self.json, self._get("fortran_order") is True
            try:
                # Cached, as thousands of rows have the same header.
                self._expected = _expected(json["dtype"], offset, fortran_order, *json["shape"])
            except (TypeError, KeyError, ArrayCorruptError):
                # A structured dtype (a list, not hashable), or an invalid item, which this reports.
                self._expected = _header(self.dtype, offset, fortran_order, self.shape)
        return self._expected

    def likely_header(self) -> tuple[Header, bytes] | None:
        """
        Return the header the file must have, or for a row that does not say, probably has.

        Rows of DataJoint's own codec do not say. It writes with ``np.save``, and mostly C order.
        """
        expected = self.expected_header()
        if expected is not None or self._get("offset") is not None:
            return expected
        prefix = npyfile.header_bytes(self.dtype, self.shape, False)
        if len(prefix) > npyfile.MAX_HEADER:
            return None
        return Header(self.dtype, self.shape, False, len(prefix)), prefix

    def matches(self, header: Header) -> bool:
        """Return whether a file with this header holds the array that the row describes."""
        if header.shape != self.shape:
            return False
        # The built-in codec writes a structured dtype as text, without its padding.
        dtype_is_text = self.dtype.names is not None and isinstance(self._get("dtype"), str)
        return header.dtype == self.dtype or (
            dtype_is_text and header.dtype.names == self.dtype.names
        )

    def _get(self, name: str) -> Any:
        return self.json.get(name) if isinstance(self.json, dict) else None

    def _invalid(self, what: str, value: Any) -> ArrayCorruptError:
        return ArrayCorruptError(
            f"the row of the array at {short_repr(self._get('path'))} in store "
            f"{short_repr(self._get('store'))} has no valid {what}: found {short_repr(value)}"
        )


def _header(
    dtype: np.dtype[Any], offset: Any, fortran_order: bool, shape: tuple[int, ...]
) -> tuple[Header, bytes] | None:
    prefix = npyfile.header_bytes(dtype, shape, fortran_order)
    # A header too long to read is reported when the file is read.
    if len(prefix) != offset or offset > npyfile.MAX_HEADER:
        return None
    return Header(dtype, shape, fortran_order, offset), prefix


@lru_cache(maxsize=1024, typed=True)
def _expected(
    dtype: str, offset: Any, fortran_order: bool, *shape: int
) -> tuple[Header, bytes] | None:
    row = ArrayMetadata({"dtype": dtype, "shape": list(shape)})
    return _header(row.dtype, offset, fortran_order, row.shape)
