"""What a query may say of an attribute whose arrays lie in files: corrections of DataJoint's."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import datajoint as dj
import numpy as np

from dj_npy._array.arraylike import ArrayLike
from dj_npy._datajoint.codec import NpyCodec
from dj_npy._errors import ArrayInvalidError
from dj_npy._text import kind_of

Method = Callable[..., Any]

_JSON_VALUE_LENGTH = 512
"""Most characters of a JSON's item that MySQL compares: a longer one is NULL."""


def condition_on_arrays(original: Method) -> Method:
    """
    A fetched row restricts no query: a reference is put into the SQL as its `repr`.

    So ``Recording & row`` is an SQL error, ``Recording & ref`` reads the array, and MySQL answers
    ``"waveform > 3"`` by comparing JSON. Here, a reference means the rows of its file.
    """

    def make_condition(query: Any, condition: Any, *args: Any, **kwargs: Any) -> Any:
        return original(query, _comparable(query, condition), *args, **kwargs)

    return make_condition


def order_by_arrays(original: Method) -> Method:
    """Databases order rows by the text of an array's JSON, each by its own rules."""

    def restrict(self: Any, restriction: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(restriction, dj.Top):
            for attribute in restriction.order_by or ():
                name = attribute.split()[0].strip('`"') if attribute.strip() else ""
                if name in _array_attributes(self):
                    raise _refusal(name, "ordered")
        return original(self, restriction, *args, **kwargs)

    return restrict


def projection_of_arrays(original: Method) -> Method:
    """MySQL computes ``waveform + 1`` as 1."""

    def proj(self: Any, *attributes: Any, **computed: Any) -> Any:
        _check_expressions(self, computed.values())
        return original(self, *attributes, **computed)

    return proj


def _array_attributes(query: Any) -> list[str]:
    return [
        name
        for name, attribute in query.heading.attributes.items()
        if attribute.codec is not None and attribute.codec.name == NpyCodec.name
    ]


def _comparable(query: Any, condition: Any) -> Any:
    """Return a condition with the paths of references in place of the references."""
    if isinstance(condition, dj.Not):
        return dj.Not(_comparable(query, condition.restriction))
    if isinstance(condition, np.void) and condition.dtype.names:
        condition = {name: condition[name] for name in condition.dtype.names}
    if isinstance(condition, Mapping):
        return _by_path(query, condition)
    if isinstance(condition, str):
        _check_expressions(query, [condition])
    elif isinstance(condition, ArrayLike | dj.NpyRef):
        raise ArrayInvalidError(
            f"{kind_of(condition)} is no restriction: restrict by the key of its row, "
            f"Recording & key, or by the reference, Recording & {{'waveform': ref}}"
        )
    return condition


def _by_path(query: Any, condition: Mapping[str, Any]) -> Mapping[str, Any]:
    found = dict(condition)
    for name in _array_attributes(query):
        value = found.get(name)
        if value is None:
            continue
        in_mysql = query.connection.adapter.backend == "mysql"
        if not isinstance(value, dj.NpyRef) or (in_mysql and len(value.path) > _JSON_VALUE_LENGTH):
            raise _refusal(name, f"compared with {kind_of(value)}")
        del found[name]
        found[f"{name}.path"] = value.path
    return found


def _check_expressions(query: Any, expressions: Iterable[Any]) -> None:
    """Reject SQL that computes or compares with an array itself."""
    names = "|".join(map(re.escape, _array_attributes(query)))
    if not names:
        return
    computes = re.compile(
        rf"""(?: (?<![\w.'])(?P<one>{names})\s*
                 (?: [=<>!+*/%] | -(?!>) | \b(?:not\s+)?(?:like|ilike|rlike|regexp|between|in)\b )
               | \b(?:max|min|sum|avg)\s*\(\s*(?P<other>{names})\s*\) )""",
        re.IGNORECASE | re.VERBOSE,
    )
    for expression in expressions:
        unquoted = re.sub(r"'[^']*'", "''", str(expression))
        found = computes.search(re.sub(r"[`\"]", "", unquoted))
        if found:
            raise _refusal(found["one"] or found["other"], "compared or computed with")


def _refusal(name: str, what: str) -> ArrayInvalidError:
    return ArrayInvalidError(
        f"{name} cannot be {what} in a query: the database has the path of a file, and not the "
        f"array. Restrict by the key, by '{name} IS NOT NULL', or by what the row says, such as "
        f"{{'{name}.dtype': 'float64'}}; compute with what dj_npy.stream reads"
    )
