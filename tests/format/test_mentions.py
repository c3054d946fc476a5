"""Which paths a text may mean: too many rather than one too few."""

import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dj_npy._format.mentions import mentions
from dj_npy._format.path import array_path, with_token

PATH = "lab/scan/subject=a%2Fb/n=1/x.npy"
ROW = {"path": PATH, "store": "main", "dtype": "float64", "shape": [3, 4]}


def escaped(text: str) -> str:
    return "".join(f"\\u{ord(c):04x}" for c in text)


TEXTS = {
    "row": json.dumps(ROW),
    "key": json.dumps({PATH: 1}),
    "deep": "[" * 2000 + json.dumps(PATH) + "]" * 2000,
    "number of 5,000 digits": json.dumps(ROW)[:-1] + ', "n": ' + "9" * 5000 + "}",
    "NaN": json.dumps({**ROW, "n": [float("nan"), float("inf")]}),
    "escaped dot": json.dumps(ROW).replace(".npy", "\\u002enpy"),
    "escaped letter": json.dumps(ROW).replace(".npy", ".np\\u0079"),
    "escaped slash": json.dumps(ROW).replace("/", "\\/"),
    "all escaped": f'{{"path": "{escaped(PATH)}"}}',
    "twice": f'{{"path": "{PATH}", "path": "lab/other.npy"}}',
    "text within text": json.dumps(json.dumps(json.dumps(ROW))),
    "escaped text within text": json.dumps(json.dumps(ROW).replace(".", "\\u002e")),
    "array of PostgreSQL": '{"' + json.dumps(ROW).replace('"', '\\"') + '"}',
    "lone surrogate": f'{{"a": "\\ud800", "path": "\\udfff/{PATH}"}}',
    "address": json.dumps({"url": f"https://lab.org/store/{PATH}?version=1"}),
    "sentence": json.dumps({"note": f"see {PATH}, or ask"}),
    "list in a text": json.dumps({"both": f"files=a/b/c.npy,{PATH}"}),
    "cut short": json.dumps(ROW)[:60],
    "quotes astray": f'He said "{PATH}',
    "backslash at the end": json.dumps(ROW) + "\\",
    "upper case": json.dumps(ROW).upper(),
}


@pytest.mark.parametrize("text", TEXTS)
def test_what_a_text_may_mean_is_found(text: str) -> None:
    found = [path.casefold() for path in mentions(TEXTS[text])]
    assert any(path == PATH.casefold() or path.endswith(f"/{PATH.casefold()}") for path in found)


@given(st.text(), st.text(), st.booleans())
@example("", "b", False)
def test_any_path_of_ours_in_any_json_is_found(key: str, beside: str, token: bool) -> None:
    path = array_path("lab", "scan", {"subject": key, "n": 1}, "x")
    path = with_token(path) if token else path
    value = {beside: [beside, {"a": path}], f"b{beside}": {path: beside}}
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert list(mentions(text)).count(path) >= 2


@given(st.text() | st.from_regex(re.compile(r'[\\"a.npy,=/u0-9]*'), fullmatch=True))
def test_no_text_is_an_error(text: str) -> None:
    for path in mentions(text):
        path.encode()


@pytest.mark.parametrize("text", ['\\"' * 200_000, ".npy," * 100_000, "[" * 10**6, '"' * 10**6])
def test_a_hostile_text_takes_no_more_than_its_length(text: str) -> None:
    assert sum(map(len, mentions(text))) < 4096 * 3 * 100_001


def test_a_folder_ends_with_a_slash() -> None:
    row = {"path": "raw/mouse 1", "store": "main", "size": None, "is_dir": True}
    assert list(mentions(json.dumps(row))) == ["raw/mouse 1/"]
    assert list(mentions(json.dumps(row, indent=2))) == ["raw/mouse 1/"]
    assert list(mentions(json.dumps(json.dumps(row)))) == ["raw/mouse 1/"]
    assert list(mentions(json.dumps({**row, "path": "raw/µ/"}))) == ["raw/µ/"]
    assert not list(mentions(json.dumps({**row, "is_dir": False})))
