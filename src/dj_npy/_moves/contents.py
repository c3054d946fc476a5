"""What columns of DataJoint's other types have in their rows, and the arrays in it."""

import io
import json
import math
import zlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import datajoint as dj
import numpy as np

from dj_npy._array.ref import NpyRef
from dj_npy._datajoint.catalog import is_npy
from dj_npy._errors import ArrayCorruptError, ArrayInvalidError
from dj_npy._format import npyfile
from dj_npy._format.accepted import check_array
from dj_npy._format.metadata import ArrayMetadata
from dj_npy._moves.twin import is_bytes
from dj_npy._stores import StoreConfig, open_store

BEGINNING = 4096
"""Bytes of a blob that tell what is in it."""
_COMPRESSED = b"ZL123\0"
_FORMATS = (b"mYm\0", b"dj0\0")
_JSON = b'{"'
"""
Beginning of what no blob has, but a process writes that knows a column as ``<npy@>`` still.

MySQL and PostgreSQL take a JSON for bytes.
"""
_SCALARS = {"\x0a": "int", "\x0b": "bool", "\x0c": "complex", "\x0d": "float"}
_SCALAR = ", not an array: scalars=True (--scalars) makes it one without axes"
_OTHERS = {
    "P": "a sparse matrix of MATLAB",
    "S": "a struct of MATLAB",
    "C": "a cell array of MATLAB",
    "\xff": "None",
    "\x01": "a tuple",
    "\x02": "a list",
    "\x03": "a set",
    "\x04": "a dict",
    "\x05": "a text",
    "\x06": "bytes",
    "d": "a Decimal",
    "t": "a date or time",
    "u": "a UUID",
}
"""What blobs have that is no array, by the code at their beginning (`datajoint.blob`)."""


class NoArrayError(ArrayInvalidError):
    """A value is no array that a ``.npy`` file can have."""


class Peek(NamedTuple):
    """What the beginning of a blob tells."""

    array: bool
    """Whether there is an array in it, perhaps of a dtype that is refused later."""
    what: str
    """Dtype and shape of the array, or what there is instead."""
    nbytes: int
    """Size in bytes when unpacked; 0 if it is not told."""


@dataclass(frozen=True)
class Values:
    """
    The values of a column.

    Parameters
    ----------
    attribute : datajoint.heading.Attribute
        The column.
    connection : datajoint.Connection
        Its connection, whose configuration has the stores.
    scalars : bool
        Whether Python's numbers are arrays without axes.
    """

    attribute: Any
    connection: Any
    scalars: bool = False

    @property
    def kind(self) -> str:
        """``npy``, ``filepath``, ``attach``, ``blob``, or the name of another codec."""
        codec = self.attribute.codec
        if is_npy(codec, self.attribute.store):
            return "npy"
        return "blob" if codec is None else str(codec.name)

    @property
    def in_table(self) -> bool:
        """Whether the bytes are in the table; otherwise a JSON names a file."""
        return is_bytes(self.attribute)

    def check_supported(self, table: str) -> None:
        """Raise if such columns have no arrays."""
        described = self.attribute.original_type or self.attribute.type
        codec = self.attribute.codec
        if (codec is None and not self.in_table) or type(codec).__name__ == "_MissingType":
            hint = ""
            if str(described).startswith(("blob@", "attach@", "filepath@", "external")):
                hint = ", in the format of DataJoint 0.14: datajoint.migrate.migrate_external first"
            raise ArrayInvalidError(
                f"attribute {self.attribute.name!r} of {table} is of type {described}{hint}; "
                f"dj_npy.migrate takes longblob, <blob>, <blob@>, <attach>, <attach@>, "
                f"<filepath@>, <npy@> and codecs that build on them"
            )

    def decode(self, raw: Any) -> "np.ndarray[Any, Any] | NpyRef":
        """
        Return the array of a value from the database, in C order, or a reference to its file.

        Raises
        ------
        NoArrayError
            If it is none.
        ArrayCorruptError, StoreError, datajoint.DataJointError
            If it cannot be read.
        """
        config = self.connection._config
        if self.kind == "npy":
            return NpyRef(_parsed(raw), config)
        if self.kind == "filepath":
            return _file_of_npy(_parsed(raw), config)
        if self.kind == "attach":
            return _attached(raw if self.in_table else self._content(raw))
        if self.in_table and bytes(raw[: len(_JSON)]) == _JSON:
            return NpyRef(_parsed(bytes(raw)), config)
        value = unpacked(raw) if self.attribute.codec is None else self._decoded(raw)
        if isinstance(value, bool | int | float | complex | np.generic):
            if not self.scalars:
                raise NoArrayError(f"it is {_with_article(type(value).__name__)}{_SCALAR}")
            value = np.asarray(value)
        try:
            check_array(value)
        except ArrayInvalidError as error:
            raise NoArrayError(str(error)) from None
        # DataJoint's blobs are in Fortran order, whatever was inserted.
        return np.require(np.asarray(value), requirements="C") if value.ndim else value

    def peek(self, raw: Any, beginning: bytes | None) -> Peek:
        """
        Return what a value is, from its beginning.

        Parameters
        ----------
        raw
            The value, if it is a JSON.
        beginning : bytes, optional
            The first `BEGINNING` bytes of the blob or the attachment in a table.
        """
        if self.kind == "npy":
            row = ArrayMetadata(_parsed(raw))
            return Peek(True, f"{row.dtype} {row.shape}", row.nbytes)
        if self.kind == "filepath":
            ref = _file_of_npy(_parsed(raw), self.connection._config)
            return Peek(True, f"{ref.dtype} {ref.shape}", ref.nbytes)
        if self.kind not in ("blob", "attach"):  # somebody's own codec
            value = self.decode(raw)
            return Peek(True, f"{value.dtype} {value.shape}", value.nbytes)
        if beginning is None:
            parsed = _parsed(raw)
            store = open_store(self.connection._config, parsed.get("store") or None)
            beginning, _ = store.read_beginning(parsed["path"], BEGINNING)
        if self.kind == "attach":
            name, _, content = beginning.partition(b"\0")
            if not content.startswith(npyfile.MAGIC):
                return Peek(
                    False, f"a file that is no .npy file: {name.decode(errors='replace')}", 0
                )
            return Peek(True, "a .npy file", 0)
        return peek_blob(beginning, self.scalars)

    def size(self, raw: Any) -> int:
        """Return the bytes of a value, in the table or in its file."""
        if self.in_table:
            return len(raw)
        found = _parsed(raw)
        if self.kind == "npy":
            return ArrayMetadata(found).file_nbytes
        size = found.get("size")
        return size if isinstance(size, int) else 0

    def memory(self, raw: Any) -> int:
        """Return about how many bytes of memory a value takes while it is converted."""
        try:
            size = self.size(raw)
        except (ArrayCorruptError, TypeError):  # which `decode` reports
            return 0
        if self.in_table and bytes(raw[: len(_COMPRESSED)]) == _COMPRESSED:
            start = len(_COMPRESSED)
            return size + 2 * int.from_bytes(raw[start : start + 8], "little")
        return 3 * size

    def _content(self, raw: Any) -> bytes:
        from datajoint.hash_registry import get_hash

        return bytes(get_hash(_parsed(raw), config=self.connection._config))

    def _decoded(self, raw: Any) -> Any:
        from datajoint.codecs import decode_attribute

        return decode_attribute(self.attribute, raw, connection=self.connection)


def peek_blob(beginning: bytes, scalars: bool = False) -> Peek:
    """Return what is in a blob of DataJoint, from its beginning."""
    from datajoint.blob import deserialize_lookup

    try:
        nbytes = len(beginning)
        if beginning.startswith(_COMPRESSED):
            start = len(_COMPRESSED) + 8
            nbytes = int.from_bytes(beginning[len(_COMPRESSED) : start], "little")
            beginning = zlib.decompressobj().decompress(beginning[start:], BEGINNING)
        if beginning.startswith(_JSON):
            return Peek(True, "a row of <npy@>: of a process that knows the column as it was", 0)
        if not beginning.startswith(_FORMATS):
            return Peek(False, "bytes that are no blob of DataJoint", nbytes)
        code, rest = chr(beginning[4]), beginning[5:]
        if code == "A":
            ndim = int.from_bytes(rest[:8], "little")
            shape = tuple(np.frombuffer(rest, "<u8", ndim, 8).tolist())
            number, is_complex = np.frombuffer(rest, "<u4", 2, 8 + 8 * ndim).tolist()
            dtype = deserialize_lookup[number]["dtype"]
            if dtype is None or dtype.hasobject or dtype.char == "c":
                return Peek(False, "a text or Python objects", nbytes)
            if is_complex:
                dtype = np.result_type(dtype, np.complex64)
            size = math.prod(shape) * dtype.itemsize
            if not shape and not scalars:
                return Peek(False, f"{_with_article(str(dtype))}{_SCALAR}", nbytes)
            return Peek(True, f"{dtype} {shape}", max(size, nbytes))
        if code == "F":
            return Peek(True, "a structured array", nbytes)
        if code in _SCALARS:
            return Peek(
                scalars, f"{_with_article(_SCALARS[code])}{'' if scalars else _SCALAR}", nbytes
            )
        return Peek(False, _OTHERS.get(code, "of an unknown kind"), nbytes)
    except (ValueError, IndexError, KeyError, zlib.error) as error:
        return Peek(False, f"a damaged blob ({error})", 0)


def unpacked(raw: Any) -> Any:
    """
    Return what is in a blob of DataJoint, of any version.

    Raises
    ------
    NoArrayError
        If it is no blob of DataJoint.
    ArrayCorruptError
        If it is damaged.
    """
    from datajoint.blob import unpack

    data = bytes(raw)
    if not data.startswith((_COMPRESSED, *_FORMATS)):
        raise NoArrayError("it is bytes that are no blob of DataJoint, not an array")
    try:
        return unpack(data)
    except (dj.DataJointError, ValueError, IndexError, KeyError, TypeError, zlib.error) as error:
        raise ArrayCorruptError(f"the blob is damaged: {error}") from error


def packed(array: "np.ndarray[Any, Any]") -> bytes:
    """
    Return the blob of an array, as ``<blob>`` writes it.

    Raises
    ------
    NoArrayError
        If DataJoint's blobs do not give the same array back.
    """
    from datajoint.blob import pack, unpack

    try:
        blob = bytes(pack(array, compress=True))
        back = unpack(blob)
    except (dj.DataJointError, TypeError, ValueError, KeyError) as error:
        raise NoArrayError(f"DataJoint has no blob for {array.dtype}: {error}") from None
    if not (
        isinstance(back, np.ndarray | np.generic)  # an array without axes comes back as a number
        and (back.dtype, back.shape) == (array.dtype, array.shape)
        and np.asarray(back).tobytes() == np.asarray(array).tobytes()
    ):
        raise NoArrayError(f"DataJoint's blobs do not keep an array of {array.dtype} as it is")
    return blob


def check_blob(row: Any) -> None:
    """Raise as `packed` does if a blob would not keep arrays of the dtype that a row names."""
    array = np.zeros(2, ArrayMetadata(_parsed(row)).dtype)
    packed(array)


def _attached(data: Any) -> "np.ndarray[Any, Any]":
    """Return the array of an attachment: a name, a zero byte, and the file."""
    name, _, content = bytes(data).partition(b"\0")
    if not content.startswith(npyfile.MAGIC):
        shown = name.decode(errors="replace")
        raise NoArrayError(f"the attached file {shown!r:.100} is no .npy file")
    try:
        array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
        check_array(array)
    except ArrayInvalidError as error:
        raise NoArrayError(str(error)) from None
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise NoArrayError("the attached file has Python objects, not an array") from None
        raise ArrayCorruptError(f"the attached file is damaged: {error}") from error
    return array


def _file_of_npy(row: Any, config: StoreConfig) -> NpyRef:
    """Return a reference to a ``.npy`` file that a ``<filepath@>`` names."""
    path = row.get("path")
    if not str(path).endswith(".npy"):
        raise NoArrayError(f"the file {path!r:.200} is no .npy file")
    store = open_store(config, row.get("store") or None)

    def beginning(length: int) -> tuple[bytes, int]:
        found, file = store.read_beginning(path, length)
        return found, file.nbytes

    header, _ = npyfile.read_header(beginning, store.where(path))
    return NpyRef(
        {
            "path": path,
            "store": store.name,
            "offset": header.offset,
            "dtype": npyfile.dtype_to_json(header.dtype),
            "shape": list(header.shape),
            **({"fortran_order": True} if header.fortran_order else {}),
        },
        config,
    )


def _parsed(raw: Any) -> Any:
    """Return a JSON as the drivers give it: as text, or parsed."""
    if isinstance(raw, str | bytes):
        try:
            raw = json.loads(raw)
        except (ValueError, RecursionError):
            raise ArrayCorruptError(f"the row's JSON is invalid: {raw!r:.100}") from None
    if not isinstance(raw, dict):
        raise ArrayCorruptError(f"the row's JSON is invalid: {raw!r:.100}")
    return raw


def _with_article(name: str) -> str:
    return f"an {name}" if name[0] in "aeio" else f"a {name}"
