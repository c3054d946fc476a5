"""What other libraries take: tried with those that are installed, and as the page has it."""

import importlib.metadata
import sys

import pytest

from tests.conftest import run
from tests.support.libraries import LIBRARIES, table
from tests.support.pages import ROOT


def is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(LIBRARIES[name].distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


# They have threads, devices or figures of their own for all of a process.
ALONE = {"JAX", "matplotlib", "PyTorch", "Ray", "seaborn", "TensorFlow"}
INSTALLED = [name for name in LIBRARIES if is_installed(name)]
TOGETHER = [name for name in INSTALLED if name not in ALONE]
PROCESSES = [
    *([name] for name in LIBRARIES if name not in TOGETHER),
    # Most are tried in less time than it takes to begin a process.
    *(TOGETHER[start : start + 6] for start in range(0, len(TOGETHER), 6)),
]


def test_the_page_has_the_table() -> None:
    assert len(LIBRARIES) >= 40
    assert table() in (ROOT / "docs/libraries.md").read_text(encoding="utf-8"), (
        "python -m tests.support.libraries --table"
    )


@pytest.mark.slow
@pytest.mark.parametrize("names", PROCESSES, ids=", ".join)
def test_libraries_take_what_the_page_says(names: list[str]) -> None:
    """In processes of their own, as some of these do not get along with forks."""
    if names[0] not in INSTALLED:
        [name] = names
        pytest.skip(f"{name} is not installed: pip install {LIBRARIES[name].distribution}")
    output = run([sys.executable, "-m", "tests.support.libraries", *names], cwd=ROOT).stdout
    assert output.count("\n") == len(names), output
