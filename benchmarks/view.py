"""The page of `dj_npy.view` in a real browser, its arrays near and at a distance."""

import gzip
import re
import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import datajoint as dj
import numpy as np
from playwright.sync_api import sync_playwright

import dj_npy
from benchmarks._measure import RUN, facts, scratch
from benchmarks.distance import DISTANCES
from benchmarks.parts import reference
from benchmarks.remote import Codec, s3
from dj_npy._format import npyfile
from tests.support.servers import BUCKET

CHANNELS, WINDOW = 384, 7000
LONG, SPARSE = (1_500_000, CHANNELS), (130_000_000, CHANNELS)
MOVIE = (600, 512, 512)
ROUNDS, ROWS, SECONDS_OF_PLAY = 5, 1_000_000, 3
SCHEMAS, TABLES = 50, 5_000
STATIC = Path(dj_npy.__file__).parent / "_view" / "static"
# Graphics by the processor, as on a machine without a display.
ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
# Whether a canvas shows more than its ground and its axes.
DRAWN = """([selector, colours]) => {
  const canvas = document.querySelector(selector);
  if (!canvas?.width) return false;
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return new Set(new Uint32Array(data.buffer)).size > colours;
}"""
HASH = "hash => { location.hash = hash }"
# Milliseconds from a change of the address until a text is seen.
SEEN = """([hash, text]) => new Promise((done) => {
  const start = performance.now();
  const look = () => {
    if (document.querySelector(".state").innerText.includes(text)) done(performance.now() - start);
    else requestAnimationFrame(look);
  };
  location.hash = hash;
  look();
})"""
# The noise in a corner of a frame.
CORNER = """document.querySelector(".picture canvas").getContext("2d")
  .getImageData(0, 0, 8, 8).data.join()"""
# How many frames are seen within some seconds.
PLAYED = """async (seconds) => {
  const slider = document.querySelector("input[type=range]");
  const [seen, until] = [new Set(), performance.now() + 1000 * seconds];
  while (performance.now() < until) {
    seen.add(slider.value);
    await new Promise(requestAnimationFrame);
  }
  return seen.size;
}"""

COUNTED = """/^7\\b/.test(
  document.querySelector("nav a[title^='lab_49.table099']")?.lastChild.textContent)"""


def main() -> None:
    """Print the tables."""
    with scratch() as folder:
        (folder / BUCKET).mkdir()
        dj.logger.setLevel("ERROR")
        dj_npy.embedded.start(folder / "embedded")
        script_size()
        with browser() as pages:
            million(pages, folder / BUCKET)
            many_tables(pages)
            stored = Stored(folder / BUCKET)
            for distance in (DISTANCES[0], DISTANCES[2]):
                with distance.server(folder) as url:
                    arrays(pages, stored, url, f"{distance}")


class Stored:
    """Recordings and a movie in a bucket."""

    def __init__(self, bucket: Path) -> None:
        self._codec = Codec(dj_npy.NpyCodec(), {"protocol": "file", "location": str(bucket)})
        noise = np.random.default_rng(0).normal(0, 30, (LONG[0] // 100, CHANNELS)).astype("i2")
        self.long = self._codec.insert(np.tile(noise, (100, 1)))
        movie = np.random.default_rng(1).integers(300, 2000, MOVIE, "u2")
        self.movie = self._codec.insert(movie)
        header = npyfile.header_bytes(np.dtype("i2"), SPARSE, False)
        with (bucket / "sparse.npy").open("wb") as file:
            file.write(header)
            file.write(noise.tobytes())  # what is drawn first is no plain line
            file.truncate(len(header) + 2 * SPARSE[0] * CHANNELS)
        self.sparse = {"path": "sparse.npy", "store": "main", "dtype": "int16", "shape": [*SPARSE]}


class Pages:
    """Fresh pages of a browser: nothing is kept from one to the next."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser

    @contextmanager
    def fresh(self) -> Iterator["Page"]:
        context = self._browser.new_context(viewport={"width": 1280, "height": 800})
        try:
            yield Page(context.new_page())
        finally:
            context.close()


class Page:
    """A page, and the requests for data that it has made."""

    def __init__(self, tab: Any) -> None:
        self.tab, self.asked = tab, list[str]()
        tab.set_default_timeout(120_000)
        tab.on("request", lambda request: self.asked.append(request.url))

    def until(self, script: str, argument: Any = None) -> None:
        self.tab.wait_for_function(script, arg=argument, polling="raf")

    def drawn(self, selector: str, colours: int = 8) -> None:
        self.until(DRAWN, [selector, colours])

    def says(self, text: str) -> None:
        self.until("text => document.querySelector('.state')?.innerText.includes(text)", text)

    def state(self) -> str:
        found: str = self.tab.locator(".state").first.inner_text()
        return found


@contextmanager
def browser() -> Iterator[Pages]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=ARGUMENTS
        )
        yield Pages(started)
        started.close()


def arrays(pages: Pages, stored: Stored, url: str, at: str) -> None:
    most = 2 if "MB/s" in at else 1
    found: dict[str, str] = {}
    for name, row in (("1.15 GB", stored.long), ("100 GB", stored.sparse)):
        seconds, read = list[float](), set[str]()
        for _ in range(rounds()):
            address = shown(unseen(row), url)
            with pages.fresh() as page:
                start = time.perf_counter()
                page.tab.goto(address)
                page.until("document.querySelector('.state')?.innerText.match(/sampled|exact/)")
                seconds.append(time.perf_counter() - start)
                page.drawn(
                    ".plot canvas"
                )  # it is, at the same time: not measured, as it costs much
                read.add(" ".join(re.findall(r"[\d.]+ \wB read", page.state())))
        found[f"first plot, fresh page, of {name}"] = (
            f"{within(seconds, most)}; {', '.join(sorted(read))} (at most 10 MB)"
        )
    found["zoom to 7,000 samples"] = zoom(pages, shown(stored.sparse, url))
    found |= movie(pages, shown(stored.movie, url))
    found["exact overview of 1.15 GB"] = overview(pages, stored.long, url)
    facts(f"the page, {at}", found)


def unseen(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row with a checksum under which no overview is kept."""
    return {**row, "checksum": f"sha256:{time.time_ns():064x}"}


def shown(row: Any, url: str) -> str:
    return dj_npy.view(reference(row, s3(url)), browser=False)


def zoom(pages: Pages, address: str) -> str:
    seconds, requests = list[float](), set[int]()
    with pages.fresh() as page:
        page.tab.goto(address)
        page.says("sampled")
        for number in range(rounds()):
            start_at, samples = 50_000_000 + 1_000_000 * number, WINDOW - number
            page.asked.clear()
            place = f"{address.partition('#')[2]}?start={start_at}&stop={start_at + samples}"
            seconds.append(page.tab.evaluate(SEEN, [place, f"of {samples:,} samples"]) / 1000)
            requests.add(sum("/api/trace" in each for each in page.asked))
            page.tab.wait_for_timeout(500)  # one looks at it
    return f"{within(seconds, 0.3)}; requests: {', '.join(map(str, sorted(requests)))}"


def movie(pages: Pages, address: str) -> dict[str, str]:
    seconds = []
    with pages.fresh() as page:
        page.tab.goto(address)
        page.drawn(".picture canvas")
        slider = "document.querySelector('input[type=range]').value"
        for number in range(rounds()):
            before = page.tab.evaluate(CORNER)
            start = time.perf_counter()
            page.tab.evaluate(
                HASH,
                f"{address.partition('#')[2]}?low=300&high=2000&index={100 * number + 57}",
            )
            page.until(f"before => {CORNER} !== before", before)
            seconds.append(time.perf_counter() - start)
        page.tab.locator(".plot").first.focus()
        page.tab.keyboard.press(" ")
        page.until(f"index => {slider} !== index", page.tab.evaluate(slider))
        rate = page.tab.evaluate(PLAYED, SECONDS_OF_PLAY) / SECONDS_OF_PLAY
    told = f"{rate:.1f} frames a second, of 20 that are asked for"
    return {"a frame of 512 by 512": within(seconds, 0.2), "the movie plays": told}


def overview(pages: Pages, row: Any, url: str) -> str:
    """The time from the first plot until all is exact, against that of reading all of it."""
    with pages.fresh() as page:
        page.tab.goto(shown(unseen(row), url))
        page.says("sampled")
        start = time.perf_counter()
        page.says("exact: lowest and highest")
        exact = time.perf_counter() - start
    start = time.perf_counter()
    for _ in reference(row, s3(url)).blocks():
        pass
    reading = time.perf_counter() - start
    ratio = exact / reading
    verdict = "reached" if ratio <= 1.5 else "**missed**"
    return f"{exact:.2f} s, {ratio:.2f}x reading it by `blocks` (goal: ≤ 1.5x, {verdict})"


def million(pages: Pages, bucket: Path) -> None:
    """The first page of a table of 10^6 rows, from the list of tables."""
    dj.config.stores = {"default": "main", "main": {"protocol": "file", "location": str(bucket)}}
    schema = dj.Schema("bench_view")

    @schema
    class Recording(dj.Manual):
        definition = "recording_id : int32\n---\nday : date\nwaveform : <npy@>"

    Recording.insert1({"recording_id": 0, "day": "2026-01-01", "waveform": np.zeros((100, 32))})
    name = Recording.full_table_name
    dj.conn().query(
        f"INSERT INTO {name} SELECT n, day, waveform FROM {name}, generate_series(1, {ROWS - 1}) n"
    )
    dj.conn().query(f"ANALYZE {name}")
    address = dj_npy.view(browser=False).partition("#")[0]
    seconds = []
    for _ in range(rounds()):
        with pages.fresh() as page:
            page.tab.goto(address)
            page.until("document.querySelectorAll('nav li').length > 0")
            start = time.perf_counter()
            page.tab.evaluate(HASH, f"#/{quote('bench_view.recording')}")
            page.until("document.querySelectorAll('tbody tr').length > 50")
            seconds.append(time.perf_counter() - start)
    facts("the page, tables", {f"first page of {ROWS:,} rows": within(seconds, 0.5)})


def many_tables(pages: Pages) -> None:
    """The list of 5,000 tables: from the address until they are there, counted, and filtered."""
    for schema in range(SCHEMAS):
        dj.conn().query(f"CREATE SCHEMA lab_{schema:02}")
        for table in range(TABLES // SCHEMAS):
            dj.conn().query(f"CREATE TABLE lab_{schema:02}.table{table:03} (n int PRIMARY KEY)")
    dj.conn().query("INSERT INTO lab_49.table099 SELECT generate_series(1, 7)")
    address = dj_npy.view(browser=False).partition("#")[0]
    listed, counted, filtered = [], [], []
    for _ in range(rounds()):
        with pages.fresh() as page:
            start = time.perf_counter()
            page.tab.goto(address)
            page.until("document.querySelectorAll('nav details').length >= 50")
            listed.append(time.perf_counter() - start)
            page.until(COUNTED)
            counted.append(time.perf_counter() - start)
            start = time.perf_counter()
            page.tab.get_by_label("Filter tables").fill("lab_49 table099")
            page.until("document.querySelectorAll('nav li').length === 1")
            filtered.append(time.perf_counter() - start)
    found = {"listed": within(listed, None), "with counts": within(counted, None)}
    facts(f"the page, {TABLES:,} tables", {**found, "filtered": within(filtered, None)})


def script_size() -> None:
    scripts = [gzip.compress(path.read_bytes()) for path in STATIC.rglob("*.js")]
    size = sum(map(len, scripts)) / 1000
    facts("the page, its script", {"gzipped": f"{size:.0f} kB (goal: ≤ 450 kB)"})


def rounds() -> int:
    return 1 if RUN.quick else ROUNDS


def within(seconds: list[float], most: float | None) -> str:
    median = statistics.median(seconds)
    if most is None:
        return f"{median:.2f} s, of {min(seconds):.2f} to {max(seconds):.2f}"
    verdict = "reached" if median <= most else "**missed**"
    goal = f"goal: ≤ {most:g} s, {verdict}"
    return f"{median:.2f} s, of {min(seconds):.2f} to {max(seconds):.2f} ({goal})"


if __name__ == "__main__":
    main()
