"""The ``<npy@>`` column type: converts between values of rows and files with a JSON."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import chain, repeat
from typing import Any

import datajoint as dj
import numpy as np
import xxhash
from datajoint.codecs import unregister_codec

from dj_npy._array.arraylike import ArrayLike
from dj_npy._array.ref import NpyRef, file_of
from dj_npy._datajoint.context import Encoding, current, row_key, witness
from dj_npy._datajoint.daskvalues import check_dask, is_dask, to_store
from dj_npy._errors import ArrayCorruptError, ArrayInvalidError, NpyError
from dj_npy._format import npyfile
from dj_npy._format.accepted import check_array, check_dtype, check_header
from dj_npy._format.blocks import Blocks
from dj_npy._format.npyfile import CHECKSUM, Header
from dj_npy._format.path import array_path, with_token
from dj_npy._stores import Store, identity, open_store, schema_addressing
from dj_npy._text import key_text

# Also for a reload of this module, where the name is taken by ours.
with suppress(dj.DataJointError):
    unregister_codec("npy")


class NpyCodec(dj.SchemaCodec):
    """
    Store arrays as ``.npy`` files at paths that mirror the database; fetch references.

    In a table definition: ``waveform : <npy@>`` in the default store, ``<npy@archive>`` in the
    store named ``archive``. The column itself has a JSON of ``path``, ``store``, ``dtype``,
    ``shape``, ``offset``, ``checksum``, ``fortran_order`` if true, and ``store_id`` if the store
    has one.
    """

    name = "npy"

    def validate(self, value: Any) -> None:
        """
        Check that a ``.npy`` file would return a value unchanged.

        Parameters
        ----------
        value : ndarray, NpyRef, Blocks or dask.array.Array
            An array of any shape, memory order and byte order, a reference to a stored one or a
            lazy view of it, such as ``ref.T``, or an array that is still to be produced or
            computed.

        Raises
        ------
        ArrayInvalidError
            For anything else, for Python objects as elements, and for arrays that have more than
            data (masks, units) or whose dtype a file would change or not restore: with metadata, of
            hundreds of fields, nested more than 15 deep.
        """
        # During an insert, `encode` does this, which knows table, attribute and key. A codec that
        # inherits this may rely on it.
        if current.get() is None or self.name != NpyCodec.name:
            _check(value)

    def encode(
        self,
        value: Any,
        *,
        key: dict[str, Any] | None = None,
        context: dict[str, Any] | None = None,
        store_name: str | None = None,
    ) -> dict[str, Any]:
        """
        Write an array to its store and describe it.

        Nothing is overwritten: if the plain name is taken, the file name gets a random token, and
        so does the path in the description.

        Parameters
        ----------
        value : ndarray, NpyRef, Blocks or dask.array.Array
            What :meth:`validate` accepts. The file of an `NpyRef` is copied; a Dask array is
            computed one row of chunks at a time.
        key : dict
            Primary key of the row, in primary-key order.
        context : dict
            ``schema``, ``table``, ``field`` and the connection's ``config``.
        store_name : str, optional
            None and ``""`` are the default store.

        Returns
        -------
        dict
            The JSON for the database.

        Raises
        ------
        ArrayInvalidError, StoreError
            If the value is not accepted, or the store fails. No file is left.
        """
        insertion = current.get()
        try:
            if insertion is not None and context:
                begun = insertion.encoded(context["field"])
                if begun is not None:
                    return begun
            description = self._write(value, key, context, store_name, insertion)
        except Exception as error:
            if context:
                schema, table, attribute, primary_key = self._extract_context(key, context)
                given_key = {**(row_key.get() or {}), **primary_key}
                _add_address(error, f"{schema}.{table}", attribute, given_key)
            raise
        if insertion is not None:
            insertion.wrote(value.nbytes)
        return description

    def _write(
        self,
        value: Any,
        key: dict[str, Any] | None,
        context: dict[str, Any] | None,
        store_name: str | None,
        insertion: Encoding | None,
    ) -> dict[str, Any]:
        _check(value)
        value = to_store(value)
        schema, table, attribute, primary_key = self._extract_context(key, context)
        config = self._codec_config(key, context) or dj.config
        store = open_store(config, store_name)
        store_id = identity.id_for_write(store, witness.get())
        prefix, partition, token_length = schema_addressing(config, store)
        whole_key = {**(row_key.get() or {}), **primary_key}
        if insertion is not None:
            whole_key = insertion.stored_key(whole_key)
        plain = array_path(schema, table, whole_key, attribute, prefix=prefix, partition=partition)
        names = chain([plain], map(with_token, repeat(plain), repeat(token_length)))
        header, path, checksum = write_file(value, store, names)
        if insertion is not None:
            insertion.note(store, path, attribute)
        return describe(store, path, header, checksum, store_id)

    def decode(
        self,
        stored: dict[str, Any],
        *,
        key: dict[str, Any] | None = None,  # noqa: ARG002
        context: dict[str, Any] | None = None,
    ) -> NpyRef:
        """
        Return a reference to the array that a row describes. No I/O.

        Parameters
        ----------
        stored : dict
            The JSON from the database.
        key : dict, optional
            Not used.
        context : dict, optional
            The connection's ``config``.
        """
        return NpyRef(stored, context["config"] if context else dj.config)


def describe(
    store: Store, path: str, header: Header, checksum: str, store_id: str | None
) -> dict[str, Any]:
    """Return the JSON of a row."""
    description = {
        "path": path,
        "store": store.name,
        "dtype": npyfile.dtype_to_json(header.dtype),
        "shape": list(header.shape),
        "offset": header.offset,
        "checksum": checksum,
    }
    if header.fortran_order:
        description["fortran_order"] = True
    if store_id is not None:
        description["store_id"] = store_id
    return description


def _check(value: Any) -> None:
    """See :meth:`NpyCodec.validate`."""
    if isinstance(value, (NpyRef, Blocks)):
        return
    if isinstance(value, ArrayLike):
        check_dtype(value.dtype)
    elif is_dask(value):
        check_dask(value)
    else:
        check_array(value)


def _add_address(error: Exception, table: str, attribute: str, key: Mapping[str, Any]) -> None:
    """Say where an array was to be written, unless the error names its path."""
    address = f"{table}, attribute {attribute}, key {key_text(key)}"
    if isinstance(error, ArrayInvalidError):
        if address not in str(error):  # raised again by a caller's own generator
            error.args = (f"{address}: {error}",)
    elif not isinstance(error, NpyError):  # its message is somebody else's
        error.add_note(f"While an array was written: {address}")


def write_file(value: Any, store: Store, names: Iterator[str]) -> tuple[Header, str, str]:
    """Write an array at the first of `names` that is free; return its header, path and checksum."""
    if isinstance(value, NpyRef):
        return _copy_file(value, store, names)
    array = np.asarray(value) if isinstance(value, ArrayLike) else value
    contents = array if isinstance(array, Blocks) else npyfile.NpyBytes(array)
    path, checksum = create_file(store, names, contents, contents.header.file_size)
    return contents.header, path, checksum


def _copy_file(ref: NpyRef, store: Store, names: Iterator[str]) -> tuple[Header, str, str]:
    """Copy the file of a reference, on the server if possible."""
    file = file_of(ref)
    source, header, expected = file.store, file.header(), file.row.checksum
    check_header(header)
    if source is store and expected:
        path = store.create_copy(names, ref.path, header.file_size)
        if path is not None:
            return header, path, expected
    path, checksum = create_file(store, names, source.pieces(ref.path), header.file_size)
    if expected not in (None, checksum):
        store.remove(path)
        raise ArrayCorruptError(
            f"{source.where(ref.path)} has changed since it was inserted: expected {expected}, "
            f"found {checksum}. It was not copied. If it was changed through mmap_mode='r+', "
            f"insert ref.load() instead of ref"
        )
    return header, path, checksum


def create_file(
    store: Store, names: Iterator[str], pieces: Iterable[memoryview], nbytes: int
) -> tuple[str, str]:
    """Create a file at the first of `names` that is free; return its path and checksum."""
    hasher = xxhash.xxh3_128()
    path = store.create(names, _hashed(pieces, hasher), nbytes)
    return path, CHECKSUM + hasher.hexdigest()


def _hashed(pieces: Iterable[memoryview], hasher: "xxhash.xxh3_128") -> Iterator[memoryview]:
    for piece in pieces:
        hasher.update(piece)
        yield piece
