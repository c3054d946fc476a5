"""What the documentation shows, happens."""

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dj_npy
from tests.conftest import run

ROOT = Path(__file__).parent.parent
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
    test: doctest.DocTest, stored: Callable[..., dj_npy.NpyRef], recording: Any
) -> None:
    recording.insert1({"recording_id": 1, "waveform": np.zeros((1000, 32))})
    test.globs = {
        **{key: value for name in MODULES for key, value in vars(sys.modules[name]).items()},
        "ref": stored(np.zeros((1000, 32))),
        "np": np,
        "dj_npy": dj_npy,
        "Recording": recording,
    }
    assert doctest.DocTestRunner().run(test).failed == 0


def test_the_methods_of_a_reference_have_examples() -> None:
    names = {test.name for test in docstrings_with_examples()}
    assert {f"NpyRef.{name}" for name in ("load", "read", "unload", "verify")} <= names


def test_the_quick_start_of_the_readme(session_folder: Path) -> None:
    text = (ROOT / "README.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    code += (
        "assert repr((Recording & 'recording_id=1').fetch1('waveform')) == "
        "'NpyRef(shape=(1000, 32), dtype=float64, not loaded)'\n"
        "assert ref.path == 'my_schema/recording/recording_id=1/waveform.npy'\n"
    )
    run([sys.executable, "-W", "ignore", "-c", code], cwd=session_folder)


def test_every_file_that_the_readme_links_to_is_there() -> None:
    for name in re.findall(r"\]\(([^):]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / name).exists()


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
        "ref = dj.FreeTable(dj.conn(), 'lab.recording').fetch1('waveform')\n"
        "assert type(ref).__module__ == 'datajoint.builtin_codecs.npy'\n"
        "assert ref.load().tolist() == [0, 1, 2, 3, 4]\n"
        "assert 'dj_npy' not in sys.modules\n"
    )
    python = [sys.executable, "-W", "ignore", "-c"]
    with subprocess.Popen(
        [*python, write], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout
        host = next(line.split()[1] for line in writer.stdout if line.startswith("HOST"))
        run([*python, read, host, str(folder / "store")])
        writer.communicate("\n", timeout=60)
