"""Which array is meant, and parts of it: never more than a bound, and never kept."""

import csv
import io
import json
import keyword
import math
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dj_npy._array.ref import NpyRef, file_of
from dj_npy._datajoint.catalog import class_name
from dj_npy._format.metadata import ArrayMetadata
from dj_npy._format.npyfile import AnyArray, Header, dtype_to_json
from dj_npy._selection.index import select
from dj_npy._selection.plan import Plan
from dj_npy._text import in_units
from dj_npy._view.answers import (
    Answer,
    Refused,
    axis_of,
    binary,
    integer,
    kind_of_projection,
    little_endian,
    span,
)
from dj_npy._view.catalog import Catalog, described

MOST = 64 << 20
"""Most bytes that one request reads, and that its answer has."""
_MOST_TEXT = 16 << 20
"""Most bytes of an array that is sent as text, which takes several times as many."""
_KEPT, _KEPT_S = 64, 60
"""How many arrays are known without asking the database, and for how many seconds."""
_LONG, _LONG_SHARE, _IMAGE = 1000, 8, 16
"""Samples of a recording; how often as long as all other axes; pixels of an image's side."""

Index = tuple[Any, ...]


class Shown:
    """
    An array that is looked at.

    Parameters
    ----------
    ref : NpyRef
        The array.
    title : str
        What the page calls it.
    code : sequence of str
        Lines of Python; the last is an expression for the reference.
    name : str
        A variable for it.
    attribute, comment : str
        Of the table that it is in.
    """

    def __init__(
        self,
        ref: NpyRef,
        title: str,
        code: Sequence[str],
        name: str,
        attribute: str = "",
        comment: str = "",
    ) -> None:
        self.ref, self.title, self._code, self._name = ref, title, code, name
        self.attribute, self.comment = attribute, comment
        self._header: Header | None = None
        self._version: tuple[str, ...] | None = None

    @property
    def header(self) -> Header:
        """The header of the file, read if the row does not tell."""
        if self._header is None:
            file = file_of(self.ref)
            expected = file.row.expected_header()
            self._header = file.header() if expected is None else expected[0]
        return self._header

    @property
    def version(self) -> tuple[str, ...]:
        """Identifies the contents; empty if the store tells no versions of its files."""
        if self._version is None:
            file = file_of(self.ref)
            stat = file.store.stat(file.path)
            identity = file.row.checksum or f"{file.store.name} {file.path}"
            self._version = (identity, str(stat.nbytes), stat.version) if stat.version else ()
        return self._version

    def planned(self, index: Index) -> int:
        """Return how many bytes reading a part takes."""
        selected = select(index, self.ref.shape, self.ref.dtype)
        if self.ref.is_loaded or not selected.nbytes:
            return selected.nbytes
        return Plan(selected, self.header, file_of(self.ref).store.limits).read_nbytes

    def read(self, index: Index, what: str = "this part") -> AnyArray:
        """Read a part, or refuse if that is too much."""
        nbytes = max(select(index, self.ref.shape, self.ref.dtype).nbytes, self.planned(index))
        if nbytes > MOST:
            raise Refused(
                413,
                f"{what} of {self.title} takes reading {in_units(nbytes)}, and the page reads "
                f"{MOST >> 20} MiB at a time: choose a smaller one",
            )
        return np.asanyarray(self.ref.read(index))

    def code(self, what: str) -> str:
        """Return Python that fetches it, complete in itself; `what`, as ``[...]``, is of it."""
        *lines, reference = self._code
        return "\n".join([*lines, f"{self._name} = {reference}{what}"]) + "\n"


class Arrays:
    """
    Finds the array that a request means.

    Parameters
    ----------
    catalog : Catalog
        Where rows are.
    config : datajoint.settings.Config
        Of their stores.
    prelude : sequence of str
        Lines of Python before any that uses the database.
    """

    def __init__(self, catalog: Catalog, config: Any, prelude: Sequence[str] = ()) -> None:
        self._catalog, self._config, self._prelude = catalog, config, prelude
        self.given: list[NpyRef] = []
        self._known: OrderedDict[tuple[str, ...], tuple[float, Shown]] = OrderedDict()

    def find(self, params: Mapping[str, str], *, anew: bool = False) -> Shown:
        """Return the array; with `anew`, as if nothing of it was known."""
        named = tuple(params.get(each, "") for each in ("given", "table", "attribute", "key"))
        known_at, known = self._known.get(named, (0.0, None))
        if known is not None and not anew and time.monotonic() < known_at + _KEPT_S:
            return known
        is_given = "given" in params
        shown = self._given(integer(params, "given")) if is_given else self._in_a_row(*named[1:])
        self._known[named] = time.monotonic(), shown
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return shown

    def _in_a_row(self, name: str, attribute: str, key: str) -> Shown:
        metadata, given, table, comment = self._catalog.metadata(name, attribute, key)
        title = " ".join([f"{name}.{attribute}", *(f"{k}={v}" for k, v in given.items())])
        variable = _variable(class_name(name.partition(".")[2]).replace(".", ""), "table")
        lines = [
            "import datajoint as dj",
            "import dj_npy",
            *(["", *self._prelude] if self._prelude else []),
            "",
            f"{variable} = dj.FreeTable(dj.conn(), {table!r})",
            f"({variable} & {given!r}).fetch1({attribute!r})",
        ]
        ref, variable = NpyRef(metadata, self._config), _variable(attribute, "array")
        return Shown(ref, title, lines, variable, attribute, comment)

    def _given(self, number: int) -> Shown:
        if number >= len(self.given):
            raise Refused(404, f"no array {number} was given to dj_npy.view in this process")
        ref = self.given[number]
        lines = ["# `ref` is the reference that was given to dj_npy.view", "ref"]
        return Shown(ref, ref.path, lines, "array")


def info(shown: Shown) -> dict[str, Any]:
    """Return what the page needs to know of an array before it draws any of it."""
    ref, file = shown.ref, file_of(shown.ref)
    view, axis = _proposal(ref.shape, ref.dtype, shown.header.fortran_order)
    return {
        **described(ArrayMetadata(file.row.json)),
        "descr": None if ref.dtype.names is None else dtype_to_json(ref.dtype),
        "kind": ref.dtype.kind,
        "fortran": shown.header.fortran_order,
        "checksum": file.row.checksum,
        "title": shown.title,
        "attribute": shown.attribute,
        "comment": shown.comment,
        "view": view,
        "axis": axis,
        "code": shown.code("[...]"),
    }


def _proposal(shape: tuple[int, ...], dtype: np.dtype[Any], fortran: bool) -> tuple[str, int]:
    """Return how an array is best looked at, and along which axis."""
    axes = range(len(shape))[:: -1 if fortran else 1]  # the slowest in the file first
    if dtype.kind not in "biuf" or not math.prod(shape):
        return "h5web", 0
    longest = max(axes, key=lambda n: shape[n], default=0)
    if shape and shape[longest] >= max(_LONG, _LONG_SHARE * math.prod(shape) // shape[longest]):
        return "trace", longest
    for axis in axes if len(shape) > 2 else ():
        is_color = axis == axes[-1] and shape[axis] in (3, 4)
        others = shape[:axis] + shape[axis + 1 :]
        if not is_color and sum(length >= _IMAGE for length in others) >= 2:
            return "movie", axis
    return "h5web", 0


def selection(params: Mapping[str, str], shape: tuple[int, ...]) -> Index:
    """Return the parameter `selection`, such as ``0:100,5,:``, as an index."""
    texts = [text.strip() for text in params.get("selection", "").split(",")]
    if not texts[-1]:
        texts.pop()
    if len(texts) > len(shape):
        raise Refused(400, f"the selection has {len(texts)} axes, and the array {len(shape)}")
    index: list[Any] = []
    for axis, (text, length) in enumerate(zip(texts, shape, strict=False)):
        if ":" in text:
            index.append(span(text, length, f"axis {axis} of the selection"))
            continue
        index.append(integer({"selection": text}, "selection"))
        if index[-1] >= length:
            raise Refused(400, f"axis {axis} of the selection is {text}, and has {length}")
    return tuple(index + [slice(0, length) for length in shape[len(index) :]])


def part(shown: Shown, params: Mapping[str, str]) -> Answer:
    """Return a part of an array, its bytes in little-endian and C order."""
    data = shown.read(selection(params, shown.ref.shape))
    header: dict[str, Any] = {"shape": [*data.shape]}
    kind = data.dtype.kind
    if kind in "SU":
        if data.nbytes > _MOST_TEXT:
            raise Refused(
                413, f"this part has {in_units(data.nbytes)} of text: choose a smaller one"
            )
        header["dtype"] = data.dtype.str
        texts = np.char.decode(data, "utf-8", "backslashreplace") if kind == "S" else data
        return binary(header, json.dumps(texts.tolist()).encode())
    if kind in "biufcmM":
        if data.dtype.itemsize > {"f": 8, "c": 16}.get(kind, 8):
            data, header["rounded"] = data.astype("f8" if kind == "f" else "c16"), True
        data = little_endian(data)
    header["dtype"] = data.dtype.str
    return binary(header, data)


def export(shown: Shown, params: Mapping[str, str]) -> Answer:
    """Return a part of an array as a file: ``npy``, or ``csv`` of at most two axes."""
    data = shown.read(selection(params, shown.ref.shape))
    if field := _field(shown, params):
        data = data[field]
    form = params.get("format", "npy")
    if form == "npy":
        file = io.BytesIO()
        np.save(file, data, allow_pickle=False)
        body, media_type = file.getbuffer(), "application/octet-stream"
    elif form == "csv":
        if data.ndim > 2 or data.nbytes > _MOST_TEXT:
            raise Refused(
                413,
                f"a CSV has rows and columns, of {_MOST_TEXT >> 20} MiB at most: choose a smaller "
                f"part, or export it as .npy",
            )
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if data.dtype.names:
            writer.writerow(data.dtype.names)
        times = data.astype("U") if data.dtype.kind in "mM" else data
        if data.dtype.names:
            rows = times.ravel()  # of tuples
        else:
            rows = times if data.ndim == 2 else times.reshape(-1, 1)
        writer.writerows(rows.tolist())
        body, media_type = memoryview(text.getvalue().encode()), "text/csv; charset=utf-8"
    else:
        raise Refused(400, f"format is npy or csv, not {form!r:.40}")
    disposition = f'attachment; filename="array.{form}"'
    return Answer((body,), media_type, 200, (("Content-Disposition", disposition),))


def code(shown: Shown, params: Mapping[str, str]) -> str:
    """Return Python for a part of an array, or for a projection of it."""
    shape = shown.ref.shape
    if "kind" in params:
        return shown.code(f".{kind_of_projection(params)}(axis={axis_of(params, len(shape))})")
    field = _field(shown, params)
    entries = [*map(_entry, selection(params, shape), shape)]
    while entries and entries[-1] == ":":
        entries.pop()
    part = f"[{', '.join(entries)}]" if entries else "" if field else "[...]"
    return shown.code(part + (f"[{field!r}]" if field else ""))


def _field(shown: Shown, params: Mapping[str, str]) -> str:
    """Return the parameter `field`: of a structured array, or empty."""
    name = params.get("field", "")
    if name and name not in (shown.ref.dtype.names or ()):
        raise Refused(400, f"{shown.title} has no field {name!r:.40}")
    return name


def _entry(entry: int | slice, length: int) -> str:
    """Return an entry of an index as it is written in Python."""
    if isinstance(entry, int):
        return f"{entry:_}"
    if entry == slice(0, length):
        return ":"
    return f"{entry.start:_}:{entry.stop:_}" if entry.start else f":{entry.stop:_}"


def _variable(name: str, otherwise: str) -> str:
    """Return a name of the database as a variable: it may be any text, even other Python."""
    return name if name.isidentifier() and not keyword.iskeyword(name) else otherwise
