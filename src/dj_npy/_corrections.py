"""
Faults of DataJoint 2.3, and one of pandas, that the specification cannot live with.

One function each.

Each replaces a method by one that calls the original, and changes nothing where the original
no longer has the fault. The replaced method is its replacement's ``__wrapped__``.
"""

import functools
import json
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

from datajoint import codecs, expression, gc
from datajoint.autopopulate import AutoPopulate
from datajoint.connection import Connection
from datajoint.errors import DataJointError
from datajoint.expression import QueryExpression
from datajoint.heading import Heading
from datajoint.settings import Config
from datajoint.table import Table

from dj_npy import _identity as identity
from dj_npy import _transactions as transactions
from dj_npy._arraylike import ArrayLike, as_scalar
from dj_npy._catalog import snapshot
from dj_npy._codec import NpyCodec, current, row_key
from dj_npy._context import call_with
from dj_npy._insertion import Insertion, Update
from dj_npy._layout import Layout
from dj_npy._names import Listing
from dj_npy._ref import NpyRef
from dj_npy._storerows import RowsOf

Method = Callable[..., Any]


def _replace(owner: Any, name: str, correct: Callable[[Method], Method]) -> None:
    """Put a correction in the place of a method; once, also if this package is imported anew."""
    original = getattr(owner, name)
    if getattr(original, "_corrected_by_dj_npy", False):
        original = original.__wrapped__
    corrected = functools.wraps(original)(correct(original))
    corrected._corrected_by_dj_npy = True  # type: ignore[attr-defined]
    setattr(owner, name, corrected)


def default_store() -> None:
    """
    ``<npy@>``, ``<blob@>``, ``<hash@>``, ``<object@>`` and ``<attach@>`` fail on insert.

    The heading calls the default store ``""``, for which `Config.get_store_spec` looks among
    the configured ones and finds none.
    """

    def correct(original: Method) -> Method:
        def get_store_spec(self: Any, store: str | None = None, **options: Any) -> Any:
            try:
                return original(self, store, **options)
            except DataJointError:
                if store != "":
                    raise
            return original(self, None, **options)

        return get_store_spec

    _replace(Config, "get_store_spec", correct)


def fetch_without_loading() -> None:
    """
    `fetch` and `to_arrays` load every array of every row.

    They put what the codec decoded through `numpy.array`, which takes any array-like apart.
    Within them a reference tells NumPy that it is one object; but not to another codec that
    is chained to ours and decodes what we hand it.
    """

    def correct(original: Method) -> Method:
        def fetch(self: Any, *args: Any, **kwargs: Any) -> Any:
            return call_with({as_scalar: True}, lambda: original(self, *args, **kwargs))

        return fetch

    def correct_decode(original: Method) -> Method:
        def decode_attribute(attr: Any, data: Any, *args: Any, **kwargs: Any) -> Any:
            codec = attr.codec
            if codec is None:
                return original(attr, data, *args, **kwargs)
            # There is nothing to be worked out for an <npy@> column.
            connection = kwargs.get("connection")
            if data is not None and connection is not None and _is_ours(codec):
                row = json.loads(data) if isinstance(data, str) else data
                return NpyRef(row, connection._config)
            if not as_scalar.get():
                return original(attr, data, *args, **kwargs)
            return call_with({as_scalar: False}, lambda: original(attr, data, *args, **kwargs))

        return decode_attribute

    _replace(expression, "decode_attribute", correct_decode)
    _replace(QueryExpression, "to_arrays", correct)
    _replace(QueryExpression, "fetch", correct)


def _is_ours(codec: Any) -> bool:
    """Whether a column's values are decoded by our codec and by no other."""
    return codec.name == "npy" and type(codecs._codec_registry.get("npy")) is NpyCodec


def key_of_an_update() -> None:
    """
    `Table.update1` does not tell the codec the row's key, so a path cannot mirror it.

    And as a refused insert, a refused update leaves its file.
    """

    def correct(original: Method) -> Method:
        def update1(self: Any, row: Any) -> Any:
            # What is not a mapping is the original's to complain about.
            names = self.primary_key if isinstance(row, Mapping) else ()
            key = {name: row[name] for name in names if name in row}
            known: dict[ContextVar[Any], Any] = {row_key: key, identity.witness: RowsOf(self)}
            return Update(self).run(lambda: call_with(known, lambda: original(self, row)))

        return update1

    _replace(Table, "update1", correct)


def hash_of_a_three_part_make() -> None:
    """
    `populate` hashes all that a three-part `make` has fetched, element by element, twice.

    That would load every array. The row of an array, with path and checksum, tells as well
    whether it has changed.
    """

    def correct_hash(original: Method) -> Method:
        def _hash(self: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
            if not isinstance(obj, NpyRef):
                return original(self, obj, *args, **kwargs)
            result = original(self, obj._row, *args, **kwargs)
            self.hashes[obj] = result  # it is looked up by what was asked for
            return result

        return _hash

    def correct(original: Method) -> Method:
        def _populate1(self: Any, *args: Any, **kwargs: Any) -> Any:
            from deepdiff import DeepHash  # as late as DataJoint imports it: it takes long

            _replace(DeepHash, "_hash", correct_hash)
            return original(self, *args, **kwargs)

        return _populate1

    if hasattr(AutoPopulate, "_populate1"):
        _replace(AutoPopulate, "_populate1", correct)


def files_of_refused_rows() -> None:
    """
    An insert that fails leaves the files of its rows.

    `Table` encodes row after row, then sends one INSERT. What it has created is removed where
    it is certain that no row refers to it: see `Insertion`.
    """

    def correct(original: Method) -> Method:
        def _insert_rows(self: Any, rows: Any, *args: Any, **kwargs: Any) -> Any:
            insertion = Insertion(self)
            send = functools.partial(
                insertion.run, rows, lambda rows: original(self, rows, *args, **kwargs)
            )
            return call_with({identity.witness: RowsOf(self)}, send)

        return _insert_rows

    if hasattr(Table, "_insert_rows"):
        _replace(Table, "_insert_rows", correct)


def files_of_rolled_back_transactions() -> None:
    """
    A transaction that is rolled back leaves the files of the rows that it had inserted.

    They are removed once the server has answered to the rollback: see `Transaction`.
    """

    def correct_start(original: Method) -> Method:
        def start_transaction(self: Any) -> None:
            original(self)
            transactions.begin(self)

        return start_transaction

    def correct_commit(original: Method) -> Method:
        def commit_transaction(self: Any) -> None:
            transactions.end(self)  # whatever comes of it
            original(self)

        return commit_transaction

    def correct_cancel(original: Method) -> Method:
        def cancel_transaction(self: Any) -> None:
            transaction = transactions.end(self)
            original(self)
            if transaction is not None:
                transaction.rolled_back(self)

        return cancel_transaction

    def correct_query(original: Method) -> Method:
        def query(self: Any, query: str, *args: Any, **options: Any) -> Any:
            statement, transaction = current.get(), transactions.of(self)
            if statement is not None:
                statement.sends(self, query)
            if transaction is None:
                return original(self, query, *args, **options)
            transaction.sends(query)
            result = original(self, query, *args, **options)
            transaction.answered = True
            return result

        return query

    _replace(Connection, "start_transaction", correct_start)
    _replace(Connection, "commit_transaction", correct_commit)
    _replace(Connection, "cancel_transaction", correct_cancel)
    _replace(Connection, "query", correct_query)


def cost_of_a_value() -> None:
    """
    For each value of each row, DataJoint copies the heading and works out a chain of codecs.

    `Heading.__getitem__` builds a dict of all attributes to look one up, `resolve_dtype` the
    chain of an attribute's codecs. Here the one looks the attribute up where it is, the other
    keeps a chain for as long as its codecs are the registered ones. A fetch takes an eighth
    less time.
    """

    def correct_heading(original: Method) -> Method:
        def __getitem__(self: Any, name: str) -> Any:  # noqa: N807
            attribute = (self._attributes or {}).get(name)
            if attribute is None or attribute.is_hidden:
                return original(self, name)
            return attribute

        return __getitem__

    def correct_chain(original: Method) -> Method:
        known: dict[tuple[str, str | None], Any] = {}

        def resolve_dtype(dtype: str, seen: Any = None, store_name: str | None = None) -> Any:
            if seen is not None:  # within a chain
                return original(dtype, seen, store_name)
            resolved = known.get((dtype, store_name))
            if resolved is None or any(
                codecs._codec_registry.get(codec.name) is not codec for codec in resolved[1]
            ):
                resolved = known[dtype, store_name] = original(dtype, None, store_name)
            return resolved

        return resolve_dtype

    _replace(Heading, "__getitem__", correct_heading)
    _replace(codecs, "resolve_dtype", correct_chain)


def tables_of_references() -> None:
    """
    Pandas before 3.1 prints a cell that has a length by iterating it, which loads the array.

    What decides that, `is_sequence`, is asked by nothing else there.
    """
    from pandas.io.formats import printing

    def correct(original: Method) -> Method:
        def is_sequence(thing: Any) -> bool:
            return not isinstance(thing, ArrayLike) and original(thing)

        return is_sequence

    if hasattr(printing, "is_sequence"):
        _replace(printing, "is_sequence", correct)


def garbage_collection() -> None:
    """
    `datajoint.gc` removes files of rows that it does not see.

    It reads the rows before it lists the store, those of the given schemas only, takes an error
    for no rows, and knows no age. Here it is not shown what is left to :func:`dj_npy.collect`,
    nor any array to which a row of any schema refers once the store has been listed.
    """

    def correct(original: Method) -> Method:
        def list_schema_paths(self: Any, schema_name: str) -> dict[str, int]:
            listed: dict[str, int] = original(self, schema_name)
            [connection, *_] = [s.connection for s in self.schemas if s.database == schema_name]
            if not listed:
                return listed
            with snapshot(connection) as now:
                columns = now.columns([schema_name])
                layout = Layout(columns, self._schema_prefix, now.caseless)
                listed = {path: n for path, n in listed.items() if layout.what(path) is None}
                names = Listing((path, layout.core(path)) for path in listed)
                for reference in now.references():
                    for path in names.of(reference):
                        listed.pop(path, None)
            return listed

        return list_schema_paths

    if hasattr(gc.GarbageCollector, "list_schema_paths"):
        _replace(gc.GarbageCollector, "list_schema_paths", correct)


def apply() -> None:
    """Make every correction."""
    default_store()
    fetch_without_loading()
    key_of_an_update()
    hash_of_a_three_part_make()
    files_of_refused_rows()
    files_of_rolled_back_transactions()
    cost_of_a_value()
    garbage_collection()
    tables_of_references()
