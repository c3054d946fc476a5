"""An extension of griffe: what a docstring names, and what this page describes, is linked."""

import re
from typing import Any

import griffe

# In a docstring: `name`, with or without a role of Sphinx before it, but not ``name``.
_NAME = re.compile(r"(?<!`)(?::\w+:)?`(?P<name>[A-Za-z_][\w.]*)`(?!`)")


# Names of our own for what NumPy's users know by another one.
_SAID_AS = {"AnyArray": "ndarray", "Verified": "str", "MapMode": "str"}


class References(griffe.Extension):
    """Turn the names of public things in docstrings into cross-references."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """See griffe."""
        public = {name: f"{pkg.path}.{name}" for name in pkg.exports or () if name in pkg.members}
        public |= {f"{pkg.path}.{name}": path for name, path in public.items()}
        for name in pkg.exports or ():
            self._link(pkg[name], public)

    def _link(self, described: Any, known: dict[str, str]) -> None:
        defined = described.final_target if described.is_alias else described
        members = {
            name: member
            for name, member in defined.all_members.items()
            if not name.startswith("_") and (member.inherited or not member.is_alias)
        }
        # The names of a class are known within it, those of a module are `module.name`.
        near = {name: f"{described.path}.{name}" for name in members}
        for member in (defined, *members.values()):
            if member.docstring is not None:
                member.docstring.value = _linked(member.docstring.value, known | near)
            for annotation in _annotations(member.final_target if member.is_alias else member):
                for name in annotation.iterate(flat=True):
                    if isinstance(name, griffe.ExprName) and name.name in _SAID_AS:
                        name.name = _SAID_AS[name.name]


def _annotations(member: Any) -> list[Any]:
    found = [getattr(member, "annotation", None), getattr(member, "returns", None)]
    found += [parameter.annotation for parameter in getattr(member, "parameters", ())]
    return [annotation for annotation in found if isinstance(annotation, griffe.Expr)]


def _linked(text: str, known: dict[str, str]) -> str:
    def link(found: re.Match[str]) -> str:
        name = found["name"]
        first, _, rest = name.rpartition(".")
        path = known.get(name) or (f"{known[first]}.{rest}" if first in known else None)
        return f"[`{name}`][{path}]" if path else f"`{name}`"

    return _NAME.sub(link, text)
