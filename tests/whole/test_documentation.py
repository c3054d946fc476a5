"""What the documentation shows, happens."""

import doctest
import importlib
import inspect
import os
import pkgutil
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import datajoint as dj
import numpy as np
import pytest

import dj_npy
from dj_npy._cli.main import main
from tests.conftest import run
from tests.support import warm
from tests.support.pages import (
    NEW_PROCESS,
    NOT_RUN,
    PAGES,
    ROOT,
    as_program,
    blocks,
    commands,
    execute,
    processes,
)

MODULES = [module.name for module in pkgutil.walk_packages(dj_npy.__path__, "dj_npy.")]


def docstrings_with_examples() -> list[doctest.DocTest]:
    """Of every object by where it is defined; a public one says it is of `dj_npy`."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = {}
    for name in MODULES:
        for key, member in vars(importlib.import_module(name)).items():
            if getattr(member, "__module__", "").startswith("dj_npy"):
                for test in finder.find(member, key, module=False):
                    if test.examples:
                        found[test.name] = test
    return list(found.values())


@pytest.mark.parametrize("test", docstrings_with_examples(), ids=lambda test: test.name)
def test_the_examples_of_a_docstring(
    test: doctest.DocTest, stored: Callable[..., dj_npy.NpyRef], recording: Any, schema: Any
) -> None:
    recording.insert1({"recording_id": 1, "waveform": np.zeros((1000, 32))})
    test.globs = {
        **{key: value for name in MODULES for key, value in vars(sys.modules[name]).items()},
        "ref": stored(np.zeros((1000, 32))),
        "np": np,
        "dj_npy": dj_npy,
        "Recording": recording,
        "schema": schema,
    }
    assert doctest.DocTestRunner().run(test).failed == 0


def test_the_methods_of_a_reference_have_examples() -> None:
    names = {test.name for test in docstrings_with_examples()}
    assert {f"NpyRef.{name}" for name in ("load", "read", "unload", "verify")} <= names


# Of a page whose blocks say that they are for a new process: there, DataJoint is configured.
PRELUDE = """
import datajoint as dj
dj.config['database.backend'] = 'postgresql'
dj.config['database.host'] = {host!r}
dj.config['database.port'] = {port!r}
dj.config['database.user'] = 'postgres'
dj.config['database.password'] = ''
dj.config['database.use_tls'] = False
dj.config.stores = {stores!r}
"""


@pytest.fixture
def names(
    postgresql: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Any]]:
    """What the blocks of a page may use without saying so."""
    monkeypatch.chdir(tmp_path)
    for name in type(dj_npy.settings).model_fields:
        monkeypatch.setattr(dj_npy.settings, name, getattr(dj_npy.settings, name))
    before = dj.config.stores
    dj.config.stores = stores_in(tmp_path)
    schema: Any = dj.Schema("lab_ephys")
    definition = "recording_id : int32\n---\nwaveform : <npy@>"
    recording: Any = schema(type("Recording", (dj.Manual,), {"definition": definition}))
    for number in (1, 2, 3):
        waveform = np.random.default_rng(number).standard_normal((1000, 32))
        recording.insert1({"recording_id": number, "waveform": waveform})
    ref = (recording & "recording_id=1").fetch1("waveform")
    names = {"dj": dj, "np": np, "dj_npy": dj_npy, "Recording": recording, "ref": ref}
    yield {"__name__": "page", **names}
    dj.config.stores = before
    schema.drop(prompt=False)


def stores_in(folder: Path) -> dict[str, Any]:
    stores: dict[str, Any] = {"default": "main"}
    for name in ("main", "archive"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        stores[name] = {"protocol": "file", "location": str(folder / name)}
    return stores


OF_ITS_OWN = [
    page
    for page in PAGES
    if page.stem == "README" or any(block.mark.startswith(NEW_PROCESS) for block in blocks(page))
]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page not in OF_ITS_OWN], ids=lambda page: page.stem
)
def test_the_blocks_of_a_page_run_one_after_the_other(page: Path, names: dict[str, Any]) -> None:
    for process in processes(page):
        for block in process:
            execute(block.code, names, str(page), block.line)


@pytest.mark.parametrize("page", OF_ITS_OWN, ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run_in_processes_of_their_own(
    page: Path, postgresql: Any, session_folder: Path
) -> None:
    folder = session_folder / page.stem
    info = postgresql.connection.conn_info
    stores = stores_in(folder)
    # Of pages that start an embedded server in my-folder, that is the store.
    stores["main"]["location"] = str(folder / "my-folder" / "store")
    (folder / "my-folder" / "store").mkdir(parents=True, exist_ok=True)
    prelude = PRELUDE.format(host=info["host"], port=info["port"], stores=stores)
    program = folder / "program.py"
    for process in processes(page):
        program.write_text(as_program(process, prelude), encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = warm.run(str(program), cwd=folder, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_block_that_is_not_run_says_why() -> None:
    for block in (block for page in PAGES for block in blocks(page)):
        looked_at = block.language in ("python", "sh", "console", "text", "json", "")
        assert looked_at or block.reason, f"{block.where}: nothing runs it, and it does not say why"
        known = not block.mark or block.mark.startswith((NOT_RUN, NEW_PROCESS))
        assert known, f"{block.where}: {block.mark}"
        if block.reason is not None:
            print(f"not run: {block.where}: {block.reason}")
            assert len(block.reason.split()) > 1, f"{block.where} does not say why it is not run"


def test_a_block_that_says_something_untrue_fails() -> None:
    with pytest.raises(AssertionError, match=r"page.md:4: it is \(3,\)"):
        execute("import numpy as np\nnp.zeros(3).shape  # (4,)", {}, "page.md", 3)
    execute("(1, 2)  # (1, 2)\n[1]  # read-only\n[1]  # integers, floats", {}, "page.md", 1)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command, *arguments in commands(page):
        usage = [] if command.startswith("-") else [command]
        try:
            exit_code: Any = main([*usage, "--help"])
        except SystemExit as done:
            exit_code = done.code
        assert exit_code == 0, f"dj-npy has no command {command!r}"
        words = re.findall(r"[\w-]+", capsys.readouterr().out)
        for option in (word for word in (command, *arguments) if word.startswith("-")):
            assert option in words, f"dj-npy {command} has no option {option!r}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_file_that_a_page_links_to_is_there(page: Path) -> None:
    for name in re.findall(r"\]\(([^):#]+)[^):]*\)", page.read_text(encoding="utf-8")):
        assert (page.parent / name).exists(), f"{page.name} links to {name}"


def public() -> Iterator[tuple[str, Any]]:
    """Every public definition, with its name as a user writes it."""
    for name in dj_npy.__all__:
        if name not in ("__version__", "settings"):
            yield name, getattr(dj_npy, name)
            yield from members(name, getattr(dj_npy, name))
    yield "settings", type(dj_npy.settings)


def members(name: str, of: Any) -> Iterator[tuple[str, Any]]:
    for key in dir(of) if isinstance(of, (type, ModuleType)) else ():
        member = inspect.getattr_static(of, key)
        home = getattr(member, "fget", member)
        ours = str(getattr(home, "__module__", "")).startswith("dj_npy")
        if ours and not key.startswith("_") and (callable(member) or isinstance(member, property)):
            yield f"{name}.{key}", member
            if isinstance(of, ModuleType):
                yield from members(f"{name}.{key}", member)


def test_every_public_definition_has_a_docstring() -> None:
    found = dict(public())
    assert {"NpyRef.load", "NpyRef.ndim", "embedded.start", "load", "StoreError"} <= set(found)
    assert [name for name, member in found.items() if not inspect.getdoc(member)] == []


def test_every_public_name_has_its_place_on_the_api_page() -> None:
    shown = re.findall(r"^::: dj_npy\.(\S+)", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    wanted = set(dj_npy.__all__) - {"__version__", "settings"} | {"_settings.Settings"}
    upkeep = {"verify": ("Report", "Finding"), "collection": ("Collection", "Orphan")}
    wanted |= {f"_upkeep.{module}.{name}" for module, names in upkeep.items() for name in names}
    moves = {"usage": ("Usage", "Used"), "moved": ("Moved",)}
    moves |= {"export": ("Exported",), "importing": ("Imported",)}
    moves |= {"migrated": ("Migrated",), "backup": ("BackedUp",), "restore": ("Restored",)}
    moves |= {"rebuild": ("Rebuilt", "TableFound")}
    wanted |= {f"_moves.{module}.{name}" for module, names in moves.items() for name in names}
    assert set(shown) == wanted
    words = set(re.findall(r"\w+", (ROOT / "docs/api.md").read_text()))
    assert {name for name, _ in members("", dj_npy.NpyRef)} - {
        f".{word}" for word in words
    } == set()
    assert set(type(dj_npy.settings).model_fields) - words == set()


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = [requirement for some in (project["dependencies"], *extras) for requirement in some]
    names = {re.split(r"[\[<>=;, ]", requirement)[0] for requirement in wanted} - {"dj-npy"}
    told = set(re.findall(r"`([\w-]+)`", (ROOT / "CONTRIBUTING.md").read_text()))
    assert names - told == set()


@pytest.mark.slow
def test_the_site_is_built_clean_and_needs_no_other_host(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs pip install '.[docs]'")
    site = tmp_path / "site"
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    # Not --quiet: under that, --strict finds nothing.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(site)]
    result = run(command, cwd=ROOT, env=environment)
    assert {line.split()[0] for line in result.stderr.splitlines()} == {"INFO"}, result.stderr
    assert result.stdout == ""
    pages = {path.name: path.read_text(encoding="utf-8") for path in site.glob("*.html")}
    assert {page.with_suffix(".html").name for page in PAGES[1:]} <= set(pages)
    for name, text in pages.items():
        fetched = re.findall(r"<(?:script|img|iframe|link)[^>]*(?:src|href)=[\"']?(\w+:)?//", text)
        assert fetched == [], name
        assert "<!-- not run" not in text, name
        assert re.findall(r":(?:meth|func|class|data):|\bAnyArray\b", text) == [], name
    shown = sum(text.count("Not run by the tests: ") for text in pages.values())
    assert shown == sum(block.reason is not None for page in PAGES[1:] for block in blocks(page))
    for name in dj_npy.__all__:
        if name not in ("__version__", "settings"):
            assert f'id="dj_npy.{name}"' in pages["api.html"], name


# What the guide's table says of existing code, first of the built-in codec, then of ours.
EXISTING_CODE = """
import pathlib, sys
import numpy as np

schema = dj.Schema("existing_code")
@schema
class Recording(dj.Manual):
    definition = "id : int32\\n---\\nwaveform : <npy@main>"

def column(number, waveform):
    Recording.insert1({"id": number, "waveform": waveform}, skip_duplicates=True)
    ref = (Recording & {"id": number}).fetch1("waveform")
    found = {}
    def what(name, call):
        try:
            found[name] = call()
        except Exception as error:
            found[name] = sorted(
                {kind.__name__ for kind in type(error).__mro__}
                & {"MissingExternalFile", "FileNotFoundError", "ArrayInvalidError", "ValueError"}
            )
    what("if", lambda: bool(ref))
    what("==", lambda: (ref == ref) is True)
    what("in", lambda: ref in [object(), ref])
    what("in place", lambda: ref.load().__setitem__(0, 1))
    what("view", lambda: np.shares_memory(ref[0], ref.load()))
    what("change", lambda: bool(ref.load()[0, 0] == 1))
    what("fetch", lambda: Recording.fetch()["waveform"][0].is_loaded)
    what("to_arrays", lambda: Recording.to_arrays()["waveform"][0].is_loaded)
    what("one of them", lambda: Recording.to_arrays("waveform").shape)
    what("fetched", lambda: Recording.fetch("waveform").shape)
    masked = {"id": number + 10, "waveform": np.ma.masked_array([1, 2], [False, True])}
    what("masked", lambda: Recording.insert1(masked))
    missing = (Recording & {"id": number}).fetch1("waveform")
    pathlib.Path(dj.config.stores["main"]["location"], missing.path).unlink()
    what("missing", missing.load)
    what("missing map", lambda: missing.load(mmap_mode="r"))
    (Recording & {"id": number}).delete(prompt=False)
    return found

found = column(1, np.zeros((3, 4)))
assert found == {
    "if": True, "==": True, "in": True, "in place": None,
    "view": True, "change": True, "fetch": True,
    "to_arrays": True, "one of them": (1, 3, 4), "fetched": (1, 3, 4), "masked": None,
    "missing": ["MissingExternalFile"], "missing map": ["FileNotFoundError"],
}, found
import dj_npy
found = column(2, np.zeros((3, 4)))
both = ["FileNotFoundError", "MissingExternalFile"]
assert found == {
    "if": ["ValueError"], "==": False, "in": ["ValueError"], "in place": ["ValueError"],
    "view": False, "change": False,
    "fetch": False, "to_arrays": False, "one of them": (2,), "fetched": (2,),
    "masked": ["ArrayInvalidError", "ValueError"], "missing": both, "missing map": both,
}, found
"""


def test_existing_code_notices_what_the_guide_says(postgresql: Any, session_folder: Path) -> None:
    folder = session_folder / "existing"
    info = postgresql.connection.conn_info
    stores = stores_in(folder)
    # Of pages that start an embedded server in my-folder, that is the store.
    stores["main"]["location"] = str(folder / "my-folder" / "store")
    (folder / "my-folder" / "store").mkdir(parents=True, exist_ok=True)
    prelude = PRELUDE.format(host=info["host"], port=info["port"], stores=stores)
    warm.output("-c", prelude + EXISTING_CODE)


@pytest.mark.slow
def test_after_leaving_datajoint_reads_what_was_written(session_folder: Path) -> None:
    """In a process that never imports this package, on rows of one that did."""
    folder = session_folder / "leaving"
    write = (
        "import datajoint as dj, dj_npy, numpy as np\n"
        f"place = dj_npy.embedded.start({str(folder)!r})\n"
        "schema = dj.Schema('lab')\n"
        "@schema\n"
        "class Recording(dj.Manual):\n"
        "    definition = 'id : int32\\n---\\nwaveform : <npy@>'\n"
        "Recording.insert1({'id': 1, 'waveform': np.arange(5)})\n"
        "Recording.insert1({'id': 2, 'waveform': np.ones(3, [('t', 'f8'), ('n', 'i4')])})\n"
        "print('HOST', place.host, flush=True)\n"
        "input()\n"
    )
    read = (
        "import sys, datajoint as dj\n"
        "dj.config['database.backend'] = 'postgresql'\n"
        "dj.config['database.host'] = sys.argv[1]\n"
        "dj.config['database.port'] = 5432\n"
        "dj.config['database.user'] = 'postgres'\n"
        "dj.config['database.password'] = ''\n"
        "dj.config['database.use_tls'] = False\n"
        "dj.config.stores = {'main': {'protocol': 'file', 'location': sys.argv[2]}}\n"
        "recording = dj.FreeTable(dj.conn(), 'lab.recording')\n"
        "ref = (recording & 'id=1').fetch1('waveform')\n"
        "assert type(ref).__module__ == 'datajoint.builtin_codecs.npy'\n"
        "assert ref.load().tolist() == [0, 1, 2, 3, 4]\n"
        "structured = (recording & 'id=2').fetch1('waveform')\n"
        "assert structured.load().tolist() == [(1.0, 1)] * 3\n"
        "for name in ('dtype', 'nbytes', '__repr__'):\n"
        "    try:\n"
        "        getattr(structured, name)()\n"
        "    except TypeError as error:\n"
        "        assert 'must be 2- or 3-tuples' in str(error)\n"
        "    else:\n"
        "        raise SystemExit(name)\n"
        "assert 'dj_npy' not in sys.modules\n"
    )
    writer = warm.Program("-c", write)
    host = next(line.split()[1] for line in writer.stdout if line.startswith("HOST"))
    warm.output("-c", read, host, str(folder / "store"))
    writer.communicate("\n")


def test_the_index_of_decisions_has_title_and_status_of_each() -> None:
    folder = ROOT / "docs" / "decisions"
    row = re.compile(r"^\| (\d+) \| \[(.*?)\]\((.*?)\) \| (\S+) \| (.*) \|$", re.MULTILINE)
    told = {}
    for number, title, file, date, status in row.findall((folder / "index.md").read_text()):
        told[file] = f"# {number}. {title}", "", f"{date}. Status: {status}."
    assert told == {
        page.name: (*page.read_text().split("\n")[:3],) for page in folder.glob("0*.md")
    }
