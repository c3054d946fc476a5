"""What is released: built as a user's pip would, looked at, and run where nothing else is."""

import os
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import NamedTuple

import pytest

import dj_npy
from tests.conftest import run
from tests.support.network import INTERNET
from tests.support.servers import script

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).parents[2]
NAME = f"dj_npy-{dj_npy.__version__}"


class Built(NamedTuple):
    sdist: Path
    wheel: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The source distribution, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(
        [sys.executable, "-m", "build", "--installer", "uv", "--outdir", str(folder), "."],
        cwd=CHECKOUT,
        env=INTERNET,
    )
    assert len(list(folder.iterdir())) == 2
    return Built(folder / f"{NAME}.tar.gz", folder / f"{NAME}-py3-none-any.whl")


@pytest.fixture(scope="module")
def metadata(built: Built) -> Message:
    with zipfile.ZipFile(built.wheel) as wheel:
        return Parser().parsestr(wheel.read(f"{NAME}.dist-info/METADATA").decode())


def files_below(*folders: str) -> set[str]:
    """The files of the checkout below these folders."""
    found = (path for folder in folders for path in (CHECKOUT / folder).rglob("*"))
    relative = (path.relative_to(CHECKOUT) for path in found if path.is_file())
    made = {"__pycache__", "node_modules"}
    return {path.as_posix() for path in relative if made.isdisjoint(path.parts)}


def test_the_index_would_take_both(built: Built) -> None:
    run([script("twine"), "check", "--strict", *map(str, built)])


def test_the_wheel_holds_the_package_and_its_licence_and_nothing_else(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        found = set(wheel.namelist())
    about = ["METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"]
    package = {name.removeprefix("src/") for name in files_below("src")}
    assert "dj_npy/py.typed" in package
    assert found == package | {f"{NAME}.dist-info/{name}" for name in about}


def test_the_source_distribution_holds_what_its_tests_need(built: Built) -> None:
    with tarfile.open(built.sdist) as sdist:
        found = {member.name.removeprefix(f"{NAME}/") for member in sdist if member.isfile()}
    about = {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE"}
    about |= {"pyproject.toml", "mkdocs.yml"}
    expected = (
        files_below("src", "tests", "examples", "benchmarks", "docs", "scripts", "viewer") | about
    )
    assert found - {"PKG-INFO", ".gitignore"} == expected


def test_the_metadata_say_what_holds(metadata: Message) -> None:
    assert metadata["Name"] == "dj-npy"
    assert metadata["Version"] == dj_npy.__version__
    assert metadata["License-Expression"] == "MIT"
    assert f"\n## {dj_npy.__version__} (" in (CHECKOUT / "CHANGELOG.md").read_text()
    extras = metadata.get_all("Provides-Extra", [])
    assert {"local", "s3", "gcs", "azure"} <= set(extras)
    versions = [
        classifier.rpartition(" ")[2]
        for classifier in metadata.get_all("Classifier", [])
        if classifier.startswith("Programming Language :: Python :: 3.")
    ]
    assert metadata["Requires-Python"] == f">={versions[0]}"
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in versions


class Bare(NamedTuple):
    """A virtual environment into which only the wheel is installed, and what it depends on."""

    bin: Path
    folder: Path

    def run(self, *command: str) -> str:
        # Neither the checkout nor this environment may be found.
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))
        }
        environment["PATH"] = f"{self.bin}:{environment['PATH']}"
        return run(
            [str(self.bin / command[0]), *command[1:]], cwd=self.folder, env=environment
        ).stdout


@pytest.fixture(scope="module")
def bare(built: Built, session_folder: Path) -> Bare:
    folder = session_folder / "release"
    folder.mkdir()
    run([script("uv"), "venv", "--quiet", "--python", sys.executable, str(folder / "venv")])
    bare = Bare(folder / "venv" / "bin", folder)
    install(bare, str(built.wheel))
    return bare


def install(bare: Bare, what: str) -> None:
    command = [script("uv"), "pip", "install", "--quiet", "--python", str(bare.bin / "python")]
    run([*command, what], env=INTERNET)


def test_the_wheel_without_extras_can_be_imported(bare: Bare) -> None:
    code = "import dj_npy; print(dj_npy.__version__, dj_npy.__file__)"
    version, file = bare.run("python", "-W", "ignore", "-c", code).split()
    assert version == dj_npy.__version__
    assert file.startswith(str(bare.folder))


def test_the_quick_start_runs_from_the_wheel(bare: Bare, built: Built) -> None:
    install(bare, f"{built.wheel}[local]")
    output = bare.run("dj-npy", "quickstart", "quickstart")
    assert "NpyRef(shape=(1000, 32), dtype=float64, loaded)" in output
    store = bare.folder / "quickstart" / "store" / "quickstart" / "recording" / "recording_id=1"
    assert (store / "waveform.npy").stat().st_size == 128 + 1000 * 32 * 8
