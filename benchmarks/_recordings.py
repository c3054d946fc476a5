"""A table whose rows have an array each, as the inserts of the benchmarks need it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import datajoint as dj
import numpy as np
from datajoint import codecs, expression
from datajoint.builtin_codecs.npy import NpyCodec as BuiltinNpyCodec
from datajoint.expression import QueryExpression
from datajoint.heading import Heading
from datajoint.table import Table

ARRAY = np.random.default_rng(0).standard_normal((100, 32))
CORRECTED = (
    (Heading, "__getitem__"),
    (QueryExpression, "to_dicts"),
    (Table, "_insert_rows"),
    (codecs, "resolve_dtype"),
    (expression, "decode_attribute"),
)


class Recordings:
    """The table, and rows that it does not have yet."""

    def __init__(self, schema: dj.Schema) -> None:
        @schema
        class Recording(dj.Manual):
            definition = "id : int32\n---\nwaveform : <npy@bench>"

        self.table = Recording
        self._numbers = iter(range(1_000_000_000))

    def rows(self, count: int) -> list[dict[str, Any]]:
        return [{"id": next(self._numbers), "waveform": ARRAY} for _ in range(count)]

    def insert(self, count: int) -> None:
        self.table.insert(self.rows(count))

    def insert_builtin(self, count: int) -> None:
        with as_datajoint_ships(BuiltinNpyCodec()):
            self.insert(count)


@contextmanager
def recordings(store: dict[str, Any]) -> Iterator[Recordings]:
    """The table, empty, with its arrays in a store of these settings; dropped in the end."""
    before = dj.config.stores
    dj.config.stores = {**before, "bench": store}
    schema = dj.Schema("bench_insert")
    yield Recordings(schema)
    schema.drop(prompt=False)
    dj.config.stores = before


@contextmanager
def as_datajoint_ships(codec: Any) -> Iterator[None]:
    """Another codec, and DataJoint's own methods."""
    ours = codecs._codec_registry["npy"]
    corrected = [owner.__dict__[name] for owner, name in CORRECTED]
    codecs._codec_registry["npy"] = codec
    for (owner, name), method in zip(CORRECTED, corrected, strict=True):
        setattr(owner, name, method.__wrapped__)
    try:
        yield
    finally:
        codecs._codec_registry["npy"] = ours
        for (owner, name), method in zip(CORRECTED, corrected, strict=True):
            setattr(owner, name, method)
