"""Corrections of DataJoint's fetch: what loads every array, and what each value costs."""

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from types import CodeType
from typing import Any

import datajoint as dj

from dj_npy._array.arraylike import as_scalar
from dj_npy._array.ref import NpyRef
from dj_npy._datajoint.codec import NpyCodec
from dj_npy._datajoint.context import call_with, json_as_text

Method = Callable[..., Any]

_OF_JSON = 114, 3802  # what PostgreSQL calls json and jsonb
_ROWS = "self cursor heading names connection decode_attribute"
_TOP = "_apply_top order_by limit offset squeeze"
_KNOWN = {
    "__iter__": _ROWS,
    "to_dicts": f"{_ROWS} {_TOP}",
    "to_arrays": f"{_ROWS} {_TOP} to_dicts proj include_key primary_key fetchall as_dtype is_blob "
    "np array append empty dtype object numbers Number isinstance type functools partial map list "
    "len zip enumerate tuple ValueError",
    "decode_attribute": "attr data squeeze connection codec json uuid is_blob name getattr str "
    "resolve_dtype lower isinstance loads UUID numpy ndarray reversed type _accepts_kwarg decode "
    "_config",
}
"""What DataJoint's methods look up, if they do what their replacements here rely on."""


def fetch_without_loading(original: Method) -> Method:
    """
    `fetch` and `to_arrays` load every array of every row.

    They pass decoded values to `numpy.array`, which loads any array-like. Meanwhile a reference
    poses as a single object to NumPy; but not to another codec that is chained to ours and decodes
    its value.
    """

    def fetch(self: Any, *args: Any, **kwargs: Any) -> Any:
        return call_with({as_scalar: True}, lambda: original(self, *args, **kwargs))

    return fetch


def arrays_without_loading(original: Method) -> Method:
    """See `fetch_without_loading`, and `cost_of_dicts`."""
    is_known = _is_known(original)

    def to_arrays(self: Any, *attrs: Any, **kwargs: Any) -> Any:
        # Whole rows DataJoint itself decodes, so nothing else in them may be a JSON.
        as_text = (is_known and not attrs and not _is_cached(self)) and all(
            _is_ours(attr) if attr.codec else not (attr.json or attr.attribute_expression)
            for attr in self.heading.attributes.values()
        )
        values = {as_scalar: True, json_as_text: as_text}
        return call_with(values, lambda: original(self, *attrs, **kwargs))

    return to_arrays


def decode_without_loading(original: Method) -> Method:
    """See `fetch_without_loading`; and skip the codec lookup for each ``<npy@>`` value."""

    def decode_attribute(attr: Any, data: Any, *args: Any, **kwargs: Any) -> Any:
        if attr.codec is None:
            return original(attr, data, *args, **kwargs)
        connection = kwargs.get("connection")
        if data is not None and connection is not None and _is_ours(attr):
            return NpyRef(data, connection._config)
        if not as_scalar.get():
            return original(attr, data, *args, **kwargs)
        return call_with({as_scalar: False}, lambda: original(attr, data, *args, **kwargs))

    return decode_attribute


def _is_ours(attr: Any) -> bool:
    """Whether our codec, and no other, decodes an attribute's values."""
    return attr.codec.name == "npy" and type(dj.codecs._codec_registry.get("npy")) is NpyCodec


def _is_cached(query: Any) -> bool:
    """Whether rows are kept in a file, in the form in which they were first asked for."""
    return bool(getattr(query.connection, "_query_cache", None))


def cost_of_dicts(original: Method) -> Method:
    """
    `to_dicts` works out for each value of each row what to do with it.

    Before that, psycopg2 parses each JSON, and builds each row's dict in Python. Here it is worked
    out once, and a JSON of ours stays text until something of it is asked.
    """
    if not _is_known(original):
        return original

    def to_dicts(
        self: Any, order_by: Any = None, limit: Any = None, offset: Any = None, squeeze: Any = False
    ) -> Any:
        if _is_cached(self):
            return original(self, order_by, limit, offset, squeeze)
        return list(_dicts(self._apply_top(order_by, limit, offset), squeeze, original))

    return to_dicts


def cost_of_iteration(original: Method) -> Method:
    """See `cost_of_dicts`."""
    if not _is_known(original):
        return original

    def __iter__(self: Any) -> Any:  # noqa: N807
        if _is_cached(self):
            return original(self)
        return _dicts(self, False, original)

    return __iter__


def cost_of_json(original: Method) -> Method:
    """See `cost_of_dicts`."""

    def get_cursor(self: Any, connection: Any, *args: Any, **kwargs: Any) -> Any:
        cursor = original(self, connection, *args, **kwargs)
        # Of a text in another encoding, the parser could not be called later: see `_parser`.
        if json_as_text.get() and connection.encoding == "UTF8":
            from psycopg2 import extensions

            extensions.register_type(extensions.new_type(_OF_JSON, "TEXT", _unparsed), cursor)
        return cursor

    return get_cursor


def _unparsed(text: str | None, _: Any) -> str | None:
    return None if text == "null" else text  # as psycopg2 and DataJoint take a JSON's null


def _is_known(method: Any) -> bool:
    """Whether a method, and how it decodes, is what this was written for."""
    known = _KNOWN.get(getattr(method, "__name__", ""))
    if known is None or _names_in(method) != set(known.split()):
        return False
    decode = inspect.unwrap(method.__globals__.get("decode_attribute"))
    return _names_in(decode) == set(_KNOWN["decode_attribute"].split())


def _names_in(function: Any) -> set[str]:
    """Return a function's parameters and all names it looks up, in its comprehensions too."""
    within = [getattr(function, "__code__", None)]
    names: set[str] = set()
    for code in within:
        if isinstance(code, CodeType):
            names.update(code.co_names)
            within += code.co_consts
    if code := within[0]:
        count = code.co_argcount + code.co_kwonlyargcount
        names.update(code.co_varnames[:count], code.co_freevars)
    return names


def _dicts(query: Any, squeeze: Any, original: Any) -> Iterator[dict[str, Any]]:
    connection, attributes = query.connection, query.heading.attributes
    cursor = call_with({json_as_text: True}, query.cursor)
    decode = partial(
        original.__globals__["decode_attribute"], squeeze=squeeze, connection=connection
    )
    columns = {column[0]: (n, column[1]) for n, column in enumerate(cursor.description)}
    plan = []
    for name, attr in attributes.items():
        n, type_id = columns[name]
        plan.append((name, n, _converter(attr, _parser(cursor, type_id), decode)))
    for row in cursor:
        yield {name: row[n] if to is None else to(row[n]) for name, n, to in plan}


def _converter(attr: Any, parse: Method | None, decode: Any) -> Method | None:
    """Return what makes a value of what a cursor returned; None if nothing is to be done."""
    if attr.codec is not None and _is_ours(attr):
        config = decode.keywords["connection"]._config
        return lambda data: None if data is None else NpyRef(data, config)
    if attr.codec is None and not attr.json and not attr.uuid:
        return parse
    if parse is None:
        return partial(decode, attr)
    return lambda text: decode(attr, parse(text))


def _parser(cursor: Any, type_id: Any) -> Method | None:
    """Return how psycopg2 parses a column of a type that this cursor leaves as text."""
    if type_id not in (getattr(cursor, "string_types", None) or ()):
        return None
    from psycopg2 import extensions

    cast = {**extensions.string_types, **cursor.connection.string_types}[type_id]
    return lambda text: cast(text, cursor)
