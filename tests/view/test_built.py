"""The built files of the page, as they are in the wheel."""

import gzip
import re
from pathlib import Path

import dj_npy

STATIC = Path(dj_npy.__file__).parent / "_view/static"


def test_the_script_is_small() -> None:
    scripts = {path.name: len(gzip.compress(path.read_bytes())) for path in STATIC.rglob("*.js")}
    assert sum(scripts.values()) <= 450_000
    # What tables, recordings and movies need.
    assert scripts["index.js"] <= 100_000


def test_the_page_names_no_other_site() -> None:
    for path in [STATIC / "index.html", *STATIC.rglob("*.css")]:
        assert not re.search(r"https?://|@import", path.read_text())


def test_every_package_in_it_has_its_licence() -> None:
    text = (STATIC / "LICENSES.txt").read_text()
    for entry in text.split(f"\n{'-' * 72}\n"):
        name, _, licence = entry.strip().partition("\n")
        assert re.fullmatch(r"\S+ \S+ \((MIT|ISC|BSD-3-Clause|Apache-2.0|0BSD)\)", name)
        assert len(licence) > 200, name
