"""Look up tables and keys from the command line in the configured database."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

import datajoint as dj
from datajoint.errors import DataJointError

from dj_npy._array.ref import row_of
from dj_npy._cli.command import UsageError
from dj_npy._datajoint.catalog import class_name
from dj_npy._datajoint.codec import NpyCodec
from dj_npy._errors import StoreError
from dj_npy._stores import StoreConfig


class Found(NamedTuple):
    """The value of one ``<npy@>`` attribute of one row."""

    table: str
    key: dict[str, Any]
    attribute: str
    json: Any
    """Value in the row; None for NULL."""
    config: StoreConfig


def arrays_of(table_name: str, key: list[str]) -> Iterator[Found]:
    """
    Yield every array of the rows that match a key.

    Parameters
    ----------
    table_name : str
        ``schema.table``, with the table's name in the database or in Python.
    key : list of str
        ``name=value`` for attributes of the primary key.

    Raises
    ------
    UsageError
        If there is no such table or attribute, or the table has no arrays.
    StoreError
        If the query fails, or there is no such row.
    """
    with translate_driver_errors():
        connection = dj.conn()
        table, name = find_table(connection, table_name)
        heading = table.heading
        attributes = [
            each
            for each in heading.names
            if heading[each].codec is not None and heading[each].codec.name == NpyCodec.name
        ]
        if not attributes:
            raise UsageError(f"{name} has no <npy@> attribute")
        restriction = dict(_condition(each, heading, name) for each in key)
        rows = (table & restriction).proj(*attributes).to_dicts(order_by="KEY")
    if not rows:
        raise StoreError(f"{name} has no row with {' '.join(key)}")
    for row in rows:
        for attribute in attributes:
            ref = row[attribute]
            yield Found(
                name,
                {part: row[part] for part in heading.primary_key},
                attribute,
                None if ref is None else row_of(ref),
                connection._config,
            )


def find_table(connection: Any, typed: str) -> tuple[Any, str]:
    """Return a table and its name in the database."""
    schema, _, wanted = typed.partition(".")
    if not wanted:
        raise UsageError(f"{typed!r} is not of the form SCHEMA.TABLE")
    if schema not in dj.list_schemas(connection):
        raise UsageError(f"there is no schema {schema!r} in the database, or none you may see")
    names = dj.Schema(schema, connection=connection, create_schema=False).list_tables()
    for name in names:
        if wanted in (name, name.lstrip("#_"), class_name(name)):
            full = connection.adapter.make_full_table_name(schema, name)
            return dj.FreeTable(connection, full), f"{schema}.{name}"
    available = ", ".join(map(class_name, names)) or "none"
    raise UsageError(f"schema {schema!r} has no table {wanted!r}; there are: {available}")


def _condition(typed: str, heading: Any, table: str) -> tuple[str, Any]:
    name, equals, value = typed.partition("=")
    if not equals or name not in heading.primary_key:
        raise UsageError(
            f"{typed!r} is not of the form NAME=VALUE with an attribute of the key of {table}: "
            f"{', '.join(heading.primary_key)}"
        )
    if heading[name].numeric:
        # A database may convert "1x" to 1.
        try:
            return name, Decimal(value)
        except InvalidOperation:
            raise UsageError(f"{name} of {table} is a number, not {value!r}") from None
    return name, value


@contextmanager
def translate_driver_errors() -> Iterator[None]:
    """Translate errors of the database drivers."""
    try:
        yield
    except (DataJointError, UsageError):
        raise
    except Exception as error:
        if not re.match(r"pymysql|psycopg2", type(error).__module__):
            raise
        message = " ".join(str(error.args[-1] if error.args else error).split())
        raise StoreError(f"the database could not be asked: {message}") from error
