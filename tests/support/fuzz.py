"""
Hostile headers and rows by the million.

``python -m tests.support.fuzz --headers 1000000 --rows 1000000``

Each header is parsed, and every tenth is the file of a reference that is used, as each row is.
What comes out may be an array or one of our errors, and nothing else; no code may run. The
figures are printed as JSON.
"""

import argparse
import encodings.unicode_escape  # noqa: F401 - an import of its own would be told as a finding
import json
import os
import random
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import datajoint as dj
import numpy as np

from dj_npy import ArrayCorruptError, NpyError, NpyRef
from dj_npy._format import npyfile

SHAPES: list[tuple[int, ...]] = [(), (0,), (3,), (2, 3), (4, 0, 2), (1,) * 20]
DTYPES = [
    np.dtype(text)
    for text in ("<f8", ">i4", "|b1", "<c16", "|S5", "<U3", "|V7", "<M8[ns]", "<m8[7s]", "|S0")
] + [
    np.dtype([("a", "<i4"), ("b", "<f8", (2, 3))]),
    np.dtype([("größe", "<f4"), ("漢字", [("in", "|u1"), ("ner", "<i2")])]),
    np.dtype([(("a title", "x"), "<i2"), ("y", "<f8")], align=True),
]
LONGEST_MESSAGE = 20_000
"""Of a path of 4096 characters, each of which has to be escaped."""
CANARY = "dj_npy_canary"
CODE = [
    f"__import__('os').environ.setdefault('{CANARY}', '1')",
    f"[c for c in ().__class__.__base__.__subclasses__() if setattr(c, '{CANARY}', 1)]",
    f"exec(\"import os; os.environ['{CANARY}'] = '1'\")",
    f"(lambda: open('/tmp/{CANARY}', 'w'))()",
    f'f\'{{open("/tmp/{CANARY}", "w")}}\'',
    f'eval(\'open("/tmp/{CANARY}", "w")\')',
]
"""What would be seen if anything of a header or row were executed."""
TOKENS = [
    *CODE,
    *("(", ")", "[", "]", "{", "}", "'", '"', "'''", "\\", "\\x", "\\N{DIGIT ONE}", "\\ud800", "#"),
    *("\n", "\r", "\0", "\x1a", "\t", "\x0c", "\x1b[31m", "é", "\u202e", "\ufeff", "漢", "\u0660"),
    *("-", "+", "~", "not ", "*", "**", ",", ":", ":=", "...", "1if 1else 2", "1 is 1", "await x"),
    *("None", "True", "False", "1e999", "-1e999", "1j", "nan", "0x" + "f" * 500, "9" * 30),
    *("9" * 5000, "-0", "0_0", "1.", "2**62", str(2**31), str(2**63 - 1), str(2**64), "b'f8'"),
    *("'|O'", "'object'", "'<f8'", "'(2,)f8'", "'(99999,)f8'", "'S2147483647'", "'V2147483647'"),
    *("'f8,O'", "'a5'", "'T'", "'>M8[0s]'", "'M8[2147483648s]'", "'S0'", "'U0'", "'V0'", "''"),
    *("('<f8', (2147483647,))", "('<f8', (-1,))", "[('a', '|O')]", "[('', '<f8')]", "[]", "{}"),
    *("[('a', '<f8'), ('a', '<f8')]", "[(('t', 'a'), '<f8')]", "[('a', '<f8', 2147483647)]", "()"),
    *("'descr'", "'fortran_order'", "'shape'", "'descr': ", "'fortran_order': ", "'shape': "),
    "(" * 150 + ")" * 150,
    "[" * 5000 + "]" * 5000,
    "{1:" * 300 + "1" + "}" * 300,
    "-" * 3000 + "1",
    "~" * 300,
    "(0," + "1," * 70 + ")",
    "1+" * 2000 + "1",
    "0x" + "f" * 20000,
    "'" + "a" * 20000 + "'",
]


def seeds() -> list[bytes]:
    """Files as they should be, of each version."""
    found = []
    for dtype in DTYPES:
        for shape in SHAPES:
            for order in (False, True):
                head = npyfile.header_bytes(dtype, shape, order)
                data = bytes(int(np.prod(shape, dtype=object)) * dtype.itemsize)
                found.append(head + data)
                text = head[10:] if head[6] == 1 else head[12:]
                if head[6] == 1:
                    length = len(text).to_bytes(4, "little")
                    found += [b"\x93NUMPY\2\0" + length + text + data]
                    found += [b"\x93NUMPY\3\0" + length + text + data]
    return found


class Mutator:
    """Makes hostile things of good ones."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.seeds = seeds()

    def file(self) -> bytes:
        """A file, of which about half the headers are still read as far as their text."""
        chosen = self.random.choice(self.seeds)
        made = bytearray(chosen)
        for _ in range(self.random.choice((1, 1, 1, 2, 3, 6))):
            self.random.choice(self.MUTATIONS)(self, made)
            if len(made) > 600_000:
                break
        if self.random.random() < 0.6:
            self.honest_length(made)
        return bytes(made)

    def flip(self, made: bytearray) -> None:
        if made:
            made[self.random.randrange(min(len(made), 160))] ^= 1 << self.random.randrange(8)

    def overwrite(self, made: bytearray) -> None:
        if made:
            at = self.random.randrange(min(len(made), 160))
            made[at : at + 4] = self.random.randbytes(self.random.randrange(5))

    def splice(self, made: bytearray) -> None:
        other = self.random.choice(self.seeds)
        at, start = self.random.randrange(len(made) + 1), self.random.randrange(len(other))
        made[at:] = other[start:]

    def insert(self, made: bytearray) -> None:
        at = self.random.randrange(10, 100)
        until = at + self.random.choice((0, 0, 1, 3, 10))
        made[at:until] = self.token()

    def token(self) -> bytes:
        return self.random.choice(TOKENS).encode("utf8", "surrogatepass")

    def value(self, made: bytearray) -> None:
        """Another value for one of the keys."""
        key = self.random.choice((b"'descr': ", b"'fortran_order': ", b"'shape': "))
        at = made.find(key)
        if at >= 0:
            end = made.find(b", '", at + 8)
            made[at + len(key) : end if end >= 0 else at + len(key) + 4] = self.token()

    def repeat(self, made: bytearray) -> None:
        at = self.random.randrange(len(made) + 1)
        part = bytes(made[at : at + self.random.randrange(1, 40)])
        made[at:at] = part * self.random.choice((1, 2, 50, 2000))

    def truncate(self, made: bytearray) -> None:
        del made[self.random.randrange(len(made) + 1) :]

    def length(self, made: bytearray) -> None:
        made[8:12] = self.random.choice(
            (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff", b"\0\0\4\0", self.random.randbytes(4))
        )

    def version(self, made: bytearray) -> None:
        made[6:8] = bytes((self.random.randrange(5), self.random.choice((0, 0, 1))))

    def honest_length(self, made: bytearray) -> None:
        """Let the length be that of the text, so that what is in it is parsed."""
        end = made.find(b"\n", 12)
        if end > 0 and made[6] in (1, 2, 3):
            size = 2 if made[6] == 1 else 4
            length = end + 1 - 8 - size
            if 0 <= length < 1 << 8 * size:
                made[8 : 8 + size] = length.to_bytes(size, "little")

    MUTATIONS: tuple[Callable[["Mutator", bytearray], None], ...] = (
        *(flip, overwrite, insert, insert, value, value, value, splice),
        *(repeat, truncate, length, version),
    )

    # Rows

    def row(self, good: dict[str, Any]) -> Any:
        """A row in which one to three things are other than they were."""
        row = dict(good)
        for _ in range(self.random.randrange(1, 4)):
            key = self.random.choice((*row, "dtype", "shape", "fortran_order", "surplus"))
            if self.random.random() < 0.1:
                row.pop(key, None)
            else:
                row[key] = self.json(key)
        return self.json("") if self.random.random() < 0.02 else row

    def json(self, key: str, depth: int = 0) -> Any:
        """Any JSON, often of the kind that belongs there."""
        choose = self.random.choice
        whole = choose((0, 1, 3, -1, 2**31, 2**63 - 1, 2**63, 10**30, 10**300, 128))
        scalars: list[Any] = [None, True, False, whole, 1.5, 1e308, float("inf"), "", "text"]
        if key == "path" and self.random.random() < 0.8:
            part = choose(("..", ".", "", "a", "\0", "\\", "C:", "\ud800", "x" * 300, "~", "é"))
            return choose(("", "/", "lab/", "\\\\host\\")) + "/".join([part] * choose((1, 2, 999)))
        if key == "shape" and self.random.random() < 0.6:
            return [choose((whole, 3, 4)) for _ in range(choose((0, 1, 2, 2, 3, 70)))]
        if key == "dtype" and self.random.random() < 0.7:
            text = choose(TOKENS).strip("'")
            field: list[Any] = [
                choose(("a", "b", ["t", "x"], "", text)),
                choose(("<f8", "|O", text)),
            ]
            if choose((True, False)):
                field.append([whole])
            return choose((text, [field], [field, field], [["a", [field]]], [[[]]], [1], [[text]]))
        kind = self.random.random()
        if depth > 3 or kind < 0.6:
            return choose([*scalars, choose(TOKENS)])
        if kind < 0.7:  # as deep as a parser of JSON hands out
            nested: Any = choose(scalars)
            for _ in range(choose((10, 200, 900))):
                nested = [nested]
            return nested
        if kind < 0.9:
            return [self.json("", depth + 1) for _ in range(choose((0, 1, 2, 5)))]
        return {str(n): self.json("", depth + 1) for n in range(choose((0, 1, 3)))}


class Watch:
    """Counts, times and memory, and whether any code has run."""

    def __init__(self) -> None:
        self.executed: list[str] = []
        self.armed = False
        self.slowest_s = 0.0
        self.arrays = 0
        self.refused: dict[str, int] = {}
        sys.addaudithook(self._event)

    def _event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.armed and (
            event in ("exec", "os.system", "os.exec", "subprocess.Popen", "pickle.find_class")
            or event.startswith(("marshal.", "code.", "ctypes."))
            or (event == "open" and str(arguments[0]).startswith(f"/tmp/{CANARY}"))
        ):
            self.executed.append(f"{event} {arguments!r:.200}")

    def run(self, use: Callable[[], Any], culprit: Any) -> None:
        """Run one, which may raise nothing but our errors."""
        started = time.perf_counter()
        self.armed = True
        try:
            use()
            self.arrays += 1
        except NpyError as error:
            kind, message = type(error).__name__, str(error)
            self.refused[kind] = self.refused.get(kind, 0) + 1
            if len(message) > LONGEST_MESSAGE or not message.isprintable():
                raise AssertionError(
                    f"the message {message!r:.3000} of {culprit!r:.3000}"
                ) from None
        except BaseException as error:
            traceback.print_exc()
            raise AssertionError(
                f"{type(error).__name__}: {error!s:.200} of {culprit!r:.3000}"
            ) from None
        finally:
            self.armed = False
        self.slowest_s = max(self.slowest_s, time.perf_counter() - started)
        assert not self.executed, f"{self.executed} of {culprit!r:.3000}"


def parsed(contents: bytes) -> npyfile.Header:
    header = npyfile.parse_header(contents, len(contents), "the file")
    assert header.file_size == len(contents)
    assert not header.dtype.hasobject
    return header


def fuzz(headers: int, rows: int, seed: int) -> dict[str, Any]:
    """Run so many mutations and return what was seen."""
    mutator, watch = Mutator(seed), Watch()
    folder = tempfile.mkdtemp(prefix="dj-npy-fuzz-")
    local = {"protocol": "file", "location": folder}
    dj.config.stores = {"default": "main", "main": local}
    array = np.arange(12.0).reshape(4, 3)
    file = os.path.join(folder, "a.npy")
    as_saved = npyfile.header_bytes(array.dtype, array.shape, False)
    good = {
        "path": "a.npy",
        "store": "main",
        "dtype": "float64",
        "shape": [4, 3],
        "offset": len(as_saved),
        "checksum": "xxh3_128:" + "0" * 32,
    }

    def use(row: Any) -> None:
        ref = NpyRef(row, dj.config)
        refused = None
        for look in (
            lambda: ref.nbytes,
            lambda: ref.load(),
            lambda: ref[..., :1],
            lambda: ref.load("r"),
            lambda: ref.verify(),
        ):
            repr(ref)
            try:
                look()
            except NpyError as error:
                refused = error
            except IndexError:
                if ref.shape:  # or there is no axis to slice
                    raise
        if refused is not None:
            raise refused

    for contents in mutator.seeds[:60]:  # whatever is imported or kept, is by now
        watch.run(lambda: parsed(contents), contents)  # noqa: B023
    warnings.simplefilter("ignore")
    before, started = _peak(), time.perf_counter()
    watch.arrays, watch.refused, watch.slowest_s = 0, {}, 0.0
    for number in range(headers):
        contents = mutator.file()
        watch.run(lambda: parsed(contents), contents)  # noqa: B023
        if number % 10 == 0:
            with open(file, "wb") as written:
                written.write(contents)
            row = dict(good)
            try:
                header = parsed(contents)
            except ArrayCorruptError:
                pass
            else:  # a row that agrees, so that it is loaded
                row = {"path": "a.npy", "store": "main", "shape": list(header.shape)}
                row["dtype"] = npyfile.dtype_to_json(header.dtype)
            watch.run(lambda: use(row), contents)  # noqa: B023
    with open(file, "wb") as written:
        written.write(as_saved + array.tobytes())
    for _ in range(rows):
        row = mutator.row(good)
        watch.run(lambda: use(row), row)  # noqa: B023
    seconds = time.perf_counter() - started
    assert CANARY not in os.environ
    assert not os.path.exists(f"/tmp/{CANARY}")
    os.unlink(file)
    assert os.listdir(folder) == []
    os.rmdir(folder)
    return {
        "headers": headers,
        "rows": rows,
        "seed": seed,
        "arrays": watch.arrays,
        "refused": watch.refused,
        "seconds": round(seconds, 1),
        "slowest_ms": round(watch.slowest_s * 1e3, 1),
        "memory_MiB": round((_peak() - before) / 2**20, 1),
    }


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--headers", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    print(json.dumps(fuzz(**vars(parser.parse_args()))))
