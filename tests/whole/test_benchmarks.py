"""What a run of the benchmarks has found becomes the page and its pictures, as it stands."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import _measure, _report
from benchmarks.__main__ import main
from benchmarks._chart import MOST_LINES, Panel, chart

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
X, TO = "\u00d7", "\u2013"
RUN: dict[str, Any] = {
    "date": "2026-11-24",
    "minutes": 7.5,
    "load average": "0.1 before, 1.9 after",
    "quick": False,
    "machine": {"processor": "2 cores", "memory": "24 GiB"},
    "found": [
        {
            "kind": "times",
            "benchmark": "local",
            "work": "load 256 MB",
            "seconds": {
                "dj-npy": [0.01, 0.02, 0.04],
                "built-in": [0.06, 0.14, 0.08],
                "readinto": [0.01, 0.01, 0.01],
            },
            "against": [
                {"name": "built-in", "how": "faster", "goal": ">= 7.5x"},
                {"name": "readinto", "how": "its time", "goal": "<= 2.5x"},
                {"name": "readinto", "how": "its time", "goal": "no goal"},
            ],
        },
        {
            "kind": "memory",
            "benchmark": "memory",
            "work": "load 256 MB, S3",
            "above": {"dj-npy": 100 << 20, "built-in": 600 << 20},
            "goal": "<= 16 MiB",
        },
        {
            "kind": "growth",
            "benchmark": "growth",
            "chart": "slices",
            "panel": "local",
            "grows": "MB",
            "points": {
                "dj-npy": [[1, [0.002, 0.002]], [1024, [0.002, 0.002]]],
                "bare": [[1, [0.001, 0.0005]], [1024, [0.003, 0.004]]],
                "built-in": [[1, [1.0]]],
            },
        },
        {
            "kind": "facts",
            "benchmark": "many",
            "title": "a stream",
            "facts": {"wait for the first": "3 ms"},
        },
    ],
}
PAGE = "".join(
    f"prose of {name}\n\n<!-- measured: {name} -->\nold\n<!-- end -->\n\n"
    for name in _report.SECTIONS
)


def test_a_ratio_is_the_median_of_those_within_a_round() -> None:
    assert f"| load 256 MB | 6.00 {X} faster than built-in | ≥ 7.5 {X} |" in _report.goals(RUN)
    assert f"| 2.00 {X} its time | 1.50{TO}3.00 | ≤ 2.5 {X} | 3 |" in _report.times(RUN, "local")


def test_a_missed_goal_says_by_how_much() -> None:
    told = _report.goals(RUN)
    assert f"than built-in | ≥ 7.5 {X} | **missed** by 20% |" in told
    assert f"of readinto | ≤ 2.5 {X} | reached |" in told
    assert "load 256 MB, S3 | 100.0 MiB | ≤ 16 MiB | **missed** by 84 MiB |" in told


def test_what_has_no_goal_is_not_among_the_goals() -> None:
    assert _report.goals(RUN).count("readinto") == 1


@given(st.floats(0.001, 1e6), st.floats(0.001, 1e6), st.sampled_from([">=", "<=", ">"]))
def test_a_goal_is_reached_as_its_sign_says(value: float, limit: float, sign: str) -> None:
    goal = _report.Goal.parse(f"{sign} {limit:,.3f}x")
    assert goal is not None
    reached = {">=": value >= goal.limit, "<=": value <= goal.limit, ">": value > goal.limit}
    assert (goal.verdict(value) == "reached") == reached[sign]


def test_a_peer_that_is_faster_is_named_with_its_worst_point() -> None:
    told = _report.peers(RUN)
    assert f"| local; at worst, MB: 1 | bare | 3.00 {X} its time |" in told
    assert f"| load 256 MB | readinto | 2.00 {X} its time |" in told
    assert "built-in" not in told


def test_a_report_replaces_what_is_between_the_marks_and_nothing_else() -> None:
    text = _report.with_sections(PAGE, RUN)
    assert "old" not in text
    assert re.sub(r"(-->\n)[^<]*(<!-- end)", r"\1old\n\2", text) == PAGE
    assert _report.with_sections(text, RUN) == text


def test_what_was_no_part_of_a_run_says_so() -> None:
    text = _report.with_sections(PAGE, RUN)
    assert "<!-- measured: remote -->\nNot part of this run.\n<!-- end -->" in text
    assert "| a stream | |\n| --- | --- |\n| wait for the first | 3 ms |" in text


@pytest.mark.parametrize("page", [PAGE.replace("goals", "gaols"), PAGE + PAGE, "# Performance\n"])
def test_a_page_without_a_place_for_each_section_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="must have '<!-- measured: NAME -->'"):
        _report.with_sections(page, RUN)


def test_a_quick_run_is_said_to_be_one() -> None:
    assert "no figure to rely on" not in _report.about(RUN)
    assert "no figure to rely on" in _report.about({**RUN, "quick": True})


def test_a_picture_has_a_line_and_a_label_for_each_contender() -> None:
    root = ElementTree.fromstring(_report.draw(RUN, "slices"))
    space = {"svg": "http://www.w3.org/2000/svg"}
    texts = [each.text for each in root.iterfind(".//svg:text", space)]
    assert {"dj-npy", "bare", "built-in", "MB", "1", "1,024", "1 s", "1 ms"} <= set(texts)
    lines = root.findall(".//svg:polyline", space)
    assert len(lines) == 3
    [level] = [each for each in lines if "level" in each.attrib["class"]]
    assert len({point.split(",")[1] for point in level.attrib["points"].split()}) == 1
    assert "prefers-color-scheme: dark" in ElementTree.tostring(root, "unicode")


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=20),
        st.lists(
            st.tuples(st.floats(1, 1e6), st.floats(1e-7, 1e4)),
            min_size=1,
            max_size=8,
            unique_by=lambda point: point[0],
        ),
        min_size=1,
        max_size=MOST_LINES - 2,
    )
)
def test_every_point_of_a_picture_lies_in_its_plane(lines: Any) -> None:
    root = ElementTree.fromstring(chart("<title> & more", [Panel("panel", "x", lines)]))
    for circle in root.iter("{http://www.w3.org/2000/svg}circle"):
        assert 0 <= float(circle.attrib["cx"]) <= 250
        assert 0 <= float(circle.attrib["cy"]) <= 230


def test_labels_do_not_lie_on_each_other() -> None:
    lines = {name: [(1.0, 0.1), (2.0, 0.1)] for name in ("dj-npy", "one", "two")}
    root = ElementTree.fromstring(chart("title", [Panel("panel", "x", lines)]))
    texts = root.iter("{http://www.w3.org/2000/svg}text")
    heights = sorted(float(each.attrib["y"]) for each in texts if each.text in lines)
    assert heights[1] - heights[0] >= 12
    assert heights[2] - heights[1] >= 12


def test_more_lines_than_colors_are_refused() -> None:
    lines = {str(number): [(1.0, 0.1)] for number in range(MOST_LINES)}
    with pytest.raises(ValueError, match="colors for 5"):
        chart("title", [Panel("panel", "x", lines)])


def test_the_page_is_what_the_kept_run_says(tmp_path: Path) -> None:
    docs = ROOT / "docs"
    run = json.loads((docs / "performance.json").read_text())
    (tmp_path / _report.PAGE).write_text((docs / _report.PAGE).read_text())
    _report.write(run, tmp_path)
    written = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert written == {name: (docs / name).read_text() for name in written}
    pictures = [name for name in written if name.endswith(".svg")]
    assert len(pictures) == 3
    assert all(len(written[name].encode()) < 20_000 for name in pictures)


def test_all_contenders_run_in_every_round_and_the_first_is_not_timed() -> None:
    ran: list[str] = []
    times = _measure.side_by_side({name: lambda n=name: ran.append(n) for name in "ab"}, 3)  # type: ignore[misc]
    assert "".join(ran) == "abababab"
    assert [len(seconds) for seconds in times.values()] == [3, 3]


def test_a_row_that_is_printed_is_kept(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(_measure, "RUN", _measure.Run(benchmark="local"))
    [row, *_] = copy.deepcopy(RUN["found"])
    times = row["seconds"]
    _measure.row("load 256 MB", times, [_measure.faster(times, "built-in", ">= 7.5x")])
    times["dj-npy"] = times["built-in"]  # as a caller may go on
    assert _measure.RUN.found == [{**RUN["found"][0], "against": RUN["found"][0]["against"][:1]}]
    assert "built-in 80 ms: **6.00x faster** (>= 7.5x)" in capsys.readouterr().out


def test_a_quick_run_of_one_benchmark(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    benchmarks = [sys.executable, "-W", "ignore", "-m", "benchmarks"]
    command = [*benchmarks, "--quick", "--json", str(file), "local"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "| load 256 MB | " in told
    run = json.loads(file.read_text())
    assert run["quick"]
    assert {each["benchmark"] for each in run["found"]} == {"local"}
    assert all(s > 0 for each in run["found"] for found in each["seconds"].values() for s in found)
    assert _report.goals(run).count("\n") == 2 + 6


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["lokal"], "lokal: not one of distance, fileserver, local, remote"),
        (["report"], "report takes the one file"),
    ],
)
def test_a_wrong_command_says_what_is_wrong(
    arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert told in capsys.readouterr().err
