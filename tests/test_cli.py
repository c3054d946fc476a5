import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dj_npy
from dj_npy import _cli
from tests.conftest import run

COMMAND = [
    sys.executable,
    "-W",
    "ignore",
    "-c",
    "import sys; from dj_npy._cli import main; sys.exit(main())",
]


def test_quickstart_shows_each_line_and_leaves_everything(session_folder: Path) -> None:
    folder = session_folder / "quickstart"
    first = run([*COMMAND, "quickstart", str(folder)]).stdout
    for line in _cli.QUICK_START.splitlines():
        assert not line or f">>> {line}" in first or f"... {line}" in first
    assert "NpyRef(shape=(1000, 32), dtype=float64, not loaded)" in first
    assert "NpyRef(shape=(1000, 32), dtype=float64, loaded)" in first
    file = folder / "store" / "quickstart" / "recording" / "recording_id=1" / "waveform.npy"
    assert str(file) in first
    assert np.load(file).shape == (1000, 32)
    before = file.stat()
    again = run([*COMMAND, "quickstart", str(folder)]).stdout
    assert "not inserted again" in again
    assert file.stat() == before
    # What it says at its end.
    code = "\n".join(line.strip() for line in first.split("To go on from Python:")[1].splitlines())
    run([sys.executable, "-W", "ignore", "-c", code + "\nassert len(Recording.to_dicts()) == 1"])


def test_the_installed_command_is_this_one() -> None:
    assert run([str(Path(sys.executable).parent / "dj-npy"), "--version"]).stdout == (
        f"dj-npy {dj_npy.__version__}\n"
    )


@pytest.mark.parametrize("arguments", [[], ["no-such-command"], ["quickstart", "a", "b"]])
def test_wrong_arguments_exit_with_2(arguments: list[str]) -> None:
    result = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "usage: dj-npy" in result.stderr


def test_a_folder_that_cannot_be_used_exits_with_1_and_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    result = subprocess.run(
        [*COMMAND, "quickstart", str(tmp_path / "file")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("dj-npy: PostgreSQL did not start in")
    assert result.stderr.count("\n") == 1
