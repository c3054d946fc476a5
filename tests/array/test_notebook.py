"""The notebook of the examples runs, as a process of Jupyter's, and shows what it should."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

NOTEBOOK = Path(__file__).parents[2] / "examples" / "tour.ipynb"


@pytest.fixture(scope="module")
def cells(session_folder: Path) -> dict[str, Any]:
    """Its cells after it has run, by their source."""
    folder = session_folder / "notebook"
    folder.mkdir()
    shutil.copy(NOTEBOOK, folder)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DJ_")}
    kernels = folder / "share" / "kernels" / "python3"
    kernels.mkdir(parents=True)
    # This Python, whatever kernels the user has.
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "Python 3", "language": "python"}
    (kernels / "kernel.json").write_text(json.dumps(spec))
    result = subprocess.run(
        [
            *[sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace"],
            *["--ExecutePreprocessor.timeout=120", str(folder / NOTEBOOK.name)],
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={
            **environment,
            "JUPYTER_PATH": str(folder / "share"),
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "IPYTHONDIR": str(folder / "ipython"),
        },
    )
    assert result.returncode == 0, result.stderr[-3000:]
    executed = json.loads((folder / NOTEBOOK.name).read_text())["cells"]
    return {source(cell): cell for cell in executed if cell["cell_type"] == "code"}


def source(cell: Any) -> str:
    return "".join(cell["source"])


def outputs(cell: Any, kind: str) -> list[str]:
    return ["".join(each["data"].get(kind, "")) for each in cell["outputs"] if "data" in each]


def ending(cells: dict[str, Any], end: str) -> Any:
    return [cell for text, cell in cells.items() if text.endswith(end)]


def test_it_is_kept_without_outputs() -> None:
    notebook = json.loads(NOTEBOOK.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert code
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)


def test_it_shows_a_reference_before_and_after_loading(cells: dict[str, Any]) -> None:
    [fetched] = ending(cells, "\nref")
    before, after = (outputs(cell, "text/html")[0] for cell in (fetched, cells["ref"]))
    assert ">not loaded<" in before
    assert "<svg" not in before
    assert ">loaded<" in after
    assert after.count("<path") == 3
    [film] = ending(cells, "\nfilm")
    assert "<image" in outputs(film, "text/html")[0]


def test_a_slice_loads_nothing(cells: dict[str, Any]) -> None:
    [cell] = ending(cells, "ref.is_loaded")
    assert outputs(cell, "text/plain") == ["((100, 3), False)"]


def test_a_table_of_references_is_shown_unloaded(cells: dict[str, Any]) -> None:
    [cell] = ending(cells, "\ntable")
    assert outputs(cell, "text/html")[0].count("NpyRef(shape=(20000, 3), dtype=float64") == 8
    [loaded] = ending(cells, "for ref in refs)")
    assert outputs(loaded, "text/plain") == ["0"]


def test_it_writes_bars_and_nothing_else_to_the_standard_error(cells: dict[str, Any]) -> None:
    texts = [
        line
        for cell in cells.values()
        for output in cell["outputs"]
        if output["output_type"] == "stream"
        for line in "".join(output["text"]).replace("\r", "\n").splitlines()
    ]
    assert any("8/8 files" in line for line in texts)
    assert all(not line or line.startswith(("insert:", "read:", "load:")) for line in texts)


def test_its_last_cells_say_that_all_is_well(cells: dict[str, Any]) -> None:
    assert outputs(cells["ref.verify()"], "text/plain") == ["'as inserted'"]
