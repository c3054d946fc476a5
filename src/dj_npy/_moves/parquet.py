"""Tables of a package as Parquet files, for those who want them typed."""

import hashlib
import re
import tempfile
from collections.abc import Iterator
from itertools import islice
from typing import Any

from dj_npy._errors import ArrayInvalidError
from dj_npy._moves.definitions import Definition
from dj_npy._moves.place import Place
from dj_npy._moves.rowfiles import RowFile, read_rows
from dj_npy._moves.values import kind_of_type

_AT_ONCE = 2000
"""Rows in memory."""
_PIECE = 1 << 20


def check_installed() -> None:
    """Raise if pyarrow is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise ArrayInvalidError(
            "Parquet files need pyarrow, which is not installed: pip install pyarrow"
        ) from None


def write(place: Place, given: Definition, file: RowFile) -> dict[str, Any]:
    """Write a table as a Parquet file beside its CSV file, and return its resource."""
    import pyarrow as pa
    from pyarrow import parquet

    names = [each.name for each in given.attributes]
    types = [_arrow_type(each.storage) for each in given.attributes]
    schema = pa.schema(list(zip(names, types, strict=True)))
    path = file.path.removesuffix(".csv") + ".parquet"
    with tempfile.TemporaryFile(dir=place.temporary_folder) as target:
        rows = read_rows(place, file, names)
        try:
            with parquet.ParquetWriter(target, schema) as writer:
                while some := list(islice(rows, _AT_ONCE)):
                    columns = [
                        pa.array(
                            [
                                None if cell is None else _value(cell, each.storage, kind)
                                for cell in column
                            ],
                            kind,
                        )
                        for column, each, kind in zip(
                            zip(*some, strict=True), given.attributes, types, strict=True
                        )
                    ]
                    writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            nbytes = target.tell()
            target.seek(0)
        except OSError as error:
            if type(error) is not OSError:
                raise
            raise place.store.translate_error(error, path, "write") from error
        digest = hashlib.sha256()

        def pieces() -> Iterator[memoryview]:
            while piece := target.read(_PIECE):
                digest.update(piece)
                yield memoryview(piece)

        place.create(path, pieces(), nbytes)
    return {
        "name": f"{path.rpartition('/')[2].removesuffix('.parquet')}-parquet",
        "path": path,
        "format": "parquet",
        "mediatype": "application/vnd.apache.parquet",
        "rows": file.rows,
        "bytes": nbytes,
        "hash": f"sha256:{digest.hexdigest()}",
    }


def _arrow_type(storage: str) -> Any:
    import pyarrow as pa

    if found := re.fullmatch(r"decimal\((\d+),(\d+)\)", storage):
        digits = int(found[1])
        return (pa.decimal128 if digits <= 38 else pa.decimal256)(digits, int(found[2]))
    plain = {
        **{name: getattr(pa, name)() for name in ("int8", "int16", "int32", "int64")},
        "float32": pa.float32(),
        "float64": pa.float64(),
        "bool": pa.bool_(),
        "bytes": pa.large_binary(),
        "date": pa.date32(),
    }
    name = re.split(r"\W", storage, maxsplit=1)[0]
    return pa.timestamp("us") if name == "datetime" else plain.get(name, pa.large_string())


def _value(cell: str, storage: str, kind: Any) -> Any:
    """Return what a Parquet file has for a cell; text where its type has no such value."""
    import pyarrow as pa

    if kind == pa.large_string():
        return cell
    value = kind_of_type(storage).decode(cell, storage, "postgresql")
    return None if isinstance(value, str) else value
