"""
Patches for faults of DataJoint 2.3 that break the specification; `frames` has those of pandas.

One function per fault; `CORRECTIONS`, at the end, lists what each replaces.

Each wraps a method, and changes nothing once the original no longer has the fault. The original is
the ``__wrapped__`` of its replacement. If another DataJoint has no method of that name, nothing is
replaced, and a warning says what is lost.
"""

import functools
import importlib
import inspect
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, NamedTuple

import datajoint as dj
from datajoint.errors import DataJointError

from dj_npy._array.ref import NpyRef, row_of
from dj_npy._datajoint import frames, transactions
from dj_npy._datajoint.catalog import snapshot
from dj_npy._datajoint.codec import NpyCodec
from dj_npy._datajoint.context import call_with, current, row_key, witness
from dj_npy._datajoint.fetching import (
    arrays_without_loading,
    cost_of_dicts,
    cost_of_iteration,
    cost_of_json,
    decode_without_loading,
    fetch_without_loading,
)
from dj_npy._datajoint.insertion import Insertion, Update
from dj_npy._datajoint.restriction import (
    condition_on_arrays,
    order_by_arrays,
    projection_of_arrays,
)
from dj_npy._datajoint.storerows import TableWitness
from dj_npy._format.aliases import Listing
from dj_npy._format.layout import Layout

Method = Callable[..., Any]


class Correction(NamedTuple):
    """One fault, and the methods that correct it."""

    places: dict[str, Callable[[Method], Method]]
    """Methods, ``module:Class.name``, and the decorator for each: all are applied, or none."""
    lost: str
    """What goes wrong if one of them is missing."""
    needs: tuple[str, ...] = ()
    """What else must exist."""


def default_store(original: Method) -> Method:
    """
    ``<npy@>``, ``<blob@>``, ``<hash@>``, ``<object@>`` and ``<attach@>`` fail on insert.

    The heading names the default store ``""``, which `Config.get_store_spec` looks up as a
    configured name and does not find.
    """

    def get_store_spec(self: Any, store: str | None = None, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(self, store, *args, **kwargs)
        except DataJointError:
            if store != "":
                raise
        return original(self, None, *args, **kwargs)

    return get_store_spec


def key_of_an_update(original: Method) -> Method:
    """
    `Table.update1` does not pass the row's key to the codec, so a path cannot mirror it.

    Also, a failed update leaves its file, as a failed insert does.
    """

    def update1(self: Any, row: Any, *args: Any, **kwargs: Any) -> Any:
        # The original raises for anything but a mapping.
        names = self.primary_key if isinstance(row, Mapping) else ()
        key = {name: row[name] for name in names if name in row}
        variables: dict[ContextVar[Any], Any] = {row_key: key, witness: TableWitness(self)}
        send = functools.partial(original, self, row, *args, **kwargs)
        return Update(self).run(lambda: call_with(variables, send))

    return update1


def hash_of_a_three_part_make(original: Method) -> Method:
    """
    `populate` hashes everything that a three-part `make` fetched, element by element, twice.

    That would load every array. Its row, with path and checksum, shows a change as well.
    """

    def _populate1(self: Any, *args: Any, **kwargs: Any) -> Any:
        # Imported as late as DataJoint does, because it takes long.
        _correct(_HASH)
        return original(self, *args, **kwargs)

    return _populate1


def _hash_of_a_reference(original: Method) -> Method:
    def _hash(self: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(obj, NpyRef):
            return original(self, obj, *args, **kwargs)
        result = original(self, row_of(obj), *args, **kwargs)
        self.hashes[obj] = result  # DeepHash looks up the original object
        return result

    return _hash


def files_of_refused_rows(original: Method) -> Method:
    """
    A failed insert leaves the files of its rows.

    `Table` encodes row after row, then sends one INSERT. Files are removed if certainly no row
    refers to them: see `Insertion`.
    """
    parameters = inspect.signature(original)

    def _insert_rows(self: Any, rows: Any, *args: Any, **kwargs: Any) -> Any:
        given = parameters.bind(self, rows, *args, **kwargs).arguments
        insertion = Insertion(self, bool(given.get("skip_duplicates")))
        send = functools.partial(
            insertion.run, rows, lambda rows: original(self, rows, *args, **kwargs)
        )
        return call_with({witness: TableWitness(self)}, send)

    return _insert_rows


def files_of_rolled_back_transactions(original: Method) -> Method:
    """
    A rolled-back transaction leaves the files of the rows that it had inserted.

    They are removed after the server has answered the ROLLBACK: see `Transaction`.
    """

    def cancel_transaction(self: Any, *args: Any, **kwargs: Any) -> Any:
        transaction = transactions.end(self)
        if transaction is not None:
            transaction.before_rollback(self)
        result = original(self, *args, **kwargs)
        if transaction is not None:
            transaction.after_rollback(self)
        return result

    return cancel_transaction


def _track_start(original: Method) -> Method:
    def start_transaction(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        transactions.begin(self)
        return result

    return start_transaction


def _track_commit(original: Method) -> Method:
    def commit_transaction(self: Any, *args: Any, **kwargs: Any) -> Any:
        transactions.end(self)  # whether the COMMIT succeeds or not
        return original(self, *args, **kwargs)

    return commit_transaction


def _track_query(original: Method) -> Method:
    def query(self: Any, query: str, *args: Any, **options: Any) -> Any:
        statement, transaction = current.get(), transactions.of(self)
        sent = transactions.Sent(self)
        if statement is not None:
            statement.note_query(self, query, sent)
        if transaction is not None:
            transaction.note_statement(query, None if statement is None else statement.table_name)
        try:
            result = original(self, query, *args, **options)
        except BaseException as error:
            if transaction is not None:
                transaction.failed(error)
            raise
        finally:
            sent.ended = True
        if transaction is not None:
            transaction.answered = True
        return result

    return query


def cost_of_a_heading(original: Method) -> Method:
    """
    DataJoint copies the heading for each value of each row that it inserts.

    `Heading.__getitem__` builds a dict of all attributes to look up one. This looks it up in place:
    to insert rows of nine numbers takes a sixth less of our time.
    """

    def __getitem__(self: Any, name: str, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        attribute = (getattr(self, "_attributes", None) or {}).get(name)
        if attribute is None or getattr(attribute, "is_hidden", True):
            return original(self, name, *args, **kwargs)
        return attribute

    return __getitem__


def cost_of_a_chain(original: Method) -> Method:
    """
    DataJoint resolves a chain of codecs for each value of each row.

    This caches a chain while its codecs are the registered ones, which serves columns of other
    codecs.
    """
    cache: dict[tuple[str, str | None], Any] = {}

    def resolve_dtype(dtype: str, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs.keys() - {"store_name"}:  # such as within a chain
            return original(dtype, *args, **kwargs)
        cache_key = dtype, kwargs.get("store_name")
        resolved = cache.get(cache_key)
        if resolved is None or any(
            dj.codecs._codec_registry.get(codec.name) is not codec for codec in resolved[1]
        ):
            resolved = cache[cache_key] = original(dtype, **kwargs)
        return resolved

    return resolve_dtype


def garbage_collection(original: Method) -> Method:
    """
    `datajoint.gc` removes files of rows that it does not see.

    It reads rows before it lists the store, and only of the given schemas; it takes an error for no
    rows, and ignores a file's age. Here, it is shown neither the files that are left to
    :func:`dj_npy.collect`, nor any array to which a row of any schema refers after the store was
    listed.
    """

    def list_schema_paths(self: Any, schema_name: str, *args: Any, **kwargs: Any) -> dict[str, int]:
        listed: dict[str, int] = original(self, schema_name, *args, **kwargs)
        [connection, *_] = [s.connection for s in self.schemas if s.database == schema_name]
        if not listed:
            return listed
        with snapshot(connection) as now:
            columns = now.columns([schema_name])
            layout = Layout(columns, self._schema_prefix, now.caseless)
            listed = {path: n for path, n in listed.items() if layout.classify(path) is None}
            names = Listing((path, layout.relative_path(path)) for path in listed)
            for reference in now.references():
                for path in names.of(reference):
                    listed.pop(path, None)
        return listed

    return list_schema_paths


def codec_of_an_older_heading(original: Method) -> Method:  # noqa: ARG001
    """
    A heading loaded before this package has an instance of the built-in codec.

    It validates with that, then looks up the codec by name and encodes with ours.
    """

    def validate(self: Any, value: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG001
        return NpyCodec.validate(self, value)

    return validate


CORRECTIONS = (
    Correction(
        {"datajoint.settings:Config.get_store_spec": default_store},
        "inserts into the default store may fail: name the store, `<npy@store>`",
    ),
    Correction(
        {"datajoint.expression:decode_attribute": decode_without_loading},
        "a fetch of many rows is slower",
        needs=("datajoint.codecs:_codec_registry",),
    ),
    Correction(
        {"datajoint.expression:QueryExpression.to_arrays": arrays_without_loading},
        "`to_arrays` may load every array: use `to_dicts`",
    ),
    Correction(
        {"datajoint.expression:QueryExpression.fetch": fetch_without_loading},
        "what has taken its place may load every array: use `to_dicts`",
    ),
    Correction(
        {
            "datajoint.expression:QueryExpression.to_dicts": cost_of_dicts,
            "datajoint.expression:QueryExpression.__iter__": cost_of_iteration,
            "datajoint.adapters.postgres:PostgreSQLAdapter.get_cursor": cost_of_json,
        },
        "a fetch of many rows is slower",
    ),
    Correction(
        {"datajoint.table:Table.update1": key_of_an_update},
        "an update may write an array to a path without the row's key, and one that is refused "
        "leaves its file for `dj_npy.collect`",
    ),
    Correction(
        {"datajoint.autopopulate:AutoPopulate._populate1": hash_of_a_three_part_make},
        "a `make` in three parts loads the arrays that it has fetched, twice",
    ),
    Correction(
        {"datajoint.table:Table._insert_rows": files_of_refused_rows},
        "an insert that is refused leaves its files for `dj_npy.collect`, `dj_npy.insert` "
        "writes one array after the other, and whether a store is the right one is not asked",
    ),
    Correction(
        {
            "datajoint.connection:Connection.start_transaction": _track_start,
            "datajoint.connection:Connection.commit_transaction": _track_commit,
            "datajoint.connection:Connection.cancel_transaction": files_of_rolled_back_transactions,
            "datajoint.connection:Connection.query": _track_query,
        },
        "a transaction that is rolled back leaves its files for `dj_npy.collect`",
    ),
    Correction(
        {
            "datajoint.condition:make_condition": condition_on_arrays,
            "datajoint.expression:make_condition": condition_on_arrays,
            "datajoint.table:make_condition": condition_on_arrays,
        },
        "a row with references restricts no query: use its key",
    ),
    Correction(
        {
            "datajoint.expression:QueryExpression.restrict": order_by_arrays,
            "datajoint.expression:QueryExpression.proj": projection_of_arrays,
        },
        "MySQL and MariaDB order by, and compute with, the text of an array's JSON",
    ),
    Correction(
        {"datajoint.heading:Heading.__getitem__": cost_of_a_heading},
        "an insert of many rows is slower",
    ),
    Correction(
        {"datajoint.codecs:resolve_dtype": cost_of_a_chain},
        "a fetch of many rows is slower",
        needs=("datajoint.codecs:_codec_registry",),
    ),
    Correction(
        {"datajoint.gc:GarbageCollector.list_schema_paths": garbage_collection},
        "DataJoint's own garbage collection may remove files of rows: use `dj_npy.collect`",
    ),
    Correction(
        {"datajoint.builtin_codecs.npy:NpyCodec.validate": codec_of_an_older_heading},
        "import it before tables are used: what was declared before may refuse other arrays",
    ),
)
_HASH = Correction(
    {"deepdiff:DeepHash._hash": _hash_of_a_reference},
    "a `make` in three parts loads the arrays that it has fetched, twice",
)
_warned: set[tuple[str, str]] = set()
"""Warnings already given: warning filters forget them, and `populate` asks again."""


def apply() -> None:
    """Apply every correction, once, even if this package is imported again."""
    for correction in CORRECTIONS:
        _correct(correction)
    for place, correct in frames.PLACES.items():
        with suppress(LookupError):
            _replace(*_resolve(place), correct)


def _correct(correction: Correction) -> None:
    try:
        found = [(*_resolve(place), correct) for place, correct in correction.places.items()]
        for place in correction.needs:
            _resolve(place)
    except LookupError as missing:
        absent = missing.args[0], correction.lost
        if absent in _warned:
            return
        _warned.add(absent)
        warnings.warn(
            f"DataJoint {dj.__version__} has no {missing.args[0]}, which dj-npy corrects: "
            f"{correction.lost}. See whether there is a newer dj-npy",
            stacklevel=2,
        )
        return
    for owner, name, correct in found:
        _replace(owner, name, correct)


def _resolve(place: str) -> tuple[Any, str]:
    """Return the object that has a method, and the method's name."""
    module, _, path = place.partition(":")
    *owners, name = path.split(".")
    try:
        owner = importlib.import_module(module)
        for each in owners:
            owner = getattr(owner, each)
        getattr(owner, name)
    except (ImportError, AttributeError):
        raise LookupError(place.replace(":", ".")) from None
    return owner, name


def _replace(owner: Any, name: str, correct: Callable[[Method], Method]) -> None:
    original = getattr(owner, name)
    if getattr(original, "_corrected_by_dj_npy", False):
        original = original.__wrapped__
    corrected = correct(original)
    if corrected is not original:  # which has the fault
        corrected = functools.wraps(original)(corrected)
        corrected._corrected_by_dj_npy = True  # type: ignore[attr-defined]
    setattr(owner, name, corrected)
