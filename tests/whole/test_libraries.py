"""What other libraries take: tried with those that are installed, and as the page has it."""

import importlib.metadata
import sys

import pytest

from tests.conftest import run
from tests.support.libraries import LIBRARIES, table
from tests.support.pages import ROOT


def test_the_page_has_the_table() -> None:
    assert len(LIBRARIES) >= 40
    assert table() in (ROOT / "docs/libraries.md").read_text(encoding="utf-8"), (
        "python -m tests.support.libraries --table"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", LIBRARIES)
def test_a_library_takes_what_the_page_says(name: str) -> None:
    """In a process of its own, as some of these do not get along with each other, or with forks."""
    distribution = LIBRARIES[name].distribution
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed: pip install {distribution}")
    output = run([sys.executable, "-m", "tests.support.libraries", name], cwd=ROOT).stdout
    assert output.count("\n") == 1, output
