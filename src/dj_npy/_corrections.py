"""
Faults of DataJoint 2.3 that the specification cannot live with, one function each.

Each replaces a method by one that calls the original, and changes nothing where the original
no longer has the fault. The replaced method is its replacement's ``__wrapped__``.
"""

import functools
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

from datajoint import codecs
from datajoint.errors import DataJointError, QueryError
from datajoint.expression import QueryExpression
from datajoint.heading import Heading
from datajoint.settings import Config
from datajoint.table import Table

from dj_npy._arraylike import as_scalar
from dj_npy._codec import row_key, written
from dj_npy._errors import NpyError

Method = Callable[..., Any]


def _replace(owner: Any, name: str, correct: Callable[[Method], Method]) -> None:
    """Put a correction in the place of a method; once, also if this package is imported anew."""
    original = getattr(owner, name)
    if getattr(original, "_corrected_by_dj_npy", False):
        original = original.__wrapped__
    corrected = functools.wraps(original)(correct(original))
    corrected._corrected_by_dj_npy = True  # type: ignore[attr-defined]
    setattr(owner, name, corrected)


def _while_set(variable: ContextVar[Any], value: Any, call: Callable[[], Any]) -> Any:
    token = variable.set(value)
    try:
        return call()
    finally:
        variable.reset(token)


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
    Within them a reference tells NumPy that it is one object.
    """

    def correct(original: Method) -> Method:
        def fetch(self: Any, *args: Any, **kwargs: Any) -> Any:
            return _while_set(as_scalar, True, lambda: original(self, *args, **kwargs))

        return fetch

    _replace(QueryExpression, "to_arrays", correct)
    _replace(QueryExpression, "fetch", correct)


def key_of_an_update() -> None:
    """`Table.update1` does not tell the codec the row's key, so a path cannot mirror it."""

    def correct(original: Method) -> Method:
        def update1(self: Any, row: Any) -> Any:
            # What is not a mapping is the original's to complain about.
            names = self.primary_key if isinstance(row, Mapping) else ()
            key = {name: row[name] for name in names if name in row}
            return _while_set(row_key, key, lambda: original(self, row))

        return update1

    _replace(Table, "update1", correct)


def files_of_a_refused_insert() -> None:
    """
    An insert that is refused leaves the files of the rows, or attributes, before the bad one.

    `Table` encodes row after row, then sends the INSERT. When the value, the store or the
    database says no, the files this insert has created are removed. After any other error,
    a lost connection above all, the rows may be there: then the files stay.
    """

    def correct(original: Method) -> Method:
        def _insert_rows(self: Any, *args: Any, **kwargs: Any) -> Any:
            created: list[Any] = []
            try:
                return _while_set(written, created, lambda: original(self, *args, **kwargs))
            except (NpyError, QueryError):
                for store, path in created:
                    store.remove(path)
                raise

        return _insert_rows

    if hasattr(Table, "_insert_rows"):
        _replace(Table, "_insert_rows", correct)


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


def apply() -> None:
    """Make every correction."""
    default_store()
    fetch_without_loading()
    key_of_an_update()
    files_of_a_refused_insert()
    cost_of_a_value()
