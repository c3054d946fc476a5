"""Paths of arrays from keys as the database's driver returns them."""

from collections.abc import Iterator
from itertools import repeat
from typing import Any
from uuid import UUID

from dj_npy._format.path import array_path, with_token
from dj_npy._stores import Store, schema_addressing


class KeyPaths:
    """
    The paths of an attribute's arrays in a store.

    Parameters
    ----------
    table : datajoint.Table
        The table.
    key : tuple of str
        Attributes of its primary key.
    attribute : str
        The attribute.
    store : Store
        The store.
    """

    def __init__(self, table: Any, key: tuple[str, ...], attribute: str, store: Store) -> None:
        self._table, self._key, self._attribute = table, key, attribute
        self._is_uuid = [bool(table.heading[name].uuid) for name in key]
        self._prefix, self._partition, self._token_length = schema_addressing(
            table.connection._config, store
        )

    def plain(self, key: tuple[Any, ...]) -> str:
        """Return the path without a token, of a key as the driver returns it."""
        values = [
            UUID(bytes=value) if is_uuid and isinstance(value, bytes) else value
            for value, is_uuid in zip(key, self._is_uuid, strict=True)
        ]
        return array_path(
            self._table.database,
            self._table.table_name,
            dict(zip(self._key, values, strict=True)),
            self._attribute,
            prefix=self._prefix,
            partition=self._partition,
        )

    def with_tokens(self, plain: str) -> Iterator[str]:
        """Yield names with random tokens."""
        return map(with_token, repeat(plain), repeat(self._token_length))
