"""``datapackage.json``: what a package says of itself, in Frictionless's words."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dj_npy._errors import ArrayCorruptError, ArrayInvalidError
from dj_npy._moves.declaring import definition_text
from dj_npy._moves.definitions import Attribute, Definition
from dj_npy._moves.packedarrays import NAMES
from dj_npy._moves.place import Place
from dj_npy._moves.rowfiles import RowFile
from dj_npy._moves.values import kind_of_type

FILE = "datapackage.json"
UNFINISHED = "export-unfinished.json"
"""A file that is there while a package is written."""
ARRAYS = "arrays"
"""Name of the list of arrays."""
_VERSION = 1


@dataclass(frozen=True)
class Package:
    """A package: tables in an order in which parents come first, and the list of arrays."""

    tables: tuple[tuple[Definition, RowFile], ...]
    arrays: RowFile | None
    """None if no table has arrays."""
    backend: str
    """Of the database that it was exported from."""
    left_out: tuple[str, ...] = ()
    """What of the tables is not in it."""


def file_names(definitions: Sequence[Definition]) -> list[str]:
    """Return the name of each table's resource, which is also that of its file."""
    names: list[str] = []
    for each in definitions:
        table = re.sub(r"[^a-z0-9_]", "-", each.table.strip("#_").lower())
        plain = f"{re.sub(r'[^a-z0-9_]', '-', each.schema.lower())}.{table}"
        name, number = plain, 1
        while name in names:
            number += 1
            name = f"{plain}-{number}"
        names.append(name)
    return names


def package_json(package: Package, extra: Mapping[str, Any], more: Iterable[Any] = ()) -> bytes:
    """Return the contents of the file; `more` are further resources."""
    definitions = [definition for definition, _ in package.tables]
    names = dict(zip((each.name for each in definitions), file_names(definitions), strict=True))
    resources = [_table_resource(definition, file, names) for definition, file in package.tables]
    if package.arrays is not None:
        resources.append(_resource(ARRAYS, package.arrays, _ARRAYS_SCHEMA))
    schemas = list(dict.fromkeys(each.schema for each in definitions))
    contents = {
        "profile": "data-package",
        "name": re.sub(r"[^a-z0-9._-]", "-", "-".join(schemas).lower())[:100],
        **extra,
        "dj_npy": {
            "version": _VERSION,
            "database": package.backend,
            "schemas": schemas,
            "left_out": list(package.left_out),
        },
        "resources": [*resources, *more],
    }
    return json.dumps(contents, indent=2, ensure_ascii=False).encode() + b"\n"


def _resource(name: str, file: RowFile, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "path": file.path,
        "profile": "tabular-data-resource",
        "format": "csv",
        "mediatype": "text/csv",
        "encoding": "utf-8",
        "dialect": {"delimiter": ",", "lineTerminator": "\r\n", "doubleQuote": True},
        "rows": file.rows,
        "bytes": file.nbytes,
        "hash": f"sha256:{file.sha256}",
        "schema": {**schema, "missingValues": [file.missing]},
    }


_ARRAYS_SCHEMA = {
    "fields": [
        {"name": name, "type": "integer" if name == "bytes" else "string"} for name in NAMES
    ],
    "primaryKey": ["path"],
}


def _table_resource(
    given: Definition, file: RowFile, names: Mapping[tuple[str, str], str]
) -> dict[str, Any]:
    schema: dict[str, Any] = {"fields": [_field(each) for each in given.attributes]}
    if given.key:
        schema["primaryKey"] = given.key
    if given.foreign_keys:
        schema["foreignKeys"] = [
            {
                "fields": list(key.attributes),
                "reference": {
                    "resource": names[key.schema, key.table],
                    "fields": list(key.attributes.values()),
                },
            }
            for key in given.foreign_keys
        ]
    return {
        **_resource(names[given.name], file, schema),
        **({"description": given.comment} if given.comment else {}),
        "datajoint": {
            **given.to_json(),
            "class": given.class_name,
            "definition": definition_text(given, ""),
        },
    }


def _field(given: Attribute) -> dict[str, Any]:
    constraints: dict[str, Any] = {} if given.nullable else {"required": True}
    if found := re.match(r"(?:var)?char\((\d+)\)", given.storage):
        constraints["maxLength"] = int(found[1])
    kind = kind_of_type(given.storage)
    return {
        "name": given.name,
        **kind.field,
        **({"description": given.comment} if given.comment else {}),
        **({"constraints": constraints} if constraints else {}),
        "datajoint": given.type,
    }


def read_package(place: Place) -> Package:
    """Read and check ``datapackage.json``, and that its files are files of the package."""
    contents = None if place.is_missing else place.read(FILE)
    if contents is None:
        unfinished = not place.is_missing and place.nbytes(UNFINISHED) is not None
        raise ArrayInvalidError(
            f"{place.name} is no package: it has no {FILE}"
            + (". Its export was not finished; call it again" if unfinished else "")
        )
    try:
        found = json.loads(contents)
        about = found["dj_npy"]
        if about["version"] != _VERSION:
            raise ArrayInvalidError(
                f"{place.name} was written by a later version of dj-npy (its format is "
                f"{about['version']!r:.20}): update dj-npy"
            )
        tables, arrays = [], None
        for each in found["resources"]:
            if each.get("name") == ARRAYS:
                arrays = _row_file(each)
            elif "datajoint" in each:
                tables.append((Definition.of_json(each["datajoint"]), _row_file(each)))
        package = Package(tuple(tables), arrays, about["database"], tuple(about["left_out"]))
        _check_order(package)
        for definition, _ in tables:
            for attribute in definition.attributes:
                kind_of_type(attribute.storage)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArrayCorruptError(
            f"{FILE} in the package {place.name} is damaged ({type(error).__name__}: {error}). "
            f"Nothing was changed"
        ) from None
    for file in (*(file for _, file in package.tables), *filter(None, [package.arrays])):
        place.check(file.path)
    return package


def _row_file(given: Mapping[str, Any]) -> RowFile:
    sha256 = given["hash"].removeprefix("sha256:")
    [missing] = given["schema"]["missingValues"]
    if not re.fullmatch(r"[0-9a-f]{64}", sha256) or not isinstance(missing, str):
        raise ValueError("a hash is none")
    return RowFile(given["path"], int(given["rows"]), int(given["bytes"]), sha256, missing)


def _check_order(package: Package) -> None:
    done: set[tuple[str, str]] = set()
    for definition, _ in package.tables:
        for key in definition.foreign_keys:
            if (key.schema, key.table) not in done:
                raise ValueError(f"{definition.table} comes before {key.table}")
        if definition.name in done:
            raise ValueError(f"{definition.table} is there twice")
        done.add(definition.name)
