"""What every store promises, whatever is behind it: subclassed once a backend."""

import hashlib
import threading
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain, repeat
from typing import Any

import numpy as np
import pytest

from dj_npy import ArrayInvalidError, ArrayMissingError, StoreError
from dj_npy._format.path import with_token
from dj_npy._stores import Store
from dj_npy._stores.base import PROBE
from tests.support.servers import Raw

PLAIN = "lab/t/k=1/a.npy"
IN_PARTS = 18 << 20
"""Bytes of an object that goes in three parts, with the fixture `parts_from_16_mib`."""
DIGITS = b"0123456789"
# Of rows that other programs wrote, too: our own paths are percent-encoded.
NAMES = [
    "plain",
    "a%2Fb",
    "sp ace",
    "é",
    "a#b",
    "a+b",
    "a=b,c",
    "100%",
    "(x)",
    "q'uote",
    "~t",
    "&",
    "a:b*c[d]",
]


class Stopped(Exception):  # noqa: N818
    pass


def names(plain: str = PLAIN) -> Iterator[str]:
    return chain([plain], map(with_token, repeat(plain)))


@lru_cache(2)
def large(nbytes: int) -> Any:
    """Random bytes, not to be changed."""
    return np.frombuffer(np.random.default_rng(nbytes).bytes(nbytes), np.uint8)


def create(store: Store, contents: bytes, plain: str = PLAIN) -> str:
    return store.create(names(plain), [memoryview(contents)], len(contents))


def read(store: Store, path: str, start: int, *lengths: int) -> tuple[int | None, list[bytes]]:
    buffers = [bytearray(length) for length in lengths]
    size = store.read_into(path, start, [memoryview(buffer) for buffer in buffers])
    return size, [bytes(buffer) for buffer in buffers]


def beginning(store: Store, path: str, length: int) -> tuple[bytes, int]:
    data, stat = store.read_beginning(path, length)
    return data, stat.nbytes


class Conformance:
    """Fixtures `opened` and `raw` are brought by the subclass: a store and its back door."""

    creates_exclusively = True
    reserves = True  # names of files above one request
    has_versions = True

    @pytest.mark.parametrize(
        ("start", "lengths"),
        [(0, [10]), (3, [7]), (3, [2, 0, 5]), (0, [4, 6]), (9, [1]), (0, [1]), (2, [3, 3])],
    )
    def test_buffers_are_filled_in_turn(
        self, opened: Store, raw: Raw, start: int, lengths: list[int]
    ) -> None:
        raw.put("digits", DIGITS)
        size, found = read(opened, "digits", start, *lengths)
        assert size == 10
        assert b"".join(found) == DIGITS[start : start + sum(lengths)]

    @pytest.mark.parametrize(("start", "length"), [(0, 11), (10, 1), (11, 1), (9, 2), (500, 3)])
    def test_a_range_past_the_end_is_told(
        self, opened: Store, raw: Raw, start: int, length: int
    ) -> None:
        raw.put("digits", DIGITS)
        assert read(opened, "digits", start, length)[0] is None

    def test_an_empty_range(self, opened: Store, raw: Raw) -> None:
        raw.put("digits", DIGITS)
        assert read(opened, "digits", 0, 0) == (10, [b""])
        assert read(opened, "digits", 10) == (10, [])
        assert read(opened, "digits", 11, 0)[0] is None

    def test_a_range_that_begins_before_the_beginning(self, opened: Store) -> None:
        with pytest.raises(ArrayInvalidError, match="from byte -1"):
            read(opened, "digits", -1, 3)

    def test_an_empty_file(self, opened: Store, raw: Raw) -> None:
        raw.put("empty", b"")
        assert opened.stat("empty").nbytes == 0
        assert read(opened, "empty", 0, 0)[0] == 0
        assert read(opened, "empty", 0, 1)[0] is None
        assert beginning(opened, "empty", 10) == (b"", 0)
        assert list(opened.pieces("empty")) == []
        path = opened.create(names("made"), [], 0)
        assert raw.get(path) == b""

    def test_the_beginning(self, opened: Store, raw: Raw) -> None:
        raw.put("digits", DIGITS)
        assert beginning(opened, "digits", 4) == (b"0123", 10)
        assert beginning(opened, "digits", 10) == (DIGITS, 10)
        assert beginning(opened, "digits", 400) == (DIGITS, 10)

    def test_a_file_of_many_parts(self, opened: Store, raw: Raw) -> None:
        contents = large((20 << 20) + 3).tobytes()
        raw.put("large", contents)
        assert b"".join(opened.pieces("large")) == contents
        size, found = read(opened, "large", 5, 128, 0, len(contents) - 133)
        assert size == len(contents)
        assert b"".join(found) == contents[5:]
        assert read(opened, "large", 5, len(contents))[0] is None

    def test_a_taken_name_gets_a_token(self, opened: Store, raw: Raw) -> None:
        paths = [create(opened, contents) for contents in (b"1", b"2", b"3")]
        assert [raw.get(path) for path in paths] == [b"1", b"2", b"3"]
        assert len(set(paths)) == 3
        assert paths.count(PLAIN) == (1 if self.creates_exclusively else 0)

    @pytest.mark.usefixtures("parts_from_16_mib")
    def test_what_was_there_is_never_overwritten(self, opened: Store, raw: Raw) -> None:
        raw.put(PLAIN, b"another program's")
        assert create(opened, b"ours") != PLAIN
        assert create(opened, large(IN_PARTS).tobytes()) != PLAIN
        assert raw.get(PLAIN) == b"another program's"

    @pytest.mark.usefixtures("parts_from_16_mib")
    def test_a_file_above_one_request(self, opened: Store, raw: Raw) -> None:
        self.a_file_comes_back(opened, raw, IN_PARTS)

    def a_file_comes_back(self, opened: Store, raw: Raw, nbytes: int) -> None:
        contents = large(nbytes)
        view = memoryview(contents)
        pieces = [view[start : start + 300_000] for start in range(0, len(view), 300_000)]
        paths = [opened.create(names(), iter(pieces), len(view)) for _ in range(2)]
        assert paths.count(PLAIN) == (1 if self.creates_exclusively and self.reserves else 0)
        expected = hashlib.sha256(contents).digest()
        for path in paths:
            assert hashlib.sha256(raw.get(path)).digest() == expected
            buffer = np.zeros_like(contents)
            assert opened.read_into(path, 0, [memoryview(buffer)]) == len(view)
            assert np.array_equal(buffer, contents)

    @pytest.mark.usefixtures("parts_from_16_mib")
    @pytest.mark.parametrize("nbytes", [10, IN_PARTS])
    def test_what_fails_on_the_way_leaves_nothing(
        self, opened: Store, raw: Raw, nbytes: int
    ) -> None:
        half = memoryview(bytes(nbytes // 2))

        def interrupted() -> Iterator[memoryview]:
            yield half
            raise Stopped

        with pytest.raises(Stopped):
            opened.create(names(), interrupted(), nbytes)
        with pytest.raises(ArrayInvalidError, match=f"expected {nbytes} bytes to store, found"):
            opened.create(names(), iter([half]), nbytes)
        with pytest.raises(ArrayInvalidError, match="found more"):
            opened.create(names(), iter([half] * 3), nbytes)
        assert raw.keys() - {PROBE} == set()

    def test_racing_writers_never_share_a_file(self, opened: Store, raw: Raw) -> None:
        told: dict[str, bytes] = {}
        together = threading.Barrier(8)

        def write(me: int) -> None:
            together.wait()
            for n in range(5):
                contents = b"%d-%d" % (me, n) * 1000
                told[create(opened, contents, f"lab/t/k={n}/a.npy")] = contents

        writers = [threading.Thread(target=write, args=(me,)) for me in range(8)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert len(told) == 40
        assert raw.keys() - {PROBE} == set(told)
        assert all(raw.get(path) == contents for path, contents in told.items())
        plain = [path for path in told if path.endswith("/a.npy")]
        assert len(plain) == (5 if self.creates_exclusively else 0)

    @pytest.mark.parametrize("name", NAMES)
    def test_a_name_is_taken_as_it_is(self, opened: Store, raw: Raw, name: str) -> None:
        path = create(opened, name.encode(), f"lab/{name}/a.npy")
        assert raw.get(path) == name.encode()
        raw.put(f"other/{name}", DIGITS)
        assert beginning(opened, f"other/{name}", 20) == (DIGITS, 10)
        assert {file.path for file in opened.files("other")} == {f"other/{name}"}

    @pytest.mark.parametrize(
        "path", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/.", "a\0b"]
    )
    def test_a_path_that_leaves_the_store_is_refused(self, opened: Store, path: str) -> None:
        for use in (
            lambda: opened.read_beginning(path, 1),
            lambda: opened.stat(path),
            lambda: opened.pieces(path),
            lambda: opened.remove(path),
            lambda: opened.open_to_map(path),
            lambda: opened.create([path], [], 0),
            lambda: opened.create_copy(names(), path, 0),
        ):
            with pytest.raises(StoreError, match="refused the path"):
                use()

    def test_a_listing_knows_a_folder_from_its_neighbours(self, opened: Store, raw: Raw) -> None:
        for key in ("c/1", "c/d/2", "cc/3", "c.npy", "4"):
            raw.put(key, key.encode() * 3)

        def listed(folder: str) -> dict[str, int]:
            return {file.path: file.nbytes for file in opened.files(folder)}

        assert listed("c") == {"c/1": 9, "c/d/2": 15}
        assert listed("cc") == {"cc/3": 12}
        assert listed("c/d") == {"c/d/2": 15}
        assert listed("nothing") == {}
        assert set(listed("")) == {"c/1", "c/d/2", "cc/3", "c.npy", "4"}
        assert all(file.modified.tzinfo for file in opened.files())

    def test_what_is_removed_is_gone(self, opened: Store, raw: Raw) -> None:
        raw.put("digits", DIGITS)
        opened.remove("digits")
        assert raw.keys() == set()
        opened.remove("digits")
        assert create(opened, b"again", "digits") == "digits" or not self.creates_exclusively

    def test_what_is_not_there_is_missing(self, opened: Store) -> None:
        for look in (
            lambda: read(opened, "no/such.npy", 0, 1),
            lambda: read(opened, "no/such.npy", 0, 20 << 20),
            lambda: read(opened, "no/such.npy", 0),
            lambda: opened.read_beginning("no/such.npy", 1),
            lambda: list(opened.pieces("no/such.npy")),
            lambda: opened.stat("no/such.npy"),
            lambda: opened.open_to_map("no/such.npy"),
        ):
            with pytest.raises(
                ArrayMissingError, match=r"'no/such\.npy' in store 'main'.* no such"
            ):
                look()

    def test_a_version_changes_with_the_contents(self, opened: Store, raw: Raw) -> None:
        raw.put("digits", DIGITS)
        before = opened.stat("digits")
        assert opened.stat("digits") == before
        raw.put("digits", DIGITS[::-1])
        after = opened.stat("digits")
        assert before.nbytes == after.nbytes == 10
        assert (before.version != after.version) is self.has_versions

    def test_a_file_to_map_has_the_same_bytes(self, opened: Store, raw: Raw) -> None:
        contents = large((9 << 20) + 1).tobytes()
        raw.put("large", contents)
        with opened.open_to_map("large") as file:
            assert file.read() == contents
        raw.put("large", contents[::-1])
        with opened.open_to_map("large") as file:
            assert file.read() == contents[::-1]

    def test_a_copy_by_the_server(self, opened: Store, raw: Raw) -> None:
        raw.put("digits", DIGITS)
        raw.put(PLAIN, b"taken")
        path = opened.create_copy(names(), "digits", 10)
        if path is not None:
            assert raw.get(path) == DIGITS
        assert raw.get(PLAIN) == b"taken"
        if path is not None:
            with pytest.raises(ArrayMissingError):
                opened.create_copy(names(), "no/such.npy", 10)
        assert raw.keys() - {PROBE} == {"digits", PLAIN, path} - {None}
