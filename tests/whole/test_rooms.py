"""The rooms of the house: what a module imports lies in its own room, or in one below."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import dj_npy
from tests.support.pages import ROOT

SOURCE = Path(dj_npy.__file__).parent
ROOMS = [
    ("_errors", "_memory", "_text"),
    ("_settings",),
    ("_concurrency",),
    ("_format",),
    ("_selection",),
    ("_stores",),
    ("_lazy",),
    ("_array",),
    ("_datajoint",),
    ("_upkeep", "_view"),
    ("_moves",),
    ("_postgresql",),
    ("embedded", "pickles"),
    ("",),  # the package itself
    ("_cli",),
]
FLOOR = {room: number for number, floor in enumerate(ROOMS) for room in floor}


def modules() -> dict[str, Path]:
    """Each module within the package, by its name there; that of the package itself is left."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts).removesuffix("__init__").rstrip(".")] = path
    return {name: path for name, path in found.items() if name}


MODULES = modules()


TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}
OF_OTHERS = {
    "_attributes": "DataJoint",
    "_config": "DataJoint",
    "_meta": "Dask",
    "_pipeline": "Azure",
    "_replace": "namedtuple",
}
"""Private attributes of other libraries that have the name of one of ours."""


def imports(module: str) -> Iterator[tuple[str, str]]:
    """Yield each module of the package that a module imports, wherever, and each name from it."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "dj_npy":
                    yield alias.name.removeprefix("dj_npy").lstrip("."), ""
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} has a relative import"
            source = node.module or ""
            if source.split(".")[0] == "dj_npy":
                source = source.removeprefix("dj_npy").lstrip(".")
                for alias in node.names:
                    inner = f"{source}.{alias.name}".lstrip(".")
                    yield (inner, "") if inner in MODULES else (source, alias.name)


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def of_itself(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def room(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_import_climbs(module: str) -> None:
    for other, _ in imports(module):
        assert FLOOR[room(other)] < FLOOR[room(module)] or room(other) == room(module), other


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_private_name_is_imported(module: str) -> None:
    assert not [(other, name) for other, name in imports(module) if private(name)]


def test_no_room_uses_the_private_attributes_of_another() -> None:
    rooms: dict[str, set[str]] = {}
    used: dict[str, set[str]] = {}
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                rooms.setdefault(node.name, set()).add(room(module))
            elif isinstance(node, ast.Attribute) and private(node.attr):
                to = rooms if of_itself(node) else used
                to.setdefault(node.attr, set()).add(room(module))
    assert used
    leaks = {name: used[name] - rooms[name] for name in used.keys() & rooms.keys()}
    assert {name for name, where in leaks.items() if where} == OF_OTHERS.keys()


def test_no_two_modules_need_one_another() -> None:
    needs = {name: {other for other, _ in imports(name)} for name in MODULES}
    while free := [name for name, others in needs.items() if not others & needs.keys() - {name}]:
        for name in free:
            del needs[name]
    assert not needs


def test_context_variables_are_where_their_reasons_are_told() -> None:
    having = {name for name, path in MODULES.items() if "ContextVar(" in path.read_text()}
    assert having == {"_array.arraylike", "_concurrency.threads", "_datajoint.context"}


def test_every_room_says_what_it_is() -> None:
    for folder in {path.parent for path in MODULES.values()}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))


def test_the_page_of_the_architecture_names_every_module() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    told = page[page.index("## Rooms") : page.index("## Words")]
    names = {name.rpartition(".")[2] for name in MODULES}
    assert {name for name in names if not re.search(rf"(`|  ){name}\b", told)} == set()
