"""What a database says of tables: attributes, keys, foreign keys. Knows nothing of their rows."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import datajoint as dj
from datajoint.errors import DataJointError

from dj_npy._datajoint.catalog import Snapshot, class_name, is_npy
from dj_npy._errors import ArrayInvalidError

# DataJoint asks `information_schema`, which shows no keys to an account that may only read.
_PRIMARY_KEY = """
    SELECT a.attname FROM pg_catalog.pg_index i
    JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY(i.indkey)
    WHERE i.indisprimary AND n.nspname = {} AND c.relname = {}"""
_INDEXES = {
    "postgresql": """
    SELECT i.indexrelid::text, i.indisunique, a.attname FROM pg_catalog.pg_index i
    JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k(attnum, position)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
    WHERE NOT i.indisprimary AND i.indpred IS NULL AND i.indexprs IS NULL
      AND n.nspname = {} AND c.relname = {}
    ORDER BY i.indexrelid, k.position""",
    "mysql": """
    SELECT index_name, non_unique = 0, column_name FROM information_schema.statistics
    WHERE index_name <> 'PRIMARY' AND table_schema = {} AND table_name = {}
    ORDER BY index_name, seq_in_index""",
}
"""Those of some rows, or of what is computed from a row, no definition says."""
_MATERIALIZED = """
    SELECT c.relname FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'm' AND n.nspname = {}"""
HIDDEN = {"_singleton", "_prov", "_job_start_time", "_job_duration", "_job_version"}
"""Attributes that DataJoint adds to tables."""
_NOT_INDEXED = ("bytes", "json", "npy", "text")
_QUOTES = frozenset("`\"'\\\n\0")
_PORTABLE = (
    (r"tinyint", "int8"),
    (r"tinyint unsigned|smallint|year.*", "int16"),
    (r"smallint unsigned|mediumint( unsigned)?|int|integer", "int32"),
    (r"int unsigned|bigint", "int64"),
    (r"bigint unsigned", "decimal(20,0)"),
    (r"float.*|real", "float32"),
    (r"double.*", "float64"),
    (r"boolean|bool", "bool"),
    (r"uuid", "uuid"),
    (r"jsonb?", "json"),
    (r"date", "date"),
    (r"timestamp with.* time zone", "datetime(6)"),
    (r"time without time zone|time(\(\d\))?", "time"),
    (r"bytea|(tiny|medium|long)?blob|(var)?binary.*|bytes", "bytes"),
    (r"((?:var)?char ?\(\d+\))", r"\1"),
    (r"(?:timestamp|datetime)(\(\d\))?", r"datetime\1"),
    (r"decimal\((\d+)\).*", r"decimal(\1,0)"),
    (r"decimal\((\d+), ?(\d+)\).*", r"decimal(\1,\2)"),
    (r"(enum ?\(.*\))", r"\1"),
)
"""The types of DataJoint that hold what those of a database do; anything else is a text."""


class Attribute(NamedTuple):
    """One column of a table."""

    name: str
    type: str
    """As in a definition, the same for each database: ``int32``, ``datetime(6)``, ``<npy@>``."""
    storage: str
    """The type by which values are stored: of ``<blob>`` it is ``bytes``, of ``<npy@>`` ``npy``."""
    in_key: bool = False
    nullable: bool = False
    default: str | None = None
    comment: str = ""
    native: str | None = None
    """As its database calls it, if it was not declared by one of DataJoint's types."""

    @property
    def is_array(self) -> bool:
        """Whether it is ``<npy@>``."""
        return self.storage == "npy"

    @property
    def codec(self) -> str | None:
        """Name of its codec."""
        found = re.match(r"<(\w+)", self.type)
        return found and found[1]

    @property
    def has_files(self) -> bool:
        """Whether files of another codec belong to it."""
        return "@" in self.type and not self.is_array


class ForeignKey(NamedTuple):
    """A foreign key to the primary key of another table."""

    schema: str
    table: str
    attributes: dict[str, str]
    """Name of each attribute, and that of the parent's."""
    unique: bool = False


@dataclass(frozen=True)
class Definition:
    """A table."""

    schema: str
    table: str
    attributes: tuple[Attribute, ...]
    foreign_keys: tuple[ForeignKey, ...] = ()
    indexes: tuple[tuple[bool, tuple[str, ...]], ...] = ()
    """Whether unique, and the attributes, of those that no key implies."""
    comment: str = ""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What of it no definition says."""

    @property
    def name(self) -> tuple[str, str]:
        """Schema and table."""
        return self.schema, self.table

    @property
    def class_name(self) -> str:
        """As in a definition: ``Session.Trial``."""
        return class_name(self.table)

    @property
    def master(self) -> str | None:
        """Name of the master's table, of a part."""
        return self.table.rpartition("__")[0] or None if "__" in self.table.lstrip("_") else None

    @property
    def key(self) -> list[str]:
        """Names of the primary key."""
        return [each.name for each in self.attributes if each.in_key]

    def __getitem__(self, name: str) -> Attribute:
        return next(each for each in self.attributes if each.name == name)

    def to_json(self) -> dict[str, Any]:
        """Return what `of_json` takes."""
        return {
            "schema": self.schema,
            "table": self.table,
            "comment": self.comment,
            "attributes": [
                {k: v for k, v in each._asdict().items() if v != Attribute._field_defaults.get(k)}
                for each in self.attributes
            ],
            "foreignKeys": [each._asdict() for each in self.foreign_keys],
            "indexes": [
                {"unique": unique, "attributes": list(names)} for unique, names in self.indexes
            ],
        }

    @classmethod
    def of_json(cls, given: Mapping[str, Any]) -> "Definition":
        """Return the table that a JSON describes; raises KeyError, TypeError or ValueError."""
        found = cls(
            given["schema"],
            given["table"],
            tuple(Attribute(**each) for each in given["attributes"]),
            tuple(ForeignKey(**each) for each in given["foreignKeys"]),
            tuple((each["unique"], tuple(each["attributes"])) for each in given["indexes"]),
            given["comment"],
        )
        names = {each.name for each in found.attributes}
        texts = [
            *(found.schema, found.table, found.comment, *names),
            *(text for each in found.attributes for text in (each.type, each.storage)),
            *(each.comment for each in found.attributes),
        ]
        if not all(isinstance(text, str) and "\n" not in text for text in texts):
            raise ValueError("a name, type or comment is no line of text")
        names_of_tables = [*found.name, *(n for each in found.foreign_keys for n in each[:2])]
        if not all(_QUOTES.isdisjoint(name) for name in names_of_tables):
            raise ValueError("the name of a table or schema has a quote in it")
        used = {name for each in found.foreign_keys for name in each.attributes}
        if not used | {name for _, some in found.indexes for name in some} <= names:
            raise ValueError("a key has an attribute that the table has not")
        return found


class Structure:
    """
    The tables of some schemas as a snapshot sees them, and the tables to which they refer.

    Parameters
    ----------
    now : Snapshot
        The snapshot.
    """

    def __init__(self, now: Snapshot) -> None:
        self._now, self._connection, self._adapter = now, now.connection, now.adapter
        self._known: dict[tuple[str, str], Definition] = {}
        self._keys: dict[tuple[str, str], list[ForeignKey]] = {}
        self._schemas: set[str] = set()

    def tables(self, schema: str) -> list[str]:
        """Return the names of a schema's tables, but not of DataJoint's own."""
        found = sorted({each[1] for each in self._now.attributes([schema]) if each[0] == schema})
        if not found:
            raise ArrayInvalidError(
                f"no schema {schema!r} with a table in it is visible to this account"
            )
        views: set[str] = set()
        if self._adapter.backend == "postgresql":
            quoted = self._adapter.quote_string(schema)
            views = {name for (name,) in self._now.select(_MATERIALIZED.format(quoted))}
        return [name for name in found if not name.startswith("~") and name not in views]

    def with_parents(self, wanted: Iterable[tuple[str, str]]) -> list[Definition]:
        """Return the definitions of tables and of all their parents, parents first."""
        found: dict[tuple[str, str], Definition] = {}
        for name in wanted:
            self._add(name, found, ())
        return list(found.values())

    def _add(
        self,
        name: tuple[str, str],
        found: dict[tuple[str, str], Definition],
        children: tuple[tuple[str, str], ...],
    ) -> None:
        if name in found:
            return
        if name in children:
            raise ArrayInvalidError(f"{'.'.join(name)} refers to itself by its foreign keys")
        for each in self._foreign_keys(name):
            if each[:2] == name:
                continue
            self._add((each.schema, each.table), found, (*children, name))
        found[name] = self._definition(name, found)

    def _foreign_keys(self, name: tuple[str, str]) -> list[ForeignKey]:
        if name[0] not in self._schemas:
            self._schemas.add(name[0])
            quoted = self._adapter.quote_string(name[0])
            constraints: dict[Any, dict[str, str]] = {}
            for what, child, parent, attribute, theirs in self._now.select(
                self._adapter.load_foreign_keys_sql(quoted, "'~%%'"), ()
            ):
                split = self._adapter.split_full_table_name
                constraints.setdefault((what, split(child), split(parent)), {})[attribute] = theirs
            for (_, child, parent), attributes in constraints.items():
                if child[0] == name[0]:
                    self._keys.setdefault(tuple(child), []).append(
                        ForeignKey(parent[0], parent[1], attributes)
                    )
        return sorted(self._keys.get(name, []), key=lambda key: (*key[:2], sorted(key[2].items())))

    def _definition(
        self, name: tuple[str, str], parents: Mapping[tuple[str, str], Definition]
    ) -> Definition:
        backend = self._adapter.backend
        full_name = self._adapter.make_full_table_name(*name)
        heading = dj.FreeTable(self._connection, full_name).heading
        _ = heading.attributes  # loads them
        quoted = [self._adapter.quote_string(each) for each in name]
        key = {each.name for each in heading._attributes.values() if each.in_key}
        if backend == "postgresql":
            key = {each for (each,) in self._now.select(_PRIMARY_KEY.format(*quoted))}
        kinds = self._now.kinds(name[0])
        attributes = {
            each.name: _attribute(each, each.name in key, backend, kinds[name[1], each.name])
            for each in heading._attributes.values()
        }
        indexes = {names: unique for unique, names in sorted(self._indexes(quoted))}
        notes = []
        foreign_keys = []
        for each in self._foreign_keys(name):
            if each[:2] == name:
                notes.append(
                    f"{'.'.join(name)} refers to itself, which no definition of DataJoint's can say"
                )
                continue
            parent = parents[each.schema, each.table]
            if set(each.attributes.values()) != set(parent.key):
                notes.append(
                    f"{'.'.join(name)} refers to other attributes of {parent.table} than its "
                    f"primary key, which no definition of DataJoint's can say"
                )
                continue
            by_parent = {theirs: ours for ours, theirs in each.attributes.items()}
            pairs = {by_parent[theirs]: theirs for theirs in parent.key}
            for ours, theirs in pairs.items():
                # The child's comment does not tell its type.
                of_parent = parent[theirs]
                attributes[ours] = of_parent._replace(
                    name=ours,
                    in_key=attributes[ours].in_key,
                    nullable=attributes[ours].nullable,
                    default=None,
                )
            unique = indexes.pop(tuple(pairs), False)
            foreign_keys.append(each._replace(attributes=pairs, unique=unique))
        notes += (
            f"{'.'.join(name)}.{each.name}, which is hidden"
            for each in attributes.values()
            if each.name.startswith("_") and each.name not in HIDDEN
        )
        notes += (
            f"what {'.'.join(name)}.{each.name} refers to by its {each.original_type}"
            for each in heading._attributes.values()
            if "@" in (each.original_type or "")
        )
        notes += (
            f"that {'.'.join(name)}.{attribute.name} numbers rows by itself"
            for attribute in attributes.values()
            if attribute.native is not None and "auto_increment" in attribute.native
        )
        plain = sorted(
            (unique, names)
            for names, unique in indexes.items()
            if not any(attributes[each].storage in _NOT_INDEXED for each in names)
        )
        status = heading.table_status or {}
        return Definition(
            *name,
            tuple(attributes.values()),
            tuple(foreign_keys),
            tuple(plain),
            _one_line(status.get("comment") or "", ""),
            tuple(notes),
        )

    def _indexes(self, quoted: list[str]) -> Iterator[tuple[bool, tuple[str, ...]]]:
        found: dict[str, tuple[bool, list[str]]] = {}
        for index, unique, name in self._now.select(_INDEXES[self._now.backend].format(*quoted)):
            found.setdefault(index, (bool(unique), []))[1].append(name)
        for unique, names in found.values():
            if None not in names:  # of an expression
                yield unique, tuple(names)


def _attribute(given: Any, in_key: bool, backend: str, kind: str) -> Attribute:
    native = None
    if given.codec is not None:
        declared, storage = given.type, _codec_storage(given, kind)
    elif given.uuid or _is_core_type(given.original_type):  # otherwise of an older DataJoint
        declared = storage = _core_type(given.original_type or "uuid", backend)
    else:
        native = given.type
        declared = storage = portable(native, backend)
    if given.autoincrement or "nextval(" in str(given.default):
        native = f"{native or given.type} auto_increment"
    return Attribute(
        given.name,
        declared,
        storage,
        in_key,
        bool(given.nullable),
        None if given.nullable else _default(given.default, storage),
        _one_line(given.comment or "", backend),
        native,
    )


def portable(native: str, backend: str) -> str:
    """Return the type of DataJoint's that holds what a type of a database does."""
    for pattern, declared in _PORTABLE:
        if found := re.fullmatch(pattern, native, re.IGNORECASE):
            return _core_type(found.expand(declared), backend)
    return "text"


def _core_type(declared: str, backend: str) -> str:
    """Return a type with what it means by default, which each database has otherwise."""
    if declared.lower() == "datetime":
        return "datetime(6)" if backend == "postgresql" else "datetime(0)"
    return declared if declared.lower().startswith("enum") else declared.replace(" ", "").lower()


def _is_core_type(declared: str | None) -> bool:
    try:
        return bool(declared) and dj.declare.match_type(declared) in dj.declare.CORE_TYPE_NAMES
    except DataJointError:
        return False


def _codec_storage(given: Any, kind: str) -> str:
    if is_npy(given.codec, given.store):
        return "npy"
    try:
        found, _, _ = dj.codecs.resolve_dtype(f"<{given.codec.name}>", store_name=given.store)
    except DataJointError:  # not registered here
        found = portable(kind, "")
        return found if found in ("json", "bytes") else "text"
    return found if dj.declare.match_type(found) in dj.declare.CORE_TYPE_NAMES else "text"


def _default(given: Any, storage: str) -> str | None:
    if given is None or "nextval(" in str(given):
        return None
    text = str(given)
    if text.startswith('"') and text.endswith('"') and len(text) > 1:
        text = text[1:-1]
    if found := re.match(r"'((?:[^']|'')*)'(?:::.*)?$", text):  # PostgreSQL's
        text = found[1].replace("''", "'")
    is_moment = storage.startswith("date")
    if is_moment and re.match(r"current_timestamp|now\(\)", text, re.IGNORECASE):
        return "CURRENT_TIMESTAMP"
    if storage == "bool":
        return {"true": "1", "false": "0"}.get(text, text)
    return text


def _one_line(comment: str, backend: str) -> str:
    if backend == "postgresql":  # where DataJoint keeps the backslash by which it escapes a quote
        comment = comment.replace('\\"', '"')
    return " ".join(comment.split())
