"""Definitions as text, and the tables that are declared by them."""

import keyword
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import datajoint as dj
from datajoint.errors import DataJointError

from dj_npy._datajoint.codec import NpyCodec
from dj_npy._errors import ArrayInvalidError
from dj_npy._moves.definitions import Attribute, Definition, ForeignKey
from dj_npy._moves.values import precision
from dj_npy._text import short_repr

_JOBS = ("_job_start_time", "_job_duration", "_job_version")
_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_TYPE = re.compile(r"""(<[\w.@-]+>|\w[\w ]*)(\(([\d, ]|'[^'\\\n]*'|"[^"\\\n]*")*\)[\w ]*)?""")
"""
What attributes and types in a definition may be called.

DataJoint evaluates what stands behind an arrow as Python and sends types to the server as they are,
so a package or backup of somebody else's must not have anything else there.
"""


def definition_text(
    given: Definition,
    backend: str,
    native: bool = False,
    parents: Mapping[tuple[str, str], str] | None = None,
) -> str:
    """
    Return a definition for DataJoint on a backend.

    With `native`, types are those of the database, where it did not declare one of DataJoint's.
    `parents` are the names by which foreign keys refer to tables; otherwise those of classes.
    """
    lines = [f"# {given.comment}"] if given.comment else []
    declared: set[str] = set()
    for in_key in (True, False):
        if not in_key:
            lines.append("---")
        keys = [
            each
            for each in given.foreign_keys
            if all(given[name].in_key for name in each.attributes) == in_key
        ]
        for attribute in given.attributes:
            if attribute.in_key != in_key or attribute.name.startswith("_"):
                continue
            if attribute.name not in declared:
                having = [each for each in keys if attribute.name in each.attributes]
                if having:
                    first = min(having, key=lambda each: len(each.attributes.keys() - declared))
                    lines.append(_foreign_key_line(first, given, parents))
                    declared |= first.attributes.keys()
                    keys.remove(first)
                else:
                    lines.append(_attribute_line(attribute, backend, native))
                    declared.add(attribute.name)
            for each in [each for each in keys if each.attributes.keys() <= declared]:
                lines.append(_foreign_key_line(each, given, parents))
                keys.remove(each)
    for unique, names in given.indexes:
        lines.append(f"{'unique ' if unique else ''}index ({', '.join(names)})")
    return "\n".join(lines) + "\n"


def _foreign_key_line(
    key: ForeignKey, given: Definition, parents: Mapping[tuple[str, str], str] | None
) -> str:
    options = [
        *(["nullable"] if any(given[name].nullable for name in key.attributes) else []),
        *(["unique"] if key.unique else []),
    ]
    named = ", ".join(
        f'{ours}="{theirs}"' for ours, theirs in key.attributes.items() if ours != theirs
    )
    parent = Definition(key.schema, key.table, ()).class_name
    if key.schema != given.schema:
        parent = f"{_identifier(key.schema)}.{parent}"
    if parents is not None:
        parent = parents[key.schema, key.table]
    bracket = f"[{', '.join(options)}] " if options else ""
    projection = f".proj({named})" if named else ""
    return f"-> {bracket}{parent}{projection}"


def _attribute_line(given: Attribute, backend: str, native: bool) -> str:
    default = ""
    if given.nullable:
        default = " = null"
    elif given.default is not None:
        default = f" = {_default_text(given, backend)}"
    comment = f" # {given.comment}" if given.comment else ""
    return f"{given.name}{default} : {declared_type(given, backend, native)}{comment}"


def _default_text(given: Attribute, backend: str) -> str:
    assert given.default is not None
    if given.default == "CURRENT_TIMESTAMP" and given.storage.startswith("date"):
        digits = precision(given.storage)
        return f"CURRENT_TIMESTAMP({digits})" if digits and backend == "mysql" else given.default
    if re.fullmatch(r"-?\d+(\.\d+)?(e[+-]?\d+)?", given.default):
        return given.default
    if '"' in given.default:
        return "'" + given.default.replace("'", "''") + "'"
    return f'"{given.default}"'


def declared_type(given: Attribute, backend: str, native: bool = False) -> str:
    """Return the type of an attribute in a definition for a backend."""
    if native and given.native is not None:
        with suppress(DataJointError):  # of a type that it does not declare
            dj.declare.match_type(given.native)
            return given.native
    if given.type == "text":
        return "longtext" if backend == "mysql" else "text"
    if given.type == "time":
        return "time(6)" if backend == "mysql" else "time"
    return given.type


def undeclarable(given: Definition) -> Iterator[str]:
    """Yield what of a table DataJoint cannot declare."""
    for attribute in given.attributes:
        types = [attribute.type, *([attribute.native] if attribute.native else [])]
        if not _NAME.fullmatch(attribute.name):
            yield f"an attribute is called {short_repr(attribute.name)}"
        elif "\n" in (attribute.default or ""):
            yield f"the default of {attribute.name} has several lines"
        elif not all(map(_TYPE.fullmatch, types)):
            yield f"the type of {attribute.name} is {short_repr(attribute.type)}"
    for key in given.foreign_keys:
        if not all(map(_NAME.fullmatch, key.attributes.values())):
            yield f"it refers to {key.schema}.{key.table} by {', '.join(key.attributes.values())}"


def _identifier(schema: str) -> str:
    """Return the name of a schema as definitions spell it."""
    name = re.sub(r"\W", "_", schema, flags=re.ASCII)
    return f"_{name}" if name[:1].isdigit() or keyword.iskeyword(name) else name


def renamed(given: Definition, schemas: Mapping[str, str], stores: Mapping[str, str]) -> Definition:
    """Return a definition with other names of schemas and stores; ``""`` is the default store."""

    def in_store(attribute: Attribute) -> Attribute:
        name, at, store = attribute.type.strip("<>").partition("@")
        if not at or not attribute.type.startswith("<"):
            return attribute
        return attribute._replace(type=f"<{name}@{stores.get(store, store)}>")

    return replace(
        given,
        schema=schemas.get(given.schema, given.schema),
        attributes=tuple(map(in_store, given.attributes)),
        foreign_keys=tuple(
            key._replace(schema=schemas.get(key.schema, key.schema)) for key in given.foreign_keys
        ),
    )


def misfits(wanted: Definition, there: Definition) -> Iterator[str]:
    """Yield why rows of one table do not fit another; stores, comments and defaults may differ."""
    ours = {each.name: each for each in wanted.attributes if not each.name.startswith("_")}
    theirs = {each.name: each for each in there.attributes if not each.name.startswith("_")}
    for name in ours.keys() - theirs.keys():
        yield f"it has no attribute {name}"
    for name, attribute in theirs.items():
        if name not in ours:
            if not attribute.nullable and attribute.default is None:
                yield f"it has an attribute {name}, which the rows have not"
            continue
        mine = ours[name]
        if _comparable(mine) != _comparable(attribute):
            yield f"its {name} is {attribute.type}, not {mine.type}"
        if mine.in_key != attribute.in_key:
            yield f"its {name} is {'' if attribute.in_key else 'not '}in the primary key"
        if mine.nullable and not attribute.nullable:
            yield f"its {name} cannot be NULL"
    keys = [(each.schema, each.table, each.attributes) for each in there.foreign_keys]
    for key in wanted.foreign_keys:
        if (key.schema, key.table, key.attributes) not in keys:
            yield f"it does not refer to {key.schema}.{key.table} by {', '.join(key.attributes)}"


def _comparable(given: Attribute) -> tuple[str, str]:
    return re.sub(r"@[^>]*", "@", given.type), given.storage


class Declarer:
    """
    Declares tables on a connection.

    Parameters
    ----------
    connection : datajoint.Connection
        Where to.
    native : bool
        As for `definition_text`.
    """

    def __init__(self, connection: Any, *, native: bool = False) -> None:
        self._connection, self._native = connection, native

    def check(self, given: Definition) -> None:
        """Raise if DataJoint cannot declare a table here."""
        if wrong := list(undeclarable(given)):
            raise ArrayInvalidError(
                f"{given.schema}.{given.table} cannot be declared by DataJoint: {'; '.join(wrong)}"
            )
        for attribute in given.attributes:
            try:
                backend = self._connection.adapter.backend
                declared = declared_type(attribute, backend, self._native)
                if dj.declare.match_type(declared) == "CODEC":
                    dj.codecs.lookup_codec(declared)
            except DataJointError as error:
                raise ArrayInvalidError(
                    f"{given.schema}.{given.table}: the type {attribute.type} of {attribute.name} "
                    f"cannot be declared here: {error}"
                ) from None

    def declare(self, given: Definition) -> None:
        """Declare a table whose parents have been declared."""
        connection = self._connection
        name = connection.adapter.make_full_table_name(*given.name)
        backend = connection.adapter.backend
        # Two tables may have one class name, of a Manual and a Lookup table for one.
        parents = sorted({(key.schema, key.table) for key in given.foreign_keys})
        names = {each: f"Parent{number}" for number, each in enumerate(parents)}
        text = definition_text(_escaped(given, backend), backend, self._native, names)
        text = text.replace("%", "%%")  # DataJoint sends it with arguments, of which there are none
        free = type(dj.FreeTable(connection, name))  # its definition is nothing that can be set
        table: Any = type("Declared", (free,), {"definition": text})(connection, name)
        hidden = {each.name for each in given.attributes if each.name.startswith("_")}
        with self._adding(hidden), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # DataJoint's, of types that are not portable
            table.declare(context={names[each]: self._parent(each) for each in parents})

    def _parent(self, name: tuple[str, str]) -> Any:
        full_name = self._connection.adapter.make_full_table_name(*name)
        table = dj.FreeTable(self._connection, full_name)
        if self._connection.adapter.backend == "mysql":
            _escape_comments(table)
        return table

    @contextmanager
    def _adding(self, hidden: set[str]) -> Iterator[None]:
        """Have DataJoint add those of its own attributes that a table had."""
        connection = self._connection
        before = connection._config
        connection._config = _Config(before, hidden)
        try:
            yield
        finally:
            connection._config = before


def _escaped(given: Definition, backend: str) -> Definition:
    """Return a definition whose texts MySQL keeps: DataJoint escapes quotes of attributes."""
    if backend != "mysql":
        return given
    attributes = (
        each._replace(
            comment=each.comment.replace("\\", "\\\\"),
            default=each.default and each.default.replace("\\", "\\\\"),
        )
        for each in given.attributes
    )
    comment = given.comment.replace("\\", "\\\\").replace('"', '\\"')
    return replace(given, comment=comment, attributes=tuple(attributes))


def _escape_comments(table: Any) -> None:
    """Escape comments of keys: DataJoint does not where a foreign key takes them over."""
    for name, each in table.heading.attributes.items():
        comment = (each.comment or "").replace("\\", "\\\\").replace('"', '\\"')
        table.heading._attributes[name] = each._replace(comment=comment.replace("%", "%%"))


class _Config:
    """A configuration with which DataJoint adds attributes of its own, or does not."""

    def __init__(self, config: Any, hidden: set[str]) -> None:
        self._config = config
        self.jobs = SimpleNamespace(add_job_metadata=hidden.issuperset(_JOBS))
        self.provenance = SimpleNamespace(capture="_prov" in hidden)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._config, name)

    def __getitem__(self, name: str) -> Any:
        return self._config[name]


def plain_table(connection: Any, there: Definition, *, arrays: bool) -> Any:
    """
    Return a table into which values go as `values` decodes them, and past DataJoint's codecs.

    With `arrays`, these go through ours, also those of a codec that is made of it; without, the
    JSON of a row goes in as it is.
    """
    table = dj.FreeTable(connection, connection.adapter.make_full_table_name(*there.name))
    _ = table.heading.attributes
    codec = dj.codecs.get_codec(NpyCodec.name)
    for each in there.attributes:
        attribute = table.heading._attributes[each.name]
        table.heading._attributes[each.name] = attribute._replace(
            in_key=each.in_key,
            is_hidden=False,
            codec=codec if arrays and each.is_array else None,
            json=arrays and each.is_array,
            numeric=False,
            # PostgreSQL takes its text; to MySQL, DataJoint sends the bytes.
            uuid=each.storage == "uuid" and connection.adapter.backend == "mysql",
            is_blob=False,
        )
    return table
