"""The rooms of the house: what a module imports lies in its own room, or in one below."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import dj_npy

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
    ("_upkeep",),
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


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each module of the package that a file imports, wherever, and each name from it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dj_npy":
            module = (node.module or "").removeprefix("dj_npy").lstrip(".")
            for alias in node.names:
                inner = f"{module}.{alias.name}".lstrip(".")
                yield (inner, "") if inner in MODULES else (module, alias.name)


def room(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_import_climbs(module: str) -> None:
    for other, _ in imports(MODULES[module]):
        assert FLOOR[room(other)] < FLOOR[room(module)] or room(other) == room(module), other


@pytest.mark.parametrize("module", sorted(MODULES))
def test_what_has_an_underscore_stays_at_home(module: str) -> None:
    assert not [
        (other, name)
        for other, name in imports(MODULES[module])
        if name.startswith("_") and not name.startswith("__")
    ]


def test_no_two_modules_need_one_another() -> None:
    needs = {name: {other for other, _ in imports(path)} for name, path in MODULES.items()}
    while free := [name for name, others in needs.items() if not others & needs.keys() - {name}]:
        for name in free:
            del needs[name]
    assert not needs


def test_every_room_says_what_it_is() -> None:
    for folder in {path.parent for path in MODULES.values()}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
