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

_TEXT = r"(?:n?char|character|varchar|text|jsonb?)\b"


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
            _check_expressions(self, restriction.order_by or (), "ordered")
        return original(self, restriction, *args, **kwargs)

    return restrict


def projection_of_arrays(original: Method) -> Method:
    """MySQL computes ``waveform + 1`` as 1."""

    def proj(self: Any, *attributes: Any, **computed: Any) -> Any:
        _check_expressions(self, computed.values(), "computed with", may_rename=True)
        return original(self, *attributes, **computed)

    return proj


def _array_attributes(attributes: Mapping[str, Any]) -> list[str]:
    return [
        name
        for name, attribute in attributes.items()
        if attribute.codec is not None and attribute.codec.name == NpyCodec.name
    ]


def _comparable(query: Any, condition: Any) -> Any:
    """Return a condition with the paths of references in place of the references."""
    if isinstance(condition, dj.Not):
        negated = _comparable(query, condition.restriction)
        if isinstance(negated, Mapping | dj.AndList) and _array_attributes(
            query.heading.attributes
        ):
            negated = [negated]  # DataJoint's NOT (a)AND(b) negates only a
        return dj.Not(negated)
    if isinstance(condition, np.void) and condition.dtype.names:
        condition = {name: condition[name] for name in condition.dtype.names}
    if isinstance(condition, Mapping):
        return _by_path(query, condition)
    if isinstance(condition, str):
        _check_expressions(query, [condition], "compared or computed with")
    elif isinstance(condition, ArrayLike | dj.NpyRef):
        raise ArrayInvalidError(
            f"{kind_of(condition)} is no restriction: restrict by the key of its row, "
            f"Recording & key, or by the reference, Recording & {{'waveform': ref}}"
        )
    return condition


def _by_path(query: Any, condition: Mapping[str, Any]) -> Mapping[str, Any]:
    found = dict(condition)
    arrays = [name for name in _array_attributes(query.heading.attributes) if name in found]
    if arrays and found.keys() >= set(query.primary_key):
        # A row. No float32 is equal to its decimals, nor NaN to anything.
        for name, value in condition.items():
            if isinstance(value, float | np.floating) and name not in (*query.primary_key, *arrays):
                del found[name]
    for name in arrays:
        value = found[name]
        if value is None:
            continue
        in_mysql = query.connection.adapter.backend == "mysql"
        if not isinstance(value, dj.NpyRef) or (in_mysql and len(value.path) > _JSON_VALUE_LENGTH):
            raise _refusal(name, f"compared with {kind_of(value)}")
        del found[name]
        found[f"{name}.path"] = value.path
    for name, value in found.items():
        if isinstance(value, ArrayLike | dj.NpyRef) and name.split(".")[0] in query.heading.names:
            raise ArrayInvalidError(
                f"{name} is no attribute of arrays, and cannot be compared with {kind_of(value)}: "
                f"name the attribute that has the array, such as {{'waveform': ref}}"
            )
    return found


def _check_expressions(
    query: Any, expressions: Iterable[Any], what: str, *, may_rename: bool = False
) -> None:
    """
    Reject SQL that mentions an array otherwise than in `IS NULL`, `count`, as JSON or as text.

    SQL reaches attributes that a projection has left out, too.
    """
    attributes = {**query.original_heading.attributes, **query.heading.attributes}
    names = "|".join(_array_attributes(attributes)).lower()
    if not names:
        return
    for expression in expressions:
        sql = _without_quotes(str(expression).lower(), query.connection.adapter.backend)
        bracketed = rf"(^|[^\w\s]|\b(?:not|and|or|when))\s*\(\s*({names})\s*\)"
        sql = re.sub(bracketed, r"\1 \2", sql)
        for found in re.finditer(rf"(?<![\w.])({names})(?!\w|\s*\()", sql):
            alone = may_rename and sql.strip() == found[0]
            if not alone and not _as_json(sql[: found.start()], sql[found.end() :]):
                raise _refusal(found[0], what)


def _without_quotes(sql: str, backend: str) -> str:
    """Remove strings from SQL, and the quotes of names."""
    if backend == "mysql":  # "text", although people quote names so as well
        sql = re.sub(r"\\['\"]", "", sql)
        sql = re.sub(r'([=<>(,]|\blike\b)\s*"[^"]*"', r"\1 ''", sql)
    sql = re.sub(r"'[^']*'", "''", sql)
    return re.sub(r"[`\"]", "", sql)


def _as_json(before: str, after: str) -> bool:
    """Whether SQL takes what is between `before` and `after` for JSON or text, or for NULL."""
    closed = 1
    while closed:
        before, closed = re.subn(r"\([^()]*\)", "", before)
    if re.search(r"json\w*\s*\([^()]*$|(?:<@|@>)\s*$", before):
        return True
    if re.search(r"\b(?:count|isnull)\s*\(\s*$", before) and re.match(r"\s*\)", after):
        return True
    if re.search(r"\b(?:cast|convert)\s*\(\s*$", before):
        pattern = rf"\s*(?:,|\bas\b)\s*{_TEXT}|\s+using\b"
    else:
        is_null = r"(?:is\s+(?:not\s+)?(?:null|json)|isnull|notnull)\b"
        pattern = rf"\s*(?:{is_null}|->|\#>|<?@|\?|\.|\[|::\s*{_TEXT})"
    return re.match(pattern, after) is not None


def _refusal(name: str, what: str) -> ArrayInvalidError:
    return ArrayInvalidError(
        f"{name} cannot be {what} in a query: the database has the path of a file, and not the "
        f"array. Restrict by the key, by '{name} IS NOT NULL', or by what the row says, such as "
        f"{{'{name}.dtype': 'float64'}}; compute with what dj_npy.stream reads"
    )
