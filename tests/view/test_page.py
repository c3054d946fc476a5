"""The page in a real browser: what is drawn is looked at, and an error on its console fails."""

import base64
import datetime
import io
import json
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote

import datajoint as dj
import numpy as np
import pytest

from tests.support import servers
from tests.view.conftest import Page, served

CHROMIUM = shutil.which("chromium")
# Graphics by the processor, as on a machine without a display.
ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
ARGUMENTS += ["--ignore-gpu-blocklist"]

T = TypeVar("T")

EVENT = 23_456_789
ACCENT, INK = (11, 98, 168), (27, 31, 36)
MISSING = (232, 178, 112)
LEFT, RIGHT, TOP, BOTTOM = 76, 12, 8, 40  # of a plot, around its frame

# What a canvas shows, drawn over by nothing: how many pixels have each colour.
COLOURS = """(selector) => {
  const canvas = document.querySelector(selector);
  if (!canvas) return {};
  const copy = document.createElement("canvas");
  [copy.width, copy.height] = [canvas.width, canvas.height];
  const context = copy.getContext("2d");
  context.drawImage(canvas, 0, 0);
  const { data } = context.getImageData(0, 0, copy.width, copy.height);
  const counts = {};
  for (let at = 0; at < data.length; at += 4) {
    const colour = data.slice(at, at + 3).join();
    counts[colour] = (counts[colour] ?? 0) + 1;
  }
  return counts;
}"""
# Width and height of what has a colour.
EXTENT = """([selector, colour]) => {
  const canvas = document.querySelector(selector);
  if (!canvas) return [0, 0];
  const copy = document.createElement("canvas");
  [copy.width, copy.height] = [canvas.width, canvas.height];
  const context = copy.getContext("2d");
  context.drawImage(canvas, 0, 0);
  const { data } = context.getImageData(0, 0, copy.width, copy.height);
  const [xs, ys] = [new Set(), new Set()];
  for (let at = 0; at < data.length / 4; at += 1)
    if (data.slice(4 * at, 4 * at + 3).join() === colour) {
      xs.add(at % copy.width);
      ys.add(Math.floor(at / copy.width));
    }
  return [xs.size, ys.size];
}"""
# A PNG as a canvas of the page.
PICTURE = """async (base64) => {
  const image = new Image();
  image.src = `data:image/png;base64,${base64}`;
  await image.decode();
  const copy = document.createElement("canvas");
  [copy.width, copy.height, copy.id] = [image.width, image.height, "picture"];
  copy.getContext("2d").drawImage(image, 0, 0);
  document.body.append(copy);
}"""
PIXEL = """([selector, x, y]) => {
  const canvas = document.querySelector(selector);
  if (!canvas) return [];
  return [...canvas.getContext("2d").getImageData(x, y, 1, 1).data].slice(0, 3);
}"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        servers.missing("chromium", "pip install playwright")
    if CHROMIUM is None:
        servers.missing("chromium", "apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


def kinds() -> dict[str, Any]:
    """An array of each kind that is shown in slices."""
    spiral = np.linspace(0, 1, 60) * np.exp(1j * np.linspace(0, 20, 60))
    spiral[7] = complex(np.nan, 1)
    records = np.zeros(3, [("name", "U6"), ("x", ">f8"), ("n", "<i8"), ("at", "<f4", (2,))])
    records["name"], records["x"], records["n"] = ["one", "two", "three"], 0.1, 2**60 + 1
    colours = np.zeros((20, 30, 3), "u1")
    colours[..., 0] = 200
    colours[:, :10] = 0, 0, 100
    return {
        "line": np.sin(np.arange(500) / 30),
        "big-endian": np.arange(600, dtype=">f4").reshape(20, 30),
        "complex": spiral,
        "int64": 2**60 + np.arange(12).reshape(3, 4),
        "datetime": np.array(["2026-01-01T12:00:00.5", "NaT"], "M8[ms]"),
        "bool": np.indices((4, 6)).sum(0) % 2 == 0,
        "void": np.frombuffer(b"abcdefghij", "V5"),
        "structured": records,
        "text": np.array([["alpha", "beta"], ["gamma", "delta"]]),
        "colours": colours,
        "scalar": np.array(3.5),
        "empty": np.zeros((0, 3)),
        "not a number": np.full(20, np.nan),
        "long": np.arange(300 * 70_000, dtype="u1").reshape(300, 70_000)[:, :70_000],
        "cube": np.arange(24.0).reshape(2, 3, 4),
        "gaps": gaps(),
        "holes": holes(),
        "spike": spike(),
        "constant": np.full(2000, 1234.5678),
        "constants": np.full((2000, 3), -7, "i2"),
        "dates": np.datetime64("2026-01-01T00:00:00") + np.arange(5),
        "offset": np.random.default_rng(0).normal([0, 5000], 30, (2000, 2)),
    }


def gaps() -> Any:
    """Two channels: a long gap, every tenth sample of the second quarter, one sample."""
    array = np.random.default_rng(0).normal(0, 30, (20_000, 2))
    array[2000:3000, 0] = array[5000:10_000:10, 0] = array[15_000, 1] = np.nan
    return array


def holes() -> Any:
    """A movie with a square of NaN, in which a part of the frames is NaN as a whole."""
    movie = np.random.default_rng(0).normal(0, 30, (20, 32, 48)).astype("f4")
    movie[:, 8:16, 8:16] = movie[5:9] = np.nan
    return movie


def spike() -> Any:
    """Four channels, of which the second has an outlier."""
    array = np.random.default_rng(0).normal(0, 30, (20_000, 4))
    array[10_000:10_100, 1] = 100_000
    return array


def waveform() -> Any:
    return np.random.default_rng(0).normal(0, 30, (20_000, 24)).astype("i2")


def insert(table: Any, *rows: tuple[Any, ...]) -> None:
    table.insert([dict(zip(table.heading.names, row, strict=True)) for row in rows])


@pytest.fixture(scope="module")
def lab(postgresql: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Page, str]]:
    """A schema of a lab, and the server of its page."""
    before = postgresql.config.stores
    location = str(tmp_path_factory.mktemp("store"))
    main = {"protocol": "file", "location": location}
    postgresql.config.stores = {"default": "main", "main": main}
    schema = postgresql.Schema(f"lab_{uuid.uuid4().hex[:8]}")

    def made(name: str, base: type, definition: str) -> Any:
        return schema(type(name, (base,), {"definition": definition}), context=tables)

    tables: dict[str, Any] = {}
    tables["Subject"] = made("Subject", dj.Manual, "subject : varchar(16)\n---\nborn : date")
    recording = "-> Subject\nrecording_id : int32\n---\nwaveform : <npy@>"
    recording += " # raw voltage (uV)"
    tables["Recording"] = made("Recording", dj.Manual, f"# Of one session\n{recording}")
    tables["Movie"] = made("Movie", dj.Manual, "-> Recording\n---\nmovie : <npy@>")
    tables["Kind"] = made("Kind", dj.Lookup, "kind : varchar(16)\n---\ndata : <npy@>")
    tables["Spike"] = made("Spike", dj.Manual, "-> Recording\nspike : int32\n---\nsample : int64")

    rows = [("anna", datetime.date(2025, 2, 1)), ("o'hara", datetime.date(2025, 3, 4))]
    insert(tables["Subject"], *rows)
    noise = waveform()
    long = np.tile(noise[:, 0], 2000)
    long[EVENT] = 30_000
    insert(tables["Recording"], ("anna", 1, noise), ("anna", 2, long), ("o'hara", 1, noise[:, :2]))
    movie = np.zeros((50, 40, 60), "u2")
    for frame in range(50):
        movie[frame, 10:20, frame : frame + 10] = 1000
    movie[:, 39, 59] = 50_000  # less than 1 % of a frame
    insert(tables["Movie"], ("anna", 1, movie))
    insert(tables["Kind"], *kinds().items())
    insert(tables["Spike"], *(("anna", 1, n, n * 7 % 1000) for n in range(250)))
    with served(postgresql.connection, schema.database) as page:
        yield page, schema.database
    schema.drop(prompt=False)
    postgresql.config.stores = before


class Browser:
    """A window of a browser, at the page."""

    def __init__(self, tab: Any, lab: tuple[Page, str]) -> None:
        self.tab, (self.page, self.schema) = tab, lab
        self.requests: list[str] = []
        self.faults: list[str] = []
        tab.set_default_timeout(15_000)
        tab.on("request", lambda request: self.requests.append(request.url))
        tab.on("pageerror", lambda error: self.faults.append(str(error)))
        tab.on("console", self._logged)

    def _logged(self, message: Any) -> None:
        # A refused request is shown by the page, and told by the browser in any case.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.faults.append(message.text)

    def open(self, table: str, attribute: str = "", query: str = "", **key: Any) -> None:
        path = [f"{self.schema}.{table}"]
        path += [attribute, json.dumps(key)] if attribute else []
        address = "/".join(quote(each, safe="") for each in path)
        self.tab.goto("about:blank")
        self.tab.goto(f"{self.page.server.address}#/{address}{query and f'?{query}'}")

    def kind(self, kind: str, query: str = "") -> None:
        self.open("#kind", "data", query, kind=kind)

    def colours(self, selector: str) -> dict[tuple[int, ...], int]:
        found = self.tab.evaluate(COLOURS, selector)
        return {tuple(map(int, colour.split(","))): n for colour, n in found.items()}

    @property
    def hash(self) -> str:
        found: str = self.tab.evaluate("location.hash")
        return found

    def asked(self, name: str) -> list[str]:
        return [url for url in self.requests if f"/api/{name}?" in url]

    def sees(self, text: str) -> None:
        self.tab.get_by_text(text).locator("visible=true").first.wait_for()

    def until(self, condition: str) -> None:
        """Wait for an expression of the page's."""
        self.tab.wait_for_function(condition)

    def eventually(self, get: Callable[[], T], holds: Callable[[T], bool]) -> T:
        """Return the first value for which something holds: a page draws when it comes to it."""
        deadline = time.monotonic() + 60
        while not holds(value := get()):
            assert time.monotonic() < deadline, str(value)[:1000]
            self.tab.wait_for_timeout(50)
        return value

    def pixel(self, selector: str, x: int, y: int) -> list[int]:
        found: list[int] = self.tab.evaluate(PIXEL, [selector, x, y])
        return found

    def file(self, button: str) -> bytes:
        """Return what a button saves."""
        with self.tab.expect_download() as download:
            self.tab.get_by_role("button", name=button, exact=True).click()
        return Path(download.value.path()).read_bytes()

    def query(self) -> dict[str, str]:
        """Return the parameters behind the address of what is shown."""
        return dict(parse_qsl(self.hash.partition("?")[2]))

    def focus_plot(self) -> None:
        self.tab.locator(".plot").first.focus()


@pytest.fixture
def window(chromium: Any, lab: tuple[Page, str]) -> Iterator[Callable[..., Browser]]:
    """Opens windows; what fails in one of them fails the test."""
    opened = []

    def make(**options: Any) -> Browser:
        options = {"viewport": {"width": 1280, "height": 800}} | options
        context = chromium.new_context(permissions=["clipboard-read", "clipboard-write"], **options)
        opened.append(Browser(context.new_page(), lab))
        return opened[-1]

    yield make
    for browser in opened:
        browser.tab.context.close()
        assert browser.faults == []
        # Nothing is asked of anybody else.
        own = f"http://127.0.0.1:{browser.page.port}/"
        others = [url for url in browser.requests if not url.startswith((own, "data:", "blob:"))]
        assert [url for url in others if url != "about:blank"] == []


@pytest.fixture
def browser(window: Callable[..., Browser]) -> Browser:
    return window()


# Tables


def test_from_the_list_to_a_table_to_an_array_and_back(browser: Browser) -> None:
    browser.tab.goto(browser.page.server.address)
    browser.tab.get_by_role("link", name=re.compile("^Recording")).click()
    browser.sees("Of one session")
    browser.tab.get_by_role("link", name=re.compile("24 int16")).click()
    browser.sees("exact: lowest and highest")
    browser.tab.go_back()
    browser.sees("Of one session")
    browser.tab.go_forward()
    browser.sees("exact: lowest and highest")


def test_a_filter_leaves_the_tables_with_its_words(browser: Browser) -> None:
    browser.tab.goto(browser.page.server.address)
    browser.sees("Spike")
    browser.sees("Rows (≈ estimated) and table size")
    browser.tab.keyboard.press("/")
    browser.tab.keyboard.type("mov")
    browser.until("document.querySelectorAll('nav li').length === 1")
    browser.sees("Movie")


def test_rows_come_in_pages_and_the_address_keeps_the_page(browser: Browser) -> None:
    browser.open("spike")
    browser.sees("250 rows")
    browser.tab.get_by_role("button", name="Next").click()
    browser.sees("page 2")
    browser.tab.reload()
    browser.sees("page 2")
    browser.until("document.querySelector('tbody td:nth-child(4)').innerText === '100'")
    browser.tab.get_by_role("button", name="Previous").click()
    browser.until("document.querySelector('tbody td:nth-child(4)').innerText === '0'")


def test_a_click_on_a_column_orders_by_it(browser: Browser) -> None:
    browser.open("spike")
    first = "document.querySelector('tbody td:nth-child(5)').innerText"
    for expected in ("0", "994"):
        browser.tab.get_by_role("button", name="sample").click()
        browser.until(f"{first} === '{expected}'")


def test_a_restriction_is_kept_and_a_wrong_one_is_told(browser: Browser) -> None:
    browser.open("spike")
    box = browser.tab.get_by_label("Restriction")
    box.fill("sample > 990")
    box.press("Enter")
    browser.sees("1 row with this restriction")
    box.fill("nonsense >")
    box.press("Enter")
    browser.tab.get_by_role("alert").wait_for()
    browser.tab.go_back()
    browser.sees("1 row with this restriction")


def test_a_row_leads_to_its_parents_and_children(browser: Browser) -> None:
    browser.open("recording")
    browser.tab.get_by_role("button", name="Parents and children of this row").nth(2).click()
    browser.tab.locator(".opened").get_by_role("link", name="Subject").click()
    browser.sees("1 row with this restriction")
    browser.sees("o'hara")
    browser.open("recording")
    browser.tab.get_by_role("button", name="Parents and children of this row").first.click()
    browser.tab.locator(".opened").get_by_role("link", name="Spike").click()
    browser.sees("250 rows with this restriction")


# Recordings


def test_a_recording_is_drawn_and_zoomed_by_one_request(browser: Browser) -> None:
    browser.open("recording", "waveform", subject="anna", recording_id=1)
    browser.sees("exact: lowest and highest of each")
    browser.until("location.hash.includes('spacing')")
    browser.eventually(
        lambda: browser.colours(".plot canvas"),
        lambda colours: min(colours.get(ACCENT, 0), colours.get(INK, 0)) > 1000,
    )
    browser.tab.wait_for_timeout(300)
    browser.requests.clear()
    # Quick turns of a wheel: only where it comes to rest is asked for.
    browser.tab.evaluate(
        """async () => { const canvas = document.querySelector(".plot canvas");
        for (let turn = 0; turn < 10; turn += 1) {
          canvas.dispatchEvent(new WheelEvent("wheel",
            { deltaY: -240, clientX: 700, clientY: 400, bubbles: true, cancelable: true }));
          await new Promise((resolve) => setTimeout(resolve, 30));
        } }"""
    )
    browser.until("location.hash.includes('start')")
    browser.sees("samples;")
    browser.tab.wait_for_timeout(300)
    assert len(browser.asked("trace")) == 1
    place, before = browser.hash, browser.colours(".plot canvas")
    browser.tab.reload()
    browser.eventually(lambda: browser.colours(".plot canvas"), lambda now: now == before)
    assert browser.hash == place


def test_the_keyboard_alone_moves_about_in_a_recording(browser: Browser) -> None:
    browser.open("recording", "waveform", "start=1000&stop=2000", subject="anna", recording_id=1)
    browser.sees("exact")
    browser.focus_plot()
    for key, expected in {
        "ArrowRight": "start=1200&stop=2200",
        "ArrowUp": "start=1450&stop=1950",
        "PageDown": "channels=16%3A24",
        "g": "gain=1.5",
        "End": "start=19500&stop=20000",
        "Home": "start=0&stop=500",
    }.items():
        browser.tab.keyboard.press(key)
        browser.until(f"location.hash.includes({expected!r})")
    browser.tab.keyboard.press("0")
    browser.until("!location.hash.includes('start')")


def test_a_long_recording_becomes_exact_and_shows_one_sample(browser: Browser) -> None:
    browser.open("recording", "waveform", "spacing=60000", subject="anna", recording_id=2)
    browser.sees("exact: lowest and highest of each")
    assert browser.asked("overview")  # so the first plot was sampled
    width = browser.tab.evaluate("document.querySelector('.plot canvas').clientWidth")
    x = LEFT + round((width - LEFT - RIGHT) * EVENT / 40_000_000)
    # Where the single high sample is, the trace reaches up to a quarter of the plot.
    browser.eventually(
        lambda: [browser.pixel(".plot canvas", x + step, 200) for step in range(-3, 4)],
        lambda near: any(blue > red + 40 for red, _, blue in near),
    )
    assert browser.pixel(".plot canvas", x - 40, 200) == [255, 255, 255]


def test_a_heat_map_has_all_channels(browser: Browser) -> None:
    browser.open("recording", "waveform", subject="anna", recording_id=1)
    browser.sees("exact")
    browser.tab.get_by_text("Heat map").click()
    browser.until("document.querySelector('[aria-label^=\"Heat map\"]')")
    browser.sees("exact")
    browser.eventually(lambda: len(browser.colours(".plot canvas")), lambda number: number > 100)
    assert browser.tab.get_by_label("Channels", exact=True).input_value() == "0:24"
    browser.tab.go_back()
    browser.until("document.querySelector('[aria-label^=\"Traces\"]')")


def test_no_grid_hides_a_part_of_a_heat_map(window: Callable[..., Browser]) -> None:
    browser = window(color_scheme="dark")
    browser.open("recording", "waveform", "plot=heat", subject="anna", recording_id=1)
    browser.sees("exact")
    colours = browser.eventually(
        lambda: browser.colours(".plot canvas"), lambda colours: len(colours) > 100
    )
    rule = (43, 48, 53)
    assert colours.get(rule, 0) < 1000


def test_the_code_that_is_copied_fetches_what_is_shown(browser: Browser) -> None:
    query = "start=1000&stop=2000&channels=0:4"
    browser.open("recording", "waveform", query, subject="anna", recording_id=1)
    browser.sees("exact")
    browser.tab.get_by_role("button", name="Copy Python").click()
    browser.sees("Python copied")
    code = browser.tab.evaluate("navigator.clipboard.readText()")
    variables: dict[str, Any] = {}
    exec(code, variables)
    np.testing.assert_array_equal(variables["waveform"], waveform()[1000:2000, :4])


def texts_of(browser: Browser) -> None:
    """Have the page note all text that canvases are given, by `window.texts`."""
    browser.tab.add_init_script(
        """window.texts = [];
        const fill = CanvasRenderingContext2D.prototype.fillText;
        CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
          window.texts.push(text);
          return fill.call(this, text, ...rest);
        };"""
    )


def saved(browser: Browser) -> tuple[dict[tuple[int, ...], int], str]:
    """Save a picture, and show it; its colours, and all text that was drawn for it."""
    browser.tab.evaluate("window.texts = []")
    png = browser.file("PNG")
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    browser.tab.evaluate(PICTURE, base64.b64encode(png).decode())
    return browser.colours("#picture"), "\n".join(browser.tab.evaluate("window.texts"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_picture_is_on_white_and_says_what_it_is_of(
    window: Callable[..., Browser], scheme: str
) -> None:
    browser = window(color_scheme=scheme)
    texts_of(browser)
    browser.open("recording", "waveform", "channels=2:6&rate=1000", subject="anna", recording_id=1)
    browser.sees("exact")
    browser.until("location.hash.includes('spacing')")
    browser.sees("raw voltage (uV)")
    before = browser.eventually(
        lambda: browser.colours(".plot canvas"), lambda colours: max(colours.values()) > 10_000
    )
    colours, texts = saved(browser)
    assert max(colours, key=colours.__getitem__) == (255, 255, 255)
    assert min(colours[INK], colours[ACCENT]) > 1000
    for text in ("recording.waveform", "subject=anna recording_id=1", "time (s)", "channel"):
        assert text in texts
    for text in ("1000 Hz", "channels 2 to 5 of 24", "raw voltage (uV)", "exact: lowest"):
        assert text in texts.replace("1,000 Hz", "1000 Hz")
    assert re.search(r"^channel \([\d,]+ uV apart\)$", texts, re.MULTILINE)
    assert browser.colours(".plot canvas") == before


def test_a_picture_of_a_heat_map_has_a_colour_bar_with_numbers(browser: Browser) -> None:
    texts_of(browser)
    query = "plot=heat&spacing=100"
    browser.open("recording", "waveform", query, subject="anna", recording_id=1)
    browser.sees("exact")
    drawn = "window.texts.includes('-100') && window.texts.includes('100')"
    browser.until(drawn)
    width = browser.tab.evaluate("document.querySelector('.plot canvas').clientWidth")
    red, blue = (browser.pixel(".plot canvas", width - 66, y) for y in (TOP + 2, TOP + 197))
    assert red[0] > blue[0] + 100
    assert blue[2] > red[2] + 100
    _, texts = saved(browser)
    assert "channel; colours: waveform (uV)" in texts
    assert {"-100", "0", "100", "sample (axis 0)"} <= {*texts.split("\n")}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_picture_of_a_movie_has_its_axes_and_its_colours(
    window: Callable[..., Browser], scheme: str
) -> None:
    browser = window(color_scheme=scheme)
    texts_of(browser)
    browser.open("movie", "movie", "index=17&low=0&high=1000", subject="anna", recording_id=1)
    browser.until("document.querySelector('.picture canvas')?.width === 60")
    browser.until("window.texts.includes('1,000')")  # of the colour bar on the page
    browser.sees("across: axis 2, down: axis 1")
    colours, texts = saved(browser)
    assert min(colours[255, 255, 255], colours[0, 0, 0]) > 100_000
    assert browser.pixel("#picture", 1, 1) == [255, 255, 255]
    for text in ("axis 1", "axis 2", "1,000", "500", "movie, frame 17 of 50 along axis 0"):
        assert text in texts.split("\n")
    assert "movie.movie subject=anna recording_id=1" in texts


# What is not a number, and other odd data


def columns(browser: Browser, colour: tuple[int, ...]) -> int:
    """In how many columns of the plot a colour is."""
    found: int = browser.tab.evaluate(EXTENT, [".plot canvas", ",".join(map(str, colour))])[0]
    return found


def test_a_not_a_number_is_a_gap_at_any_zoom(browser: Browser) -> None:
    browser.kind("gaps", "view=trace")
    browser.sees("1,501 of 40,000 values are NaN")
    width = browser.tab.evaluate("document.querySelector('.plot canvas').clientWidth")
    per_sample = (width - LEFT - RIGHT) / 20_000

    def lane(sample: int, channel: int) -> int:
        """How many pixels are of a line, and no pale one, in the lane at a sample."""
        x = LEFT + round(sample * per_sample)
        height = browser.tab.evaluate("document.querySelector('.plot canvas').clientHeight")
        row = (height - TOP - BOTTOM) / 2
        return sum(
            min(browser.pixel(".plot canvas", at, y)[0] for at in (x - 1, x, x + 1)) < 150
            for y in range(round(TOP + channel * row) + 4, round(TOP + (channel + 1) * row) - 4, 3)
        )

    browser.eventually(lambda: lane(1000, 0), lambda number: number > 5)
    assert lane(2500, 0) == 0  # all are NaN
    assert lane(7500, 0) == 0  # some of each pixel are: pale
    assert lane(12_000, 0) > 5
    marked = columns(browser, MISSING)
    assert marked == pytest.approx(6000 * per_sample, abs=8)
    # One sample of 20,000 is seen, though its pixel has others.
    browser.kind("gaps", "view=trace&channels=1:2")
    browser.sees("1 of 20,000 values are NaN")
    browser.eventually(lambda: columns(browser, MISSING), lambda number: 1 <= number <= 3)


def test_a_not_a_number_has_a_colour_of_its_own_in_a_heat_map(browser: Browser) -> None:
    browser.kind("gaps", "view=trace&plot=heat")
    browser.sees("1,501 of 40,000 values are NaN")
    width = browser.tab.evaluate("document.querySelector('.plot canvas').clientWidth")
    wide = width - LEFT - RIGHT - 72
    x = LEFT + round(2500 / 20_000 * wide)
    browser.eventually(
        lambda: browser.pixel(".plot canvas", x, 60), lambda found: tuple(found) == MISSING
    )
    assert tuple(browser.pixel(".plot canvas", LEFT + round(0.7 * wide), 60)) != MISSING


def test_a_not_a_number_has_a_colour_of_its_own_in_a_movie(browser: Browser) -> None:
    texts_of(browser)
    browser.kind("holes", "view=movie&index=2&box=0:4,0:4")
    browser.sees("64 of 1,536 values are NaN")
    browser.sees("4 of 20 means are NaN")
    browser.until("window.texts.includes('NaN')")  # in the colour bar
    colours, texts = saved(browser)
    assert colours[MISSING] >= 64 * 20**2
    assert "64 of 1,536 values are NaN" in texts
    # The line over time has a gap where all of a frame is NaN.
    path = browser.tab.evaluate("document.querySelector('.series canvas').clientWidth")
    x = LEFT + round((path - LEFT - RIGHT) * 7.5 / 20)
    column = [tuple(browser.pixel(".series canvas", x, y)) for y in range(10, 88)]
    assert ACCENT not in column


def test_a_not_a_number_is_a_gap_in_a_slice(browser: Browser) -> None:
    browser.kind("gaps", "view=h5web&plot=line&x=0&slice=1900:3100,0")
    browser.tab.locator(".h5web.line canvas").wait_for()
    browser.sees("1,000 of 1,200 values are NaN.")


def test_an_outlier_stays_in_its_lane(browser: Browser) -> None:
    browser.kind("spike", "view=trace&spacing=400")
    browser.sees("exact")
    width, height = browser.tab.evaluate(
        "(({clientWidth, clientHeight}) => [clientWidth, clientHeight])"
        "(document.querySelector('.plot canvas'))"
    )
    x = LEFT + round((width - LEFT - RIGHT) * 10_050 / 20_000)
    row = (height - TOP - BOTTOM) / 4

    def inked(channel: int) -> list[bool]:
        """Whether the line of the outlier's channel is near it, in a lane."""
        ys = range(round(TOP + channel * row) + 2, round(TOP + (channel + 1) * row) - 2, 2)
        near = [(at, y) for y in ys for at in range(x - 12, x + 13)]
        return [tuple(browser.pixel(".plot canvas", *place)) == INK for place in near]

    browser.eventually(lambda: inked(1), any)
    edge = range(round(TOP + row), round(TOP + row) + 4)  # a gap would say that it is NaN
    assert any(browser.pixel(".plot canvas", x, y)[0] < 200 for y in edge)
    assert not any(inked(0))
    assert not any(inked(2))


@pytest.mark.parametrize("kind", ["constant", "constants"])
def test_constant_values_have_ticks_that_differ(browser: Browser, kind: str) -> None:
    texts_of(browser)
    browser.kind(kind, "view=trace&channels=0:1")
    browser.sees("exact")
    browser.until("location.hash.includes('spacing')")
    browser.tab.evaluate("window.texts = []")
    browser.tab.get_by_label("Rate").fill("100")
    browser.tab.keyboard.press("Enter")
    browser.until("window.texts.includes('time (s)')")
    texts = browser.tab.evaluate("window.texts")
    labels = [text for text in texts[texts.index("time (s)") :] if re.fullmatch(r"-?[\d.,]+", text)]
    assert len(labels) >= 3
    assert len({*labels}) == len(labels)
    low, *_, high = sorted(float(label.replace(",", "")) for label in labels)
    assert low <= (1234.5678 if kind == "constant" else -7) <= high


def test_an_empty_array_has_no_controls(browser: Browser) -> None:
    browser.kind("empty")
    browser.sees("is empty")
    assert browser.tab.locator("article input, article select, article .choice").count() == 0
    assert browser.tab.get_by_role("button", name="PNG").count() == 0
    browser.tab.get_by_role("button", name="Copy Python").click()
    browser.sees("Python copied")


def test_dates_are_a_table_and_their_line_says_its_unit(browser: Browser) -> None:
    browser.kind("dates")
    browser.tab.get_by_text("2026-01-01T00:00:04", exact=True).first.wait_for()
    browser.tab.get_by_text("Line", exact=True).click()
    browser.tab.locator(".h5web.line canvas").wait_for()
    browser.tab.locator("svg").get_by_text("seconds since 2026-01-01T00:00:00").wait_for()


def test_the_values_that_are_shown_are_saved(browser: Browser) -> None:
    query = "start=1000&stop=2000&channels=0:4"
    browser.open("recording", "waveform", query, subject="anna", recording_id=1)
    browser.sees("exact")
    shown = waveform()[1000:2000, :4]
    np.testing.assert_array_equal(np.load(io.BytesIO(browser.file("npy"))), shown)
    np.testing.assert_array_equal(np.loadtxt(io.BytesIO(browser.file("csv")), delimiter=","), shown)


def test_back_undoes_a_zoom(browser: Browser) -> None:
    browser.open("recording", "waveform", subject="anna", recording_id=1)
    browser.sees("exact")
    browser.until("location.hash.includes('spacing')")
    browser.focus_plot()
    for window in ("start=5000&stop=15000", "start=7500&stop=12500"):
        browser.tab.keyboard.press("ArrowUp")
        browser.until(f"location.hash.includes({window!r})")
        browser.tab.wait_for_timeout(1200)  # what follows at once is the same move
    browser.tab.go_back()
    browser.until("location.hash.includes('start=5000&stop=15000')")
    browser.sees("of 10,000 samples")
    browser.tab.go_back()
    browser.until("!location.hash.includes('start')")
    browser.sees("of 20,000 samples")
    browser.tab.go_forward()
    browser.sees("of 10,000 samples")


def test_wheel_and_drag_keep_what_is_under_the_pointer(browser: Browser) -> None:
    browser.open("recording", "waveform", "rate=1000", subject="anna", recording_id=1)
    browser.sees("exact")
    box = browser.tab.locator(".plot canvas").bounding_box()
    mouse = browser.tab.mouse

    def move(share: float) -> None:
        mouse.move(box["x"] + LEFT + share * (box["width"] - LEFT - RIGHT), box["y"] + 20)

    def comes_to(span: float, share: float) -> None:
        """The window is of `span` samples, and number 5,000 is at a share of its width."""

        def holds(query: dict[str, str]) -> bool:
            start, stop = int(query.get("start", 0)), int(query.get("stop", 20_000))
            at = start + share * (stop - start)
            return stop - start == pytest.approx(span, abs=8) and at == pytest.approx(5000, abs=15)

        browser.eventually(browser.query, holds)

    move(0.25)
    span = 20_000.0
    for _ in range(3):
        mouse.wheel(0, -400)
        span *= 1.0018**-400
        comes_to(span, 0.25)
    mouse.down()
    move(0.5)
    mouse.up()
    comes_to(span, 0.5)
    mouse.dblclick(box["x"] + LEFT + 0.5 * (box["width"] - LEFT - RIGHT), box["y"] + 20)
    comes_to(span / 4, 0.5)


def test_what_is_under_the_pointer_is_told(browser: Browser) -> None:
    query = "start=1000&stop=1010&channels=0:4&rate=1000"
    browser.open("recording", "waveform", query, subject="anna", recording_id=1)
    browser.sees("exact")
    box = browser.tab.locator(".plot canvas").bounding_box()
    x = box["x"] + LEFT + 0.3 * (box["width"] - LEFT - RIGHT)
    y = box["y"] + TOP + 0.6 * (box["height"] - TOP - BOTTOM)
    browser.tab.mouse.move(x, y)
    text = browser.tab.locator(".readout").inner_text()
    assert text == f"sample 1,003 (1.0030 s), channel 2: {waveform()[1003, 2]}"


def test_traces_have_their_offset_removed_and_their_gain(browser: Browser) -> None:
    def drawn(query: str, more_than: float) -> int:
        browser.kind("offset", f"view=trace&{query}")
        browser.sees("exact")
        return browser.eventually(
            lambda: browser.colours(".plot canvas").get(INK, 0), lambda number: number > more_than
        )

    once = drawn("spacing=400", 1000)
    drawn("spacing=400&gain=4", 1.5 * once)
    browser.kind("offset", "view=trace&spacing=400&offset=0")
    browser.sees("exact")
    browser.eventually(lambda: browser.colours(".plot canvas"), lambda found: ACCENT in found)
    # The second is far above its lane: it is a line at the edge.
    _, rows = browser.tab.evaluate(EXTENT, [".plot canvas", ",".join(map(str, INK))])
    assert rows <= 2


def test_a_file_that_is_gone_is_told_where_the_plot_would_be(
    browser: Browser, lab: tuple[Page, str]
) -> None:
    table = dj.FreeTable(dj.conn(), f'"{lab[1]}"."recording"')
    insert(table, ("anna", 9, np.arange(5000)))
    [file] = Path(dj.config.stores["main"]["location"]).rglob("recording_id=9/*.npy")
    file.unlink()
    browser.open("recording", "waveform", subject="anna", recording_id=9)
    alert = browser.tab.locator(".plot").get_by_role("alert")
    alert.wait_for()
    assert file.name in alert.inner_text()


# Movies


def test_a_movie_shows_the_frame_of_its_address(browser: Browser) -> None:
    browser.open("movie", "movie", "index=17&low=0&high=1000", subject="anna", recording_id=1)
    browser.until("document.querySelector('.picture canvas')?.width === 60")
    black, white = [0, 0, 0], [255, 255, 255]
    browser.eventually(
        lambda: [browser.pixel(".picture canvas", x, 15) for x in (16, 17, 26, 27)],
        lambda at: at == [black, white, white, black],
    )
    browser.focus_plot()
    browser.tab.keyboard.press("ArrowRight")
    browser.until("location.hash.includes('index=18')")
    browser.eventually(lambda: browser.pixel(".picture canvas", 17, 15), lambda at: at == black)


def test_a_movie_plays_with_frames_read_ahead(browser: Browser) -> None:
    browser.open("movie", "movie", "low=0&high=1000", subject="anna", recording_id=1)
    browser.until("document.querySelector('.picture canvas')?.width === 60")
    browser.focus_plot()
    browser.requests.clear()
    browser.tab.keyboard.press(" ")
    browser.until("Number(document.querySelector('input[type=range]').value) >= 20")
    browser.tab.keyboard.press(" ")
    browser.until("location.hash.includes('index=')")
    assert len(browser.asked("frames")) <= 3
    # The frame at which it stopped is the one that is drawn.
    index = int(re.search(r"index=(\d+)", browser.hash)[1])  # type: ignore[index]
    browser.eventually(
        lambda: (
            browser.pixel(".picture canvas", index, 15)
            + browser.pixel(".picture canvas", index - 1, 15)
        ),
        lambda at: at == [255] * 3 + [0] * 3,
    )


def test_a_request_that_is_out_of_date_is_cancelled(browser: Browser) -> None:
    browser.open("movie", "movie", "low=0&high=1000", subject="anna", recording_id=1)
    browser.until("document.querySelector('.picture canvas')?.width === 60")
    cancelled: list[str] = []
    browser.tab.on("requestfailed", lambda request: cancelled.append(request.url))
    network = browser.tab.context.new_cdp_session(browser.tab)
    slow = {"latency": 2000, "downloadThroughput": -1, "uploadThroughput": -1}
    network.send("Network.emulateNetworkConditions", {"offline": False, **slow})
    browser.focus_plot()
    for index in (1, 2):
        browser.tab.keyboard.press("ArrowRight")
        browser.until(f"location.hash.includes('index={index}')")
    browser.eventually(lambda: cancelled, bool)
    browser.tab.wait_for_timeout(200)
    assert [re.search(r"index=(\d+)", url)[1] for url in cancelled] == ["1"]  # type: ignore[index]


def test_a_movie_plays_at_the_rate_that_was_chosen(browser: Browser) -> None:
    browser.tab.clock.install()
    index = "Number(document.querySelector('input[type=range]').value)"
    for rate in (10, 40):
        browser.open("movie", "movie", f"fps={rate}", subject="anna", recording_id=1)
        browser.until("document.querySelector('.picture canvas')?.width === 60")
        browser.focus_plot()
        browser.tab.keyboard.press(" ")
        browser.until(f"{index} >= 1")  # the frames of the movie are there
        browser.tab.clock.pause_at(browser.tab.evaluate("Date.now()") / 1000 + 0.5)
        began = browser.tab.evaluate(index)
        browser.tab.clock.run_for(500)
        assert browser.tab.evaluate(index) - began == pytest.approx(rate / 2, abs=1)
        browser.tab.clock.resume()


def test_the_contrast_is_of_the_percentiles(browser: Browser) -> None:
    browser.open("movie", "movie", subject="anna", recording_id=1)
    browser.until("location.hash.includes('high')")
    assert (browser.query()["low"], browser.query()["high"]) == ("0", "1000")
    browser.tab.get_by_role("button", name="Full").click()
    browser.until("location.hash.includes('high=50000')")


def test_a_box_is_drawn_for_its_trace(browser: Browser) -> None:
    browser.open("movie", "movie", subject="anna", recording_id=1)
    browser.until("document.querySelector('.picture canvas')?.width === 60")
    box = browser.tab.locator(".picture canvas").bounding_box()
    each = box["width"] / 60
    mouse = browser.tab.mouse
    mouse.move(box["x"] + 20.5 * each, box["y"] + 12.5 * each)
    mouse.down()
    mouse.move(box["x"] + 24.5 * each, box["y"] + 14.5 * each)
    mouse.up()
    browser.until("location.hash.includes('box=12%3A15%2C20%3A25')")
    browser.sees("exact: the mean of the box in each frame")
    browser.eventually(
        lambda: browser.colours(".series canvas").get(ACCENT, 0), lambda number: number > 50
    )
    canvas = browser.tab.locator(".series canvas")
    width = canvas.bounding_box()["width"]
    canvas.click(position={"x": LEFT + 0.41 * (width - LEFT - RIGHT), "y": 60})
    browser.until("location.hash.includes('index=20')")


@pytest.mark.parametrize(("kind", "value"), [("Mean", 51), ("Max", 255)])
def test_a_projection_is_computed(browser: Browser, kind: str, value: int) -> None:
    browser.open("movie", "movie", subject="anna", recording_id=1)
    browser.until("document.querySelector('.picture canvas')?.width === 60")
    browser.tab.get_by_text(kind, exact=True).click()
    browser.until(f"location.hash.includes('show={kind.lower()}')")
    browser.until("location.hash.includes('high')")
    for label, limit in (("Contrast", "0"), ("to", "1000")):
        browser.tab.get_by_label(label, exact=True).fill(limit)
        browser.tab.keyboard.press("Enter")
    # 10 of 50 frames are bright here.
    browser.eventually(
        lambda: browser.pixel(".picture canvas", 30, 15), lambda at: at == [value] * 3
    )


# Slices


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        ("int64", ["1152921504606846976", "1152921504606846987"]),
        ("complex", ["nan + 1j"]),
        ("datetime", ["2026-01-01T12:00:00.500", "NaT"]),
        ("bool", ["True", "False"]),
        ("void", ["61 62 63 64 65"]),
        ("structured", ["three", "0.1", "1152921504606846977", "[0, 0]"]),
        ("text", ["alpha", "delta"]),
        ("big-endian", ["31", "60"]),
        ("scalar", ["3.5"]),
    ],
)
def test_the_matrix_shows_values_exactly(browser: Browser, kind: str, texts: list[str]) -> None:
    browser.kind(kind, "plot=matrix")
    for text in texts:
        browser.tab.get_by_text(text, exact=True).first.wait_for(state="attached")


@pytest.mark.parametrize("kind", ["line", "complex", "datetime"])
def test_a_line_is_drawn(browser: Browser, kind: str) -> None:
    browser.kind(kind, "plot=line")
    browser.tab.locator(".h5web.line canvas").wait_for()
    browser.eventually(
        lambda: browser.colours(".h5web canvas"),
        lambda colours: sum(n for (red, _, blue), n in colours.items() if blue > red + 80) > 20,
    )


@pytest.mark.parametrize("kind", ["big-endian", "int64", "bool", "cube"])
def test_a_heat_map_is_drawn_from_its_lowest_to_its_highest_value(
    browser: Browser, kind: str
) -> None:
    browser.kind(kind, "plot=heat")
    browser.tab.locator(".h5web.heat canvas").wait_for()

    def has(colours: dict[tuple[int, ...], int], colour: tuple[int, ...]) -> bool:
        return any(max(map(abs, np.subtract(each, colour))) < 12 for each in colours)

    browser.eventually(
        lambda: browser.colours(".h5web canvas"),
        lambda colours: has(colours, (68, 1, 84)) and has(colours, (253, 231, 37)),
    )


def test_colours_are_drawn_as_colours(browser: Browser) -> None:
    browser.kind("colours")
    browser.tab.locator(".h5web.rgb canvas").wait_for()
    browser.eventually(
        lambda: browser.colours(".h5web canvas").get((200, 0, 0), 0),
        lambda number: number > 10_000,
    )


def test_colours_turn_with_their_axes(browser: Browser) -> None:
    def sides() -> list[int]:
        found: list[int] = browser.tab.evaluate(EXTENT, [".h5web canvas", "0,0,100"])
        return found

    def half_as_wide(width: int, height: int) -> bool:
        return height > 100 and width == pytest.approx(height / 2, abs=4)

    browser.kind("colours")
    browser.eventually(sides, lambda found: half_as_wide(*found))
    browser.kind("colours", "x=0")
    browser.eventually(sides, lambda found: half_as_wide(*reversed(found)))


def test_numbers_are_not_taken_for_colours(browser: Browser) -> None:
    browser.kind("cube")
    browser.tab.locator(".h5web.heat canvas").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_picture_of_a_slice_has_its_axes(window: Callable[..., Browser], scheme: str) -> None:
    browser = window(color_scheme=scheme)
    texts_of(browser)
    browser.kind("big-endian", "plot=heat")
    browser.tab.locator(".h5web.heat canvas").wait_for()
    drawn = browser.eventually(
        lambda: browser.colours(".h5web canvas"), lambda colours: len(colours) > 100
    )
    picture, texts = saved(browser)
    most = sorted(drawn, key=lambda colour: -drawn[colour])[:10]
    assert all(picture[colour] >= drawn[colour] * 0.9 for colour in most)
    muted = (102, 112, 121)  # the numbers at the axes
    assert picture[muted] > 20
    assert drawn.get(muted, 0) == 0
    assert picture[(255, 255, 255)] > 100_000
    assert "kind=big-endian" in texts


def test_a_picture_of_a_line_is_on_white(window: Callable[..., Browser]) -> None:
    browser = window(color_scheme="dark")
    texts_of(browser)
    browser.kind("line", "view=h5web&plot=line")
    browser.tab.locator(".h5web.line canvas").wait_for()
    light = (108, 178, 240)  # the colour of a line on the dark page
    browser.eventually(
        lambda: browser.colours(".h5web canvas"), lambda colours: colours.get(light, 0) > 100
    )
    picture, texts = saved(browser)
    assert max(picture, key=picture.__getitem__) == (255, 255, 255)
    assert light not in picture
    assert any(red < 100 < blue for red, _, blue in picture)
    assert "data [0:500]" in texts
    browser.eventually(
        lambda: browser.colours(".h5web canvas"), lambda colours: colours.get(light, 0) > 100
    )


def test_the_code_of_a_field_fetches_the_field(browser: Browser) -> None:
    browser.kind("structured", "slice=1:3")
    browser.tab.get_by_label("Field").select_option("x")
    browser.tab.locator(".h5web.line canvas").wait_for()
    browser.tab.get_by_role("button", name="Copy Python").click()
    browser.sees("Python copied")
    variables: dict[str, Any] = {}
    exec(browser.tab.evaluate("navigator.clipboard.readText()"), variables)
    np.testing.assert_array_equal(variables["data"], kinds()["structured"]["x"][1:3])
    assert np.load(io.BytesIO(browser.file("npy"))).tolist() == [0.1, 0.1]


def test_a_slice_and_its_zoom_are_in_the_address(browser: Browser) -> None:
    browser.kind("cube", "plot=heat")
    browser.tab.locator(".h5web.heat canvas").wait_for()
    browser.tab.get_by_label("Index of axis 0").press("ArrowRight")
    browser.until("location.hash.includes('slice=1%2C0%3A3%2C0%3A4')")
    colours = partial(browser.colours, ".h5web canvas")
    browser.eventually(colours, lambda found: len(found) == 12)  # one for each value
    browser.focus_plot()
    browser.tab.keyboard.press("ArrowUp")
    browser.until("location.hash.includes('zoom=0.5%2C0.5')")
    browser.tab.go_back()
    browser.until("!location.hash.includes('zoom')")
    browser.eventually(colours, lambda found: len(found) == 12)
    browser.tab.go_forward()
    browser.until("location.hash.includes('zoom=0.5%2C0.5')")
    before = browser.eventually(colours, lambda found: 3 < len(found) < 12)
    place = browser.hash
    browser.tab.reload()
    browser.tab.locator(".h5web.heat canvas").wait_for()
    browser.eventually(colours, lambda now: now == before)
    assert browser.hash == place


def test_what_is_longer_than_a_texture_is_cut_and_said_to_be(browser: Browser) -> None:
    browser.kind("long", "view=h5web&plot=heat")
    browser.tab.locator(".h5web.heat canvas").wait_for()
    browser.sees("A part: axis 1: 0:")
    box = browser.tab.get_by_label("Axis 1", exact=True)
    box.fill("0:70000")
    box.press("Enter")
    browser.sees("Take a shorter range")


@pytest.mark.parametrize(("kind", "sentence"), [("empty", "is empty"), ("not a number", "is NaN")])
def test_what_cannot_be_drawn_is_said(browser: Browser, kind: str, sentence: str) -> None:
    browser.kind(kind)
    assert sentence in browser.tab.locator(".plot").get_by_role("alert").inner_text()


# Everywhere


def test_an_array_that_was_given_is_shown(browser: Browser, lab: tuple[Page, str]) -> None:
    table = dj.FreeTable(dj.conn(), f'"{lab[1]}"."recording"')
    ref = (table & "subject = 'anna' AND recording_id = 1").fetch1("waveform")
    browser.tab.goto(f"{browser.page.server.address}#/given/{browser.page.give(ref)}")
    browser.sees("exact: lowest and highest")
    browser.tab.get_by_role("button", name="Copy Python").click()
    browser.sees("Python copied")


def test_the_keyboard_alone_leads_from_the_tables_to_a_plot(browser: Browser) -> None:
    browser.tab.goto(browser.page.server.address)
    browser.sees("Recording")
    keyboard = browser.tab.keyboard
    focused = "document.activeElement.matches('a, button') ? document.activeElement.innerText : ''"

    def tab_to(text: str) -> None:
        for _ in range(60):
            if text in browser.tab.evaluate(focused):
                return
            keyboard.press("Tab")
        raise AssertionError(f"no Tab reaches {text}")

    tab_to("Recording")
    keyboard.press("Enter")
    browser.sees("Of one session")
    tab_to("24 int16")
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert browser.tab.evaluate(outline) == "solid"
    keyboard.press("Enter")
    browser.sees("exact: lowest and highest")
    tab_to("Copy link")
    for _ in range(30):
        keyboard.press("Tab")
        if browser.tab.evaluate("document.activeElement.className === 'plot'"):
            break
    keyboard.press("ArrowUp")
    browser.until("location.hash.includes('start=5000&stop=15000')")


def focused(browser: Browser) -> str:
    found: str = browser.tab.evaluate(
        "`${document.activeElement.tagName} ${document.activeElement.innerText}`.trim()"
    )
    return found


def test_the_focus_follows_a_link_and_comes_back(browser: Browser) -> None:
    browser.tab.goto(browser.page.server.address)
    browser.tab.get_by_role("link", name=re.compile("^Recording")).press("Enter")
    browser.eventually(lambda: focused(browser), lambda text: text.startswith("H1 Recording"))
    chip = browser.tab.get_by_role("link", name=re.compile("24 int16"))
    chip.press("Enter")
    browser.eventually(lambda: focused(browser), lambda text: "waveform" in text and "H1" in text)
    browser.tab.go_back()
    browser.eventually(lambda: focused(browser), lambda text: "24 int16" in text)


def test_few_keys_lead_to_the_plot(browser: Browser) -> None:
    on_plot = "document.activeElement.className.startsWith('plot')"
    for keys in (["Tab", "Enter"], ["p"]):
        browser.open("recording", "waveform", subject="anna", recording_id=1)
        browser.sees("exact")
        for key in keys:
            browser.tab.keyboard.press(key)
        browser.until(on_plot)
    browser.tab.keyboard.press("ArrowUp")
    browser.until("location.hash.includes('start=5000&stop=15000')")


def test_the_filter_opens_the_first_table_and_arrows_go_through_them(browser: Browser) -> None:
    browser.tab.goto(browser.page.server.address)
    browser.sees("Spike")
    keyboard = browser.tab.keyboard
    keyboard.press("/")
    keyboard.type("re")
    keyboard.press("Enter")
    browser.sees("Of one session")
    browser.eventually(lambda: focused(browser), lambda text: text.startswith("H1 Recording"))
    keyboard.press("/")
    keyboard.press("ControlOrMeta+a")
    keyboard.type(browser.schema)
    browser.until("document.querySelectorAll('nav li').length === 5")
    for key, name in (
        ("ArrowDown", "Kind"),
        ("ArrowDown", "Movie"),
        ("ArrowDown", "Recording"),
        ("ArrowUp", "Movie"),
    ):
        keyboard.press(key)
        assert focused(browser).startswith(f"A {name}")
    keyboard.press("ArrowUp")
    keyboard.press("ArrowUp")
    assert focused(browser) == "INPUT"


def test_tables_are_counted_in_the_list(browser: Browser) -> None:
    browser.tab.goto(browser.page.server.address)
    spike = browser.tab.locator("nav li").filter(has_text="Spike").inner_text
    browser.eventually(spike, lambda text: "250" in text and "≈" not in text)
    assert browser.asked("counts")


def test_a_wrong_token_is_told(browser: Browser) -> None:
    browser.tab.goto(f"http://127.0.0.1:{browser.page.port}/?token=wrong#/")
    assert "token" in browser.tab.get_by_role("alert").inner_text()


def test_keys_are_shown(browser: Browser) -> None:
    browser.tab.goto(browser.page.server.address)
    browser.sees("Recording")
    browser.tab.keyboard.press("?")
    browser.tab.get_by_role("dialog").wait_for()
    browser.tab.keyboard.press("Escape")
    browser.tab.get_by_role("dialog").wait_for(state="hidden")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_light_or_dark_as_the_system_is(
    window: Callable[..., Browser], scheme: str
) -> None:
    browser = window(color_scheme=scheme)
    browser.open("recording", "waveform", subject="anna", recording_id=1)
    browser.sees("exact")
    ground = (17, 19, 21) if scheme == "dark" else (255, 255, 255)
    colours = browser.eventually(
        lambda: browser.colours(".plot canvas"),
        lambda colours: len(colours) > 3 and max(colours, key=colours.__getitem__) == ground,
    )
    other = "dark" if scheme == "light" else "light"
    browser.tab.emulate_media(color_scheme=other)
    browser.eventually(
        lambda: browser.colours(".plot canvas").get(ground, 0),
        lambda number: number < colours[ground] / 2,
    )


@pytest.mark.parametrize(
    ("table", "attribute", "key", "width"),
    [
        ("recording", "", {}, 0),
        ("recording", "waveform", {"subject": "anna", "recording_id": 1}, 240),
        ("movie", "movie", {"subject": "anna", "recording_id": 1}, 240),
        ("#kind", "data", {"kind": "colours"}, 240),
        ("#kind", "data", {"kind": "cube"}, 180),  # beside its colour bar
    ],
)
def test_a_narrow_window_shows_all_without_scrolling_sideways(
    window: Callable[..., Browser], table: str, attribute: str, key: dict[str, Any], width: int
) -> None:
    browser = window(viewport={"width": 400, "height": 800})
    browser.tab.goto(browser.page.server.address)
    browser.sees("Spike")  # without a table, the list is what there is to see
    browser.open(table, attribute, **key)
    browser.tab.locator("article canvas, article table").first.wait_for()
    browser.eventually(
        lambda: browser.tab.evaluate("document.documentElement.scrollWidth"),
        lambda wide: wide == 400,
    )
    if attribute:
        box = browser.tab.locator("article canvas").first.bounding_box()
        assert box["width"] > width
        assert box["height"] > 150
    browser.tab.get_by_role("button", name="Tables").click()
    browser.tab.get_by_role("link", name=re.compile("^Spike")).click()
    browser.sees("250 rows")
