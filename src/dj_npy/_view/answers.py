"""What the server answers: JSON, or a header in JSON and the bytes of an array; what it refuses."""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from dj_npy._format.npyfile import AnyArray, bytes_view

BINARY = "application/octet-stream"


class Refused(Exception):  # noqa: N818 - not a failure, but an answer
    """
    A request that is not served, and why.

    Parameters
    ----------
    status : int
        Of HTTP: 400 wrong request, 404 not there, 413 more than a bound, 502 not to be reached.
    message : str
        A sentence for the user: what, where, what to do.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Answer(NamedTuple):
    """An answer of the server."""

    pieces: tuple[bytes | memoryview, ...]
    """The body, in pieces."""
    media_type: str = BINARY
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of the body."""
        return sum(map(len, self.pieces))


def as_json(value: Any, status: int = 200) -> Answer:
    """Return an answer in JSON."""
    return Answer((json.dumps(value, allow_nan=False).encode(),), "application/json", status)


def binary(header: Mapping[str, Any], *bodies: AnyArray | bytes) -> Answer:
    """
    Return the length of a header as 4 little-endian bytes, the header in JSON, and the bodies.

    The header is padded with spaces, so that the bodies begin at a multiple of 8 bytes.
    """
    text = json.dumps(header, allow_nan=False).encode()
    text += b" " * (-(4 + len(text)) % 8)
    pieces = [len(text).to_bytes(4, "little") + text]
    for body in bodies:
        view = body if isinstance(body, bytes) else bytes_view(np.ascontiguousarray(body))
        pieces.append(view)  # type: ignore[arg-type]
    return Answer(tuple(pieces))


def finite(value: Any) -> float | None:
    """Return a number as JSON can have it: None if it is not finite."""
    number = float(value)
    return number if math.isfinite(number) else None


def little_endian(array: AnyArray) -> AnyArray:
    """Return an array without fields in little-endian byte order."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def integer(params: Mapping[str, str], name: str, default: int | None = None) -> int:
    """Return a parameter of a request that is a whole number, 0 or more."""
    text = params.get(name, "")
    if not text and default is not None:
        return default
    if not text.isdecimal() or len(text) > 18:
        raise Refused(400, f"{name} is a whole number, 0 or more, not {text!r:.40}")
    return int(text)


def span(text: str, length: int, name: str) -> slice:
    """Return ``"a:b"`` as a slice of an axis, cut to its length; an end may be left out."""
    start, colon, stop = text.partition(":")
    if not colon or not all(
        not end or (end.isdecimal() and len(end) < 19) for end in (start, stop)
    ):
        raise Refused(400, f"{name} is of the form 0:100, not {text!r:.40}")
    last = min(int(stop), length) if stop else length
    return slice(min(int(start or 0), last), last)


def axis_of(params: Mapping[str, str], ndim: int) -> int:
    """Return the parameter `axis`."""
    axis = integer(params, "axis", 0)
    if axis >= ndim:
        raise Refused(400, f"there is no axis {axis}: the array has {ndim}")
    return axis


def kind_of_projection(params: Mapping[str, str]) -> str:
    """Return the parameter `kind`, of a projection."""
    kind = params.get("kind", "mean")
    if kind not in ("mean", "max", "std"):
        raise Refused(400, f"kind is mean, max or std, not {kind!r:.40}")
    return kind
