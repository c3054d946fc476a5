"""Conditions of rows: what a user wrote, and the values of a key."""

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from dj_npy._view.answers import Refused

NUMBER = re.compile(r"(?i)(tiny|small|medium|big)?(int(eger)?\b|serial)|float|double|real|dec|num")
"""Types of the database that are numbers."""
_MOST_DIGITS = 400
"""Of a decimal, before and after the point: PyMySQL writes out all of 1e999999999."""


def restricted(table: Any, restriction: str) -> tuple[str, Sequence[Any]]:
    """
    Return the WHERE clause of a restriction, in which ``%%`` is ``%``, and the values for it.

    Parameters
    ----------
    table : datajoint.FreeTable
        The table.
    restriction : str
        A condition in DataJoint's words, or a dict in JSON.
    """
    if restriction.lstrip().startswith("{"):
        condition, values = equal(table, _given(table, restriction, "restriction"))
        return f" WHERE {condition}" if condition else "", values
    check_condition(restriction, table.connection.adapter.quote_identifier("")[0])
    return (table & restriction).where_clause() if restriction.strip() else "", ()


def check_condition(text: str, mark: str) -> None:
    """
    Raise unless a text can only be one expression, wherever in brackets it is put.

    So it ends no statement, begins none, and leaves out no rest. What an expression may do is
    bounded by the transaction: it reads, and not for long.

    Parameters
    ----------
    text : str
        The condition.
    mark : str
        What the database quotes names by: a backtick that is none would hide what follows.
    """
    bare = re.sub(rf"""'[^']*'|"[^"]*"|{mark}[^{mark}]*{mark}""", " 0 ", text)
    depth = 0
    for each in re.findall("[()]", bare):
        depth += 1 if each == "(" else -1
        if depth < 0:
            break
    if depth or re.search(r"[\\\x00]", text) or re.search(r"""['"`;#$]|--|/\*""", bare):
        raise Refused(
            400,
            "this is not one condition, such as subject = 'a' AND day > '2024-01-01': brackets and "
            "quotes are closed, and there are no comments, semicolons, backslashes, # or $",
        )


def _given(table: Any, text: str, what: str) -> dict[str, Any]:
    """Return attributes of a table and their values, given in JSON."""
    try:
        found = json.loads(text, parse_float=_decimal)
    except (ValueError, RecursionError):
        found = None
    plain = (str, int, Decimal, type(None))
    if not isinstance(found, dict) or not all(isinstance(each, plain) for each in found.values()):
        raise Refused(400, f"{what} is a JSON object of attributes and values, not {text:.100}")
    for name in found:
        if name not in table.heading.attributes:
            raise Refused(400, f"{what} names {name!r:.100}, which the table does not have")
    return found


def _decimal(text: str) -> Decimal:
    number = Decimal(text)
    if abs(number.adjusted()) > _MOST_DIGITS:
        raise ValueError
    return number


def given_key(table: Any, text: str, what: str) -> dict[str, Any]:
    """Return the value of each attribute of a table's key, given in JSON."""
    found = _given(table, text, what)
    key = table.heading.primary_key
    if found.keys() != {*key} or None in found.values():
        raise Refused(400, f"{what} has a value for each of {', '.join(key)}, not {text:.200}")
    return {name: found[name] for name in key}


def stored_value(table: Any, name: str, value: Any) -> Any:
    """Return a value as the database compares it without converting the whole column."""
    attribute = table.heading.attributes[name]
    try:
        if isinstance(value, str) and NUMBER.match(attribute.type):
            return int(value) if re.fullmatch(r"[+-]?\d{1,40}", value) else _decimal(value)
        if attribute.uuid and table.connection.adapter.backend == "mysql":
            return uuid.UUID(value).bytes
    except (ValueError, InvalidOperation, AttributeError):
        raise Refused(400, f"{name} cannot be {value!r:.100}") from None
    return value


def equal(table: Any, given: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """Return the condition of rows with given values, and the values for it."""
    quote = table.connection.adapter.quote_identifier
    conditions = [
        f"{quote(name)} IS NULL" if value is None else f"{quote(name)} = %s"
        for name, value in given.items()
    ]
    values = [stored_value(table, name, each) for name, each in given.items() if each is not None]
    return " AND ".join(conditions), values


def behind(table: Any, key: Mapping[str, Any], direction: str) -> tuple[str, list[Any]]:
    """Return the condition of rows behind a key in its order, and the values for it."""
    adapter, sign = table.connection.adapter, "<" if direction == "DESC" else ">"
    names = [adapter.quote_identifier(name) for name in key]
    values = [stored_value(table, name, value) for name, value in key.items()]
    if adapter.backend == "postgresql":
        return f"({', '.join(names)}) {sign} ({', '.join(['%s'] * len(names))})", values
    # MySQL finds a place in an index by this form, and not by the other.
    condition, wanted = f"{names[-1]} {sign} %s", [values[-1]]
    for name, value in zip(names[-2::-1], values[-2::-1], strict=True):
        condition = f"{name} {sign} %s OR ({name} = %s AND ({condition}))"
        wanted = [value, value, *wanted]
    return f"({condition})", wanted
