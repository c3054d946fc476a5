"""Convert the values of a column for its twin, in threads."""

import hashlib
import json
from contextlib import suppress
from itertools import chain
from typing import Any, NamedTuple

import datajoint as dj
import numpy as np

from dj_npy._array.file import ArrayFile
from dj_npy._array.ref import NpyRef
from dj_npy._datajoint.catalog import is_npy
from dj_npy._datajoint.codec import describe, write_file
from dj_npy._errors import (
    ArrayCorruptError,
    ArrayInvalidError,
    ArrayMissingError,
    NpyError,
    StoreError,
)
from dj_npy._format.metadata import ArrayMetadata
from dj_npy._moves.contents import NoArrayError, Values, packed
from dj_npy._moves.paths import KeyPaths
from dj_npy._moves.twin import Twin, is_bytes
from dj_npy._stores import Store, identity, open_store


class Converted(NamedTuple):
    """A value for the twin, or why there is none."""

    value: Any = None
    """What the database gets."""
    nbytes: int = 0
    """Bytes of it, in the database or the store."""
    path: str | None = None
    """Its file, if it has one of its own."""
    checksum: str | None = None
    """SHA-256 of what the database gets, if it gets an array itself."""
    what: str = ""
    """What is wrong."""
    message: str = ""


class Converter:
    """
    Converts values of an attribute to what its twin has.

    Parameters
    ----------
    twin : Twin
        The attribute and its twin.
    table : datajoint.Table
        Their table.
    scalars : bool
        Whether Python's numbers are arrays without axes.
    """

    def __init__(self, twin: Twin, table: Any, scalars: bool) -> None:
        self._connection, self._schema = table.connection, table.database
        self.values = Values(twin.attribute, table.connection, scalars)
        self.failure: Exception | None = None
        """Why nothing more is converted."""
        self._twin = twin.twin
        self.store: Store | None = None
        """Where files go, if the twin has any."""
        if is_npy(twin.twin.codec, twin.twin.store):
            self.store = open_store(table.connection._config, twin.twin.store or None)
            self._paths = KeyPaths(table, twin.key, twin.name, self.store)

    def convert(self, key: tuple[Any, ...], raw: Any) -> Converted:
        """Return what the twin gets for a value of a row. The caller holds no lock."""
        if self.failure is not None:
            return Converted(what="not tried")
        if raw is None:
            return Converted()
        try:
            value = self.values.decode(raw)
            return self._encoded(value) if self.store is None else self._written(key, value)
        except NoArrayError as error:
            return Converted(what="no array", message=str(error))
        except ArrayMissingError as error:
            return Converted(what="missing", message=str(error))
        except (ArrayCorruptError, ArrayInvalidError) as error:
            return Converted(what="unreadable", message=str(error))
        except (StoreError, MemoryError) as error:
            self.failure = error
            return Converted(what="not tried")
        except (dj.DataJointError, OSError, ValueError, TypeError, KeyError) as error:
            # DataJoint's, about a file of its own.
            return Converted(what="unreadable", message=f"{type(error).__name__}: {error}")

    def discard(self, converted: Converted) -> None:
        """Remove the file of a value that no row got; what cannot be removed stays."""
        if converted.path is not None and self.store is not None:
            with suppress(NpyError):
                self.store.remove(converted.path)

    def _written(self, key: tuple[Any, ...], value: "np.ndarray[Any, Any] | NpyRef") -> Converted:
        """Write a file, and read it back."""
        assert self.store is not None
        store_id = identity.id_for_write(self.store, None)
        plain = self._paths.plain(key)
        names = chain([plain], self._paths.with_tokens(plain))
        header, path, checksum = write_file(value, self.store, names)
        row = describe(self.store, path, header, checksum, store_id)
        converted = Converted(json.dumps(row), header.file_size, path)
        try:
            ArrayFile(self.store, ArrayMetadata(row)).verify()
        except NpyError as error:
            self.discard(converted)
            raise StoreError(f"what was written does not come back as it was: {error}") from error
        return converted

    def _encoded(self, value: "np.ndarray[Any, Any] | NpyRef") -> Converted:
        """Return what another codec makes of an array."""
        blob = packed(value.load() if isinstance(value, NpyRef) else value)
        codec = self._twin.codec
        if codec is not None and codec.name != "blob":
            raise NoArrayError(f"a new value cannot be made {self._twin.type}")
        if is_bytes(self._twin):
            return Converted(blob, len(blob), checksum=hashlib.sha256(blob).hexdigest())
        from datajoint.hash_registry import put_hash

        row = put_hash(
            blob,
            schema_name=self._schema,
            store_name=self._twin.store or None,
            config=self._connection._config,
        )
        return Converted(json.dumps(row), len(blob))
