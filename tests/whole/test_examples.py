"""The examples run, and twice in the same folder."""

import os
import sys
from pathlib import Path

import pytest

from tests.conftest import run
from tests.support import warm

pytestmark = pytest.mark.slow

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_runs_again(example: Path, session_folder: Path) -> None:
    folder = session_folder / "examples"
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", str(example)]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder)}
    first = run(command, cwd=folder, env=environment).stdout
    assert first
    again = warm.run(str(example), cwd=folder, env=environment)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-1] == first.splitlines()[-1]


def test_the_comparison_is_what_was_promised(session_folder: Path) -> None:
    folder = session_folder / "examples"
    folder.mkdir(exist_ok=True)
    [example] = [path for path in EXAMPLES if path.stem == "four_codecs"]
    output = warm.run(str(example), cwd=folder).stdout
    table = {line.split()[0]: line.split()[2:5] for line in output.splitlines() if "@>" in line}
    assert table == {
        "<npy@>": ["True", "True", "schema"],
        "<object@>": ["True", "False", "schema"],
        "<blob@>": ["False", "False", "hash"],
        "<hash@>": ["False", "False", "hash"],
    }
