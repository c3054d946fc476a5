"""Headers, rows, paths, links and cache folders that were made to do harm."""

import json
import os
import stat
import sys
import threading
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from io import FileIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dj_npy
from dj_npy import ArrayCorruptError, ArrayMissingError, NpyError, NpyRef, StoreError
from dj_npy._format import accepted, npyfile
from dj_npy._stores import filecache
from dj_npy._stores.local import rename
from dj_npy._stores.local.store import LocalStore
from tests.conftest import run
from tests.format.test_npyfile import saved, with_header
from tests.support import warm
from tests.support.conformance import PLAIN, create
from tests.support.servers import files
from tests.support.users import cache_of_mine

MUTATIONS = int(os.environ.get("DJ_NPY_TEST_MUTATIONS", "5000"))
"""How many headers, and how many rows; 1,000,000 take half an hour."""

A = np.arange(12.0).reshape(4, 3)
Stored = Callable[..., NpyRef]


# Headers and rows


@pytest.mark.slow
def test_mutated_headers_and_rows_raise_our_errors_in_bounded_time_and_memory() -> None:
    command = [sys.executable, "-W", "ignore", "-m", "tests.support.fuzz"]
    counts = ["--headers", str(MUTATIONS), "--rows", str(MUTATIONS)]
    told = json.loads(run([*command, *counts], cwd=Path(__file__).parents[2]).stdout)
    print(told)
    tried = MUTATIONS + MUTATIONS + -(-MUTATIONS // 10)
    assert told["arrays"] + sum(told["refused"].values()) == tried
    assert told["arrays"] > MUTATIONS / 100
    assert told["memory_MiB"] < 64
    assert told["slowest_ms"] < 5000


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
ROW = {"path": "a.npy", "store": "main", "dtype": "float64", "shape": [4, 3], "offset": 128}


@pytest.mark.slow
@given(
    st.dictionaries(st.sampled_from([*ROW, "checksum", "fortran_order"]), JSON, max_size=3),
    st.sampled_from([None, "path", "store", "dtype", "shape", "offset"]),
)
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_row_of_any_json_is_an_array_or_one_of_our_errors(
    tmp_path: Path, hostile: dict[str, Any], missing: str | None
) -> None:
    (tmp_path / "a.npy").write_bytes(saved(A))
    local = {"protocol": "file", "location": str(tmp_path)}
    stores: dict[str, Any] = {"default": "main", "main": local}
    row = {key: value for key, value in {**ROW, **hostile}.items() if key != missing}
    config: Any = SimpleNamespace(stores=stores, get_store_spec=lambda name: dict(stores[name]))
    for use in (NpyRef.load, NpyRef.verify, lambda ref: ref[...], lambda ref: ref.load("r")):
        ref = NpyRef(row, config)
        message = ""
        try:
            use(ref)
        except NpyError as error:
            message = str(error)
        assert message.isprintable()
        repr(ref)


@given(st.text(max_size=200) | st.from_regex(r"\{'descr': .*, 'shape': .*\}", fullmatch=True))
@settings(max_examples=300, deadline=None)
def test_a_header_of_any_text_is_refused_by_our_error(text: str) -> None:
    contents = with_header(text.encode("utf8", "replace").decode(), (3, 0))
    with pytest.raises(ArrayCorruptError, match=r"^the file has a bad \.npy header: ") as caught:
        npyfile.parse_header(contents, len(contents), "the file")
    assert str(caught.value).isprintable()


NUMPY_1 = np.__version__.startswith("1.")
FIELDS = "{{'descr': {}, 'fortran_order': False, 'shape': {}}}"
TRAPS = {
    "digits beyond what Python converts": FIELDS.format("'<f8'", f"({'9' * 5000},)"),
    "hex digits beyond what Python prints": FIELDS.format("'<f8'", f"(0x{'f' * 50_000},)"),
    "parentheses": "(" * 100_000,
    "brackets that close": FIELDS.format("[" * 150 + "]" * 150, "()"),
    "signs": FIELDS.format("'<f8'", "-" * 50_000 + "1"),
    "a chain of sums": FIELDS.format("'<f8'", "1" + "+1" * 50_000),
    "dicts in dicts": "{1:" * 150 + "1" + "}" * 150,
    "zero bytes": FIELDS.format("'<f8'", "(\0,)"),
    "an escape that is none": FIELDS.format(r"'\d8'", "()"),
    "a number that runs into a word": FIELDS.format("'<f8'", "(1if 1else 2,)"),
    **({} if NUMPY_1 else {"a name that NumPy has given up": FIELDS.format("'a5'", "(0,)")}),
    "a keyword of async": FIELDS.format("await x", "()"),
    "a formatted string": FIELDS.format("f'{1}'", "()"),
    "a call": FIELDS.format("__import__('os').getpid()", "()"),
    "a list of itself": FIELDS.format("(l := [])", "()"),
    "fields of one name": FIELDS.format("[('a', '<f8'), ('a', '<f8')]", "()"),
    "a field of 2 GiB": FIELDS.format("[('a', '<f8', 2147483647)]", "(0,)"),
    "sets": FIELDS.format("{'<f8'}", "()"),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_a_trap_of_python_s_parser_is_a_bad_header(trap: str) -> None:
    """Also where warnings are errors, as in these tests."""
    contents = with_header(TRAPS[trap], (2, 0))
    with pytest.raises(ArrayCorruptError, match=r"^the file has a bad \.npy header: ") as caught:
        npyfile.parse_header(contents, len(contents), "the file")
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "dtype",
    [
        *(r"['\d']", "[" * 5000, "{'names': 1if 1else 2}", "f8," * 100_000),
        *(() if NUMPY_1 else ("[('a', 'a5')]", "a5")),
        *("[" + "-" * 50_000 + "1]", f"[{'9' * 5000}]", "(numpy.record, [('a', 'O')])"),
    ],
    ids=lambda dtype: dtype[:12],
)
def test_a_trap_in_the_dtype_of_a_row_is_told(stored: Stored, dtype: str) -> None:
    ref = stored(A)
    ref._raw["dtype"] = dtype
    with pytest.raises(ArrayCorruptError, match="has no valid dtype: found ") as caught:
        ref.load()
    assert len(str(caught.value)) < 800


@pytest.mark.parametrize("key", ["path", "store", "shape", "dtype", "checksum"])
def test_json_as_deep_as_it_can_be_read_is_told(stored: Stored, key: str) -> None:
    ref = stored(A)
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    ref._raw[key] = deep
    with pytest.raises(ArrayCorruptError, match="that cannot be shown"):
        ref.verify()
    repr(ref)
    ref._raw[key] = {"a": deep}
    assert len(repr(ref)) < 500
    while isinstance(deep, list):  # or it would be freed by as many nested calls
        deep = deep.pop()


def test_no_message_quotes_a_whole_header(stored: Stored, store: Path) -> None:
    ref = stored(A)
    many = np.zeros(4, [(f"field_{n:05}", "<i4") for n in range(4000)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a header of version 2.0
        contents = saved(many)
    for found in (contents, contents[:-1]):
        (store / ref.path).write_bytes(found)
        with pytest.raises(ArrayCorruptError) as caught:
            ref.load()
        assert len(str(caught.value)) < 1000


def test_no_file_is_believed_before_its_size_is_known(stored: Stored, store: Path) -> None:
    """A header that promises more than memory, in a row that agrees, asks for none."""
    ref = stored(A)
    shape = (2**31, 2**20)
    header = npyfile.header_bytes(A.dtype, shape, False)
    (store / ref.path).write_bytes(header)
    for agreed in ({"offset": len(header)}, {"offset": None}):
        ref._raw.update(shape=list(shape), **agreed)
        hostile = NpyRef(dict(ref._raw), ref._config)
        for use in (hostile.load, hostile.verify, lambda r=hostile: r[5:], lambda r=hostile: r[5]):
            with pytest.raises(ArrayCorruptError, match="does not have the size its header says"):
                use()


@pytest.mark.parametrize("dtype", ["S0", "U0", "V0"])
def test_elements_of_no_bytes_take_no_memory(stored: Stored, store: Path, dtype: str) -> None:
    ref = stored(np.ndarray((3, 2), dtype))
    assert ref.load().dtype == ref.dtype == np.dtype(dtype)
    assert ref.load().shape == (3, 2)
    many = (10**13,)
    header = npyfile.header_bytes(np.dtype(dtype), many, False)
    (store / ref.path).write_bytes(header)
    ref._raw.update(shape=list(many), offset=len(header))
    for row in (ref._raw, {key: ref._raw[key] for key in ("path", "store", "dtype", "shape")}):
        array = NpyRef(dict(row), ref._config).load()
        assert array.shape == many
        assert array.nbytes == 0
        hostile = NpyRef(dict(row), ref._config)
        hostile.load()
        for part in (hostile[..., 1:], hostile.read()):
            assert (part.dtype, part.nbytes) == (np.dtype(dtype), 0)


def test_reading_headers_in_threads_leaves_the_warnings_as_they_are() -> None:
    before = list(warnings.filters)
    contents = saved(A)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def read() -> None:
        for _ in range(300):
            npyfile.parse_header(contents, len(contents), "the file")
            accepted._check_returned.cache_clear()
            accepted.check_dtype(A.dtype)

    threads = [threading.Thread(target=read) for _ in range(8)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert warnings.filters == before


# Paths


@pytest.mark.parametrize(
    "path",
    [
        *("/etc/passwd", "//etc/passwd", "..", "../x.npy", "a/..", "a/../../x", "./x", "a/./x"),
        *("", "/", "a//b", "a/", "a\0b", "\0", "\ud800", "a/\udcff", "x" * 5000, "a/" * 3000 + "x"),
    ],
    ids=lambda path: ascii(path)[:20],
)
def test_a_path_that_may_lead_anywhere_is_refused(stored: Stored, store: Path, path: str) -> None:
    ref = stored(A)
    ref._raw["path"] = path
    opened = ref._file().store
    for use in (
        *(ref.load, ref.verify, lambda: ref[0], lambda: ref.load("r"), lambda: ref.load("r+")),
        *(lambda: stored(ref, 2), lambda: opened.remove(path), lambda: opened.stat(path)),
    ):
        with pytest.raises(StoreError, match="refused the path") as caught:
            use()
        assert len(str(caught.value)) < 700
        assert str(caught.value).isprintable()
    assert len(files(store)) == 1


@pytest.mark.parametrize(
    "path", ["x" * 300, "a/" * 2000 + "x", "~root/x", "a\\..\\b", "C:x", "$HOME"]
)
def test_a_path_that_only_looks_odd_is_one_of_the_store(stored: Stored, path: str) -> None:
    ref = stored(A)
    ref._raw["path"] = path
    for use in (ref.load, ref.verify, lambda: ref.load("r")):
        with pytest.raises((ArrayMissingError, StoreError), match=r"could not (read|map)"):
            use()


@pytest.mark.parametrize("path", ["a\\..\\..\\b", "C:\\x", "C:x", "\\\\host\\share", "a:stream"])
def test_on_windows_a_path_has_no_backslash_and_no_colon(
    store: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = LocalStore("main", str(store))
    monkeypatch.setattr(os, "name", "nt")
    try:
        with pytest.raises(StoreError, match="refused the path"):
            opened.check_path(path)
    finally:
        monkeypatch.undo()


# Links in a store


def test_a_folder_that_is_a_link_belongs_to_the_store(
    stored: Stored, store: Path, tmp_path: Path
) -> None:
    """Whoever runs the store may spread it over several disks."""
    other_disk = tmp_path / "other disk"
    other_disk.mkdir()
    (store / "lab").symlink_to(other_disk, target_is_directory=True)
    ref = stored(A)
    assert files(other_disk) == {ref.path.removeprefix("lab/")}
    assert np.array_equal(ref.load(), A)
    assert ref.verify() == "as inserted"
    assert stored(ref, 2).verify() == "as inserted"
    changed: Any = ref.load(mmap_mode="r+")
    changed[0, 0] = 7
    changed.flush()
    assert ref.load()[0, 0] == 7
    # But a listing is of what lies in the store itself.
    listed = {file.path for file in LocalStore("main", str(store)).files()}
    assert listed == {"lab"}


def test_a_link_in_the_place_of_a_file_is_read_and_never_written_through(
    stored: Stored, store: Path, tmp_path: Path
) -> None:
    ref = stored(A)
    archive = tmp_path / "archive.npy"
    (store / ref.path).rename(archive)
    (store / ref.path).symlink_to(archive)
    contents = archive.read_bytes()
    assert np.array_equal(ref.load(), A)
    assert ref.verify() == "as inserted"
    assert np.array_equal(ref.load(mmap_mode="r"), A)
    with pytest.raises(StoreError, match=r"could not map .* symbolic link, which is not followed"):
        ref.load(mmap_mode="r+")
    again = stored(A + 1)
    assert again.path != ref.path
    ref._file().store.remove(ref.path)
    assert files(store) == {again.path}
    assert archive.read_bytes() == contents


def test_a_link_to_nowhere_is_a_taken_name(stored: Stored, store: Path, tmp_path: Path) -> None:
    plain = store / PLAIN
    plain.parent.mkdir(parents=True)
    plain.symlink_to(tmp_path / "planted.npy")
    opened = LocalStore("main", str(store))
    assert create(opened, b"contents") != PLAIN
    assert not (tmp_path / "planted.npy").exists()
    with pytest.raises(ArrayMissingError):
        opened.stat(PLAIN)


def test_without_hard_links_neither(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_: Any) -> None:
        raise PermissionError(1, "links are not to be had")

    monkeypatch.setattr(rename, "_renameat2", None)
    monkeypatch.setattr(os, "link", no_link)
    test_a_link_to_nowhere_is_a_taken_name(None, store, tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "target", ["/dev/zero", "/dev/null", "itself", "/proc/self/mem", "a folder"]
)
def test_a_link_to_what_is_no_array_is_told(
    stored: Stored, store: Path, tmp_path: Path, target: str
) -> None:
    ref = stored(A)
    file = store / ref.path
    file.unlink()
    to = {"itself": file, "a folder": tmp_path}.get(target, Path(target))
    file.symlink_to(to)
    for use in (
        ref.load,
        ref.verify,
        lambda: ref[0],
        lambda: ref.load("r"),
        lambda: stored(ref, 2),
    ):
        with pytest.raises((ArrayCorruptError, StoreError), match="array at 'lab"):
            use()


# The cache folder


def copies() -> list[Path]:
    return sorted(p for p in (cache_of_mine() / "maps").iterdir() if "lock" not in p.name)


def cached(name: str = "a", nbytes: int = 1000) -> bytes:
    def download(file: FileIO) -> None:
        filecache.write_at(file, 0, memoryview(name[0].encode() * nbytes))

    with filecache.open_copy((name,), nbytes, download, f"the array {name!r}") as file:
        return file.read()


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder with the user's own files, in which nothing may change."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_bytes(b"s" * 1000)
    (folder / "work").write_bytes(b"w" * 5000)
    before = {p: (p.read_bytes(), p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.iterdir()}
    yield folder
    assert before == {
        p: (p.read_bytes(), p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.iterdir()
    }


@pytest.mark.parametrize("how", ["symbolic", "to nowhere", "hard"])
@pytest.mark.parametrize("what", ["a copy", "a download", "a lock"])
def test_nothing_is_read_or_written_through_a_link_in_the_cache(
    outside: Path, what: str, how: str
) -> None:
    cached()
    (copy,) = copies()
    lock = next((cache_of_mine() / "maps").glob("lock-*"))
    planted = {"a copy": copy, "a download": copy.with_suffix(".part"), "a lock": lock}[what]
    copy.unlink()
    planted.unlink(missing_ok=True)
    if how == "hard":
        os.link(outside / "work", planted)  # of another size, or it would be a copy
    else:
        planted.symlink_to(outside / ("secret" if how == "symbolic" else "nothing"))
    try:
        assert cached() == b"a" * 1000
    except StoreError as error:
        assert "could not map" in str(error)  # noqa: PT017
        assert how != "hard"
    planted.unlink(missing_ok=True)
    assert cached() == b"a" * 1000


def test_the_cache_folder_may_itself_be_reached_by_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``~/.cache`` on a larger disk, say: what is private is the folder that the link leads to."""
    (tmp_path / "large disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "large disk")
    monkeypatch.setattr(dj_npy.settings, "cache_dir", tmp_path / "link")
    assert cached() == b"a" * 1000
    assert stat.S_IMODE((cache_of_mine() / "maps").stat().st_mode) == 0o700


def test_nothing_but_copies_is_ever_removed_to_make_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The folder may be one in which a user keeps maps of another kind."""
    folder = cache_of_mine() / "maps"
    cached()
    own = [folder / name for name in ("thalamus.npy", "old.part", "0" * 63, "A" * 64, "lock-99")]
    for file in own:
        file.write_bytes(b"x" * 1000)
        os.utime(file, (1000, 1000))
    monkeypatch.setattr(dj_npy.settings, "cache_bytes", 1500)
    cached("a")
    cached("b")
    assert len(copies()) == len(own)  # b's copy, and all but the lock
    assert all(file.read_bytes() == b"x" * 1000 for file in own)


def test_every_file_of_the_cache_is_private_whatever_the_umask() -> None:
    before = os.umask(0)
    try:
        cached()
    finally:
        os.umask(before)
    folder = cache_of_mine() / "maps"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert set(modes.values()) == {0o600}, modes
    assert len(modes) == 2


@pytest.mark.parametrize("mode", [0o750, 0o770, 0o701, 0o777, 0o1777, 0o720])
@pytest.mark.parametrize("name", ["maps", "changed"])
def test_a_folder_that_a_group_may_enter_is_refused(mode: int, name: str, tmp_path: Path) -> None:
    folder = cache_of_mine() / name
    folder.mkdir(parents=True)
    folder.parent.chmod(0o700)
    folder.chmod(mode)
    (tmp_path / "original").write_bytes(b"0" * 10)
    original = filecache.QuietFile(tmp_path / "original")
    uses: dict[str, Callable[[], Any]] = {
        "maps": cached,
        "changed": partial(filecache.working_copy, ("a",), original, "it"),
    }
    with pytest.raises(StoreError, match="must be a folder of this user"):
        uses[name]()
    assert list(folder.iterdir()) == []


AS_NOBODY = """
import os, sys
import dj_npy
from dj_npy._stores import filecache as _filecache
from dj_npy._stores.filecache import write_at
os.setgroups([]); os.setgid(65534); os.setuid(65534)
dj_npy.settings.cache_dir = sys.argv[1]
try:
    for name in os.listdir(sys.argv[1] + "/user-0"):
        print("listed", name)
except PermissionError:
    print("not listed")
for path in sys.argv[2:]:
    for mode in ("rb", "r+b", "ab"):
        try:
            open(path, mode)
            print("opened", path)
        except PermissionError:
            print("not opened")
try:
    _filecache.open_copy(("a",), 10, lambda file: write_at(file, 0, memoryview(b"0" * 10)), "it")
    print("mapped")
except dj_npy.StoreError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "said"),
    [(0o1777, "mapped"), (0o777, "mapped"), (0o755, "Set DJ_NPY_CACHE_DIR to a folder of yours")],
)
def test_another_user_sees_nothing_of_the_cache_and_gets_none_of_it(
    session_folder: Path, monkeypatch: pytest.MonkeyPatch, mode: int, said: str
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root becomes another user")
    session_folder.chmod(0o755)
    cache = session_folder / f"cache of all {mode:o}"
    monkeypatch.setattr(dj_npy.settings, "cache_dir", cache)
    cached()
    cache.chmod(mode)
    paths = [str(path) for path in (cache_of_mine() / "maps").iterdir()]
    told = warm.output("-c", AS_NOBODY, str(cache), *paths).splitlines()
    assert told[0] == "not listed"
    assert told[1:-1] == ["not opened"] * 3 * len(paths)
    assert said in told[-1]


def test_a_folder_exchanged_by_another_user_serves_and_loses_nothing(
    tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After it was looked at, by whoever may write to the folder that it is in."""
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    cached()
    (copy,) = copies()
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o777)
    poisoned = theirs / copy.name
    poisoned.write_bytes(b"p" * 1000)
    poisoned.chmod(0o600)
    for each in (theirs, poisoned):
        os.chown(each, 65534, 65534)
    monkeypatch.setattr(filecache, "_private_folder", lambda _: theirs)
    assert cached() == b"a" * 1000
    assert poisoned.stat().st_uid == os.geteuid()  # it was replaced
    # Not even where the folder is that of the user's own files.
    monkeypatch.setattr(filecache, "_private_folder", lambda _: outside)
    monkeypatch.setattr(dj_npy.settings, "cache_bytes", 0)
    assert cached() == b"a" * 1000
    for left in outside.iterdir():
        if left.name not in ("secret", "work"):
            left.unlink()


def test_a_copy_that_others_may_change_is_downloaded_again() -> None:
    cached()
    (copy,) = copies()
    copy.write_bytes(b"p" * 1000)
    copy.chmod(0o666)
    assert cached() == b"a" * 1000
    assert [stat.S_IMODE(path.stat().st_mode) for path in copies()] == [0o600]


def test_a_header_that_would_fill_the_memory_is_not_read(
    stored: Callable[..., dj_npy.NpyRef], store: Path
) -> None:
    """Its length is a number in the file: here 1 GiB, of a sparse file."""
    ref = stored(np.zeros(3))
    path = store / ref.path
    with path.open("wb") as file:
        file.write(b"\x93NUMPY\x02\x00" + (1 << 30).to_bytes(4, "little"))
        file.truncate(2 << 30)
    tracemalloc.start()
    try:
        with pytest.raises(dj_npy.ArrayCorruptError, match="bytes, more than"):
            ref.load()
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
