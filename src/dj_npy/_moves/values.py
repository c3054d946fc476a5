"""Values of rows as neutral text, the same whichever database has them, and back."""

import base64
import json
import math
import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np

_INTEGERS = {"int8": 7, "int16": 15, "int32": 31, "int64": 63}
"""Bits of the largest value, besides the sign."""
_WORDS_TO = {math.inf: "INF", -math.inf: "-INF"}
_WORDS = {"NaN": math.nan, "INF": math.inf, "-INF": -math.inf}
"""How Frictionless spells what is no number."""
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?")
_TIME = re.compile(r"(-?\d{2,3}:\d\d:\d\d)(?:\.(\d{1,6}))?")
_NUL_IN_JSON = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_NUMBER = re.compile(r"-?\d+")


class Kind(NamedTuple):
    """How values of some types are read from a database, written, and sent to another."""

    select: dict[str, str]
    """SQL by backend, where the column itself will not do."""
    encode: Callable[[Any], str]
    """From what the driver returns, which is not None, to text."""
    decode: Callable[[str, str, str], Any]
    """
    From text, type and backend to what the driver is sent; raises ValueError with the reason.
    """
    field: dict[str, str]
    """Type and format of a Frictionless field."""


def kind_of_type(storage: str) -> Kind:
    """Return the kind of a type by which values are stored: ``int32``, ``decimal(10,2)``."""
    name = re.split(r"\W", storage, maxsplit=1)[0]
    if name == "datetime":
        return _PRECISE if precision(storage) else _SECONDS
    return _KINDS[name]


def precision(storage: str) -> int:
    """Return the number of digits behind the second of a ``datetime(n)``."""
    found = re.search(r"\((\d+)\)", storage)
    return int(found[1]) if found else 0


def select_sql(column: str, storage: str, backend: str) -> str:
    """Return the SQL that reads a column."""
    return kind_of_type(storage).select.get(backend, "{0}").format(column)


def order_sql(column: str, storage: str, backend: str) -> str:
    """Return the SQL to order by a column so that each database orders alike."""
    if storage.startswith(("char", "varchar", "text")):
        if backend == "postgresql":
            return f'CAST({column} AS TEXT) COLLATE "C"'
        return f"CAST(CONVERT({column} USING utf8mb4) AS BINARY)"
    return column


def _integer(value: Any) -> str:
    return str(int(value))


def _to_integer(text: str, storage: str, backend: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ValueError("it is no integer")
    value = int(text)
    bits = _INTEGERS.get(storage, 64)
    if storage == "int8" and backend == "postgresql":  # a smallint
        bits = 15
    if not -(1 << bits) <= value < 1 << bits:
        raise ValueError(f"it is too large for {storage}")
    return value


def _single(value: Any) -> str:
    # Shortest text of a float32, however the server or the driver spelled it.
    value = np.float32(value)
    return _word(float(value)) or str(value)


def _double(value: Any) -> str:
    value = float(value)
    return _word(value) or repr(value)


def _word(value: float) -> str | None:
    return "NaN" if math.isnan(value) else _WORDS_TO.get(value)


def _to_double(text: str, storage: str, backend: str) -> float | str:
    if text in _WORDS:
        if backend == "mysql":
            raise ValueError("MySQL and MariaDB have no NaN and no infinity")
        return _WORDS[text]
    if not re.fullmatch(r"-?\d+(\.\d+)?(e[+-]?\d+)?", text):
        raise ValueError("it is no number")
    if text == "-0.0" and backend == "postgresql":  # to which a -0.0 without quotes is 0
        return text
    # The exact value of a float32: its shortest text is another double.
    return float(np.float32(text)) if storage == "float32" else float(text)


def _decimal(value: Any) -> str:
    value = value if isinstance(value, Decimal) else Decimal(str(value))
    return format(value, "f") if value.is_finite() else str(value)


def _to_decimal(text: str, _: str, backend: str) -> Decimal:
    if not re.fullmatch(r"-?\d+(\.\d+)?|NaN", text):
        raise ValueError("it is no decimal")
    if text == "NaN" and backend == "mysql":
        raise ValueError("MySQL and MariaDB have no NaN")
    return Decimal(text)


def _bool(value: Any) -> str:
    if isinstance(value, str):  # PostgreSQL's
        return value
    return {0: "false", 1: "true"}.get(value, str(value))


def _to_bool(text: str, _: str, backend: str) -> bool | int:
    if text in ("true", "false"):
        return text == "true"
    if backend == "mysql" and _NUMBER.fullmatch(text):  # a bool of theirs is a tinyint
        return _to_integer(text, "int8", backend)
    raise ValueError("it is neither true nor false")


def _uuid(value: Any) -> str:
    return str(UUID(bytes=bytes(value)) if isinstance(value, bytes | bytearray) else UUID(value))


def _to_uuid(text: str, *_: str) -> str:
    return str(UUID(text))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _to_text(text: str, _: str, backend: str) -> str:
    if backend == "postgresql" and "\0" in text:
        raise ValueError("PostgreSQL has no text with a NUL character")
    return text


def _bytes(value: Any) -> str:
    return base64.b64encode(bytes(value)).decode("ascii")


def _to_bytes(text: str, *_: str) -> bytes:
    return base64.b64decode(text.encode("ascii"), validate=True)


def _moment_text(value: Any) -> tuple[str, str, str] | None:
    """Return day, time and six digits."""
    if isinstance(value, datetime):
        return f"{value:%Y}".zfill(4) + f"{value:-%m-%d}", f"{value:%H:%M:%S}", f"{value:%f}"
    found = _MOMENT.fullmatch(value)
    return found and (found[1], found[2], (found[3] or "").ljust(6, "0"))


def _seconds(value: Any) -> str:
    found = _moment_text(value)
    if found is None or int(found[2]):
        return _precise(value)
    return f"{found[0]}T{found[1]}"


def _precise(value: Any) -> str:
    # PostgreSQL has "infinity" and years BC, MySQL 0000-00-00: kept as they are spelled.
    found = _moment_text(value)
    return str(value) if found is None else f"{found[0]}T{found[1]}.{found[2]}"


def _to_moment(text: str, storage: str, backend: str) -> Any:
    found = _MOMENT.fullmatch(text)
    if found is None or _is_partial(found[1]):
        return _as_spelled(text, backend)
    digits = (found[3] or "").rstrip("0")
    if len(digits) > precision(storage):
        raise ValueError(f"{storage} has fewer digits behind the second")
    return datetime.fromisoformat(f"{found[1]}T{found[2]}.{digits.ljust(6, '0')}")


def _is_partial(day: str) -> bool:
    """Whether it is a day of MySQL's whose year, month or day is zero."""
    return day.startswith("0000-") or "-00" in day[4:10]


def _as_spelled(text: str, backend: str) -> str:
    """Return a moment that is no date of a calendar, where the database has such."""
    of_mysql = _is_partial(text)
    if of_mysql != (backend == "mysql"):
        raise ValueError("this database has no such date")
    return text


def _date(value: Any) -> str:
    return value.isoformat() if isinstance(value, date) else str(value)


def _to_date(text: str, _: str, backend: str) -> Any:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", text) or _is_partial(text):
        return _as_spelled(text, backend)
    return date.fromisoformat(text)


def _time(value: Any) -> str:
    if isinstance(value, timedelta):
        sign, seconds = "-" if value < timedelta(0) else "", abs(value)
        minutes, second = divmod(seconds.days * 86400 + seconds.seconds, 60)
        hour, minute = divmod(minutes, 60)
        return f"{sign}{hour:02}:{minute:02}:{second:02}.{seconds.microseconds:06}"
    if isinstance(value, time):
        return value.isoformat("microseconds")
    found = _TIME.fullmatch(value)
    return f"{found[1]}.{(found[2] or '').ljust(6, '0')}" if found else str(value)


def _to_time(text: str, _: str, backend: str) -> str:
    found = _TIME.fullmatch(text)
    if found is None or (backend == "postgresql" and not "00" <= found[1][:-6] <= "24"):
        raise ValueError("it is no time of a day")
    return text


def _json(value: Any) -> str:
    """Return a JSON in one spelling of spaces and numbers; as it is if that would change it."""
    text = _text(value)
    try:
        parsed = json.loads(
            text, parse_int=_Number, parse_float=_Number, object_pairs_hook=_no_name_twice
        )
        spelled = _spelled(parsed)
        spelled.encode()  # lone surrogates stay escaped
    except (ValueError, RecursionError):
        return text
    return spelled


class _Number(str):
    """The text of a number in a JSON."""

    __slots__ = ()

    def spelled(self) -> str:
        """Return it as Python would, if that is the same number."""
        if _NUMBER.fullmatch(self) and len(self) <= 18:
            return str(self)
        plain = repr(float(self))
        exact = math.isfinite(float(self)) and Decimal(plain) == Decimal(self)
        small = _NUMBER.fullmatch(self) and -(1 << 63) <= int(self) < 1 << 64
        return plain if exact and not small else str(self)


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found


def _spelled(value: Any) -> str:
    if isinstance(value, _Number):
        return value.spelled()
    if isinstance(value, dict):
        items = (f"{json.dumps(k, ensure_ascii=False)}: {_spelled(v)}" for k, v in value.items())
        return f"{{{', '.join(items)}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_spelled, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _to_json(text: str, _: str, backend: str) -> str:
    if backend == "postgresql" and _NUL_IN_JSON.search(text):
        raise ValueError("PostgreSQL has no JSON with a NUL character")
    json.loads(text)
    return text


_AS_TEXT = {"postgresql": "CAST({0} AS TEXT)"}
_INTEGER = Kind(_AS_TEXT, _integer, _to_integer, {"type": "integer"})
_STRING = Kind(_AS_TEXT, _text, _to_text, {"type": "string"})
_SECONDS = Kind(_AS_TEXT, _seconds, _to_moment, {"type": "datetime", "format": "%Y-%m-%dT%H:%M:%S"})
_PRECISE = Kind(
    _AS_TEXT, _precise, _to_moment, {"type": "datetime", "format": "%Y-%m-%dT%H:%M:%S.%f"}
)
_KINDS = {
    **dict.fromkeys(_INTEGERS, _INTEGER),
    # MySQL prints six digits of a FLOAT, and all of a product; a sum would lose the sign of -0.
    "float32": Kind(_AS_TEXT | {"mysql": "{0} * 1e0"}, _single, _to_double, {"type": "number"}),
    "float64": Kind(_AS_TEXT, _double, _to_double, {"type": "number"}),
    "decimal": Kind(_AS_TEXT, _decimal, _to_decimal, {"type": "number"}),
    "bool": Kind(_AS_TEXT, _bool, _to_bool, {"type": "boolean"}),
    "uuid": Kind(_AS_TEXT, _uuid, _to_uuid, {"type": "string", "format": "uuid"}),
    **dict.fromkeys(("char", "varchar", "text", "enum"), _STRING),
    "bytes": Kind({}, _bytes, _to_bytes, {"type": "string", "format": "binary"}),
    "json": Kind(_AS_TEXT, _json, _to_json, {"type": "any"}),
    "date": Kind(_AS_TEXT, _date, _to_date, {"type": "date"}),
    "time": Kind(_AS_TEXT, _time, _to_time, {"type": "string"}),
    # The JSON of an `<npy@>` value, as it is.
    "npy": Kind(_AS_TEXT, _text, _to_json, {"type": "string"}),
}
