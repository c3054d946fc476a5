"""`dj_npy.view` and `dj-npy view`: they start, say where they are, and end."""

import copy
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
import webbrowser
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from urllib.request import url2pathname

import numpy as np
import psutil
import pytest

import dj_npy
from dj_npy._cli import main as _cli
from dj_npy._view import view as view_module
from tests.cli.test_cli import COMMAND, command, environment
from tests.support import warm
from tests.support.processes import fork_and
from tests.view.conftest import Page, until
from tests.view.test_catalog import name_of


@pytest.fixture(autouse=True)
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the browser was told to open; servers end after the test."""
    found: list[str] = []
    monkeypatch.setattr(webbrowser, "open", found.append)
    yield found
    for server in view_module._running:
        server.stop()
    view_module._running.clear()


def status(address: str) -> int:
    return Page(address).get("schemas").status


def test_one_server_shows_whatever_is_asked_for(recording: Any, database: Any) -> None:
    recording.insert({"recording_id": n, "waveform": np.arange(n)} for n in range(3))
    address = dj_npy.view(recording)
    table = f"#/{name_of(recording)}"
    assert address.endswith(table)
    assert status(address) == 200
    page = Page(address)
    for restricted in (recording & "recording_id > 0", recording & {"recording_id": 1} & "1=1"):
        address = dj_npy.view(restricted)
        fragment = urlsplit(address).fragment
        where = parse_qs(urlsplit(f"//x{fragment}").query)["where"][0]
        rows = page.fine("rows", table=name_of(recording), restriction=where).json["rows"]
        assert [row[0] for row in rows] == restricted.to_arrays("recording_id").tolist()
    assert len(view_module._running) == 1
    assert unquote(table) == table


def test_an_array_is_shown(postgresql: Any, stored: Any, opened: list[str]) -> None:
    first, second = stored(np.arange(3)), stored(np.arange(4), 2)
    addresses = [dj_npy.view(ref) for ref in (first, second, first)]
    assert [urlsplit(each).fragment for each in addresses] == ["/given/0", "/given/1", "/given/0"]
    page = Page(addresses[0])
    assert page.fine("slice", selection=":", given=1).array().tolist() == [0, 1, 2, 3]
    assert "ref" in page.fine("code", selection=":", given=1).json["code"]
    assert len(opened) == 3


def test_the_browser_learns_the_token_from_a_private_file(
    postgresql: Any, opened: list[str]
) -> None:
    """Its arguments are seen by all users of the machine."""
    address = dj_npy.view()
    [url] = opened
    [token] = parse_qs(urlsplit(address).query)["token"]
    assert len(token) == 32
    assert token not in url
    file = Path(url2pathname(urlsplit(url).path))
    assert address in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    dj_npy.view(browser=False)
    assert len(opened) == 1


def test_what_cannot_be_shown_is_refused(postgresql: Any, opened: list[str]) -> None:
    wrong: Any
    for wrong in (1, np.zeros(3), "lab", [], object):
        with pytest.raises(dj_npy.ArrayInvalidError, match=r"dj_npy\.view takes"):
            dj_npy.view(wrong)
    for port in (-1, 1 << 16, "80"):
        with pytest.raises(dj_npy.ArrayInvalidError, match="port is a number"):
            dj_npy.view(port=port)  # type: ignore[arg-type]
    assert not opened
    assert not view_module._running


def test_a_join_is_refused(recording: Any) -> None:
    with pytest.raises(dj_npy.ArrayInvalidError, match="not a query"):
        dj_npy.view(recording.proj() * recording)


def test_a_port_that_is_taken_is_told(postgresql: Any) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(dj_npy.StoreError, match=f"cannot listen on port {port} "):
            dj_npy.view(port=port)
    address = dj_npy.view(port=port)
    assert urlsplit(address).port == port
    assert dj_npy.view(port=port).split("#")[0] == address.split("#")[0]


def test_other_schemas_and_connections_have_servers_of_their_own(postgresql: Any) -> None:
    mine, other = postgresql.connection, copy.copy(postgresql.connection)
    first = view_module.running(mine)
    assert view_module.running(mine, port=first.port) is first
    others = [view_module.running(mine, schemas=["lab"]), view_module.running(other)]
    assert len({each.port for each in (first, *others)}) == 3
    assert len({each.address for each in (first, *others)}) == 3


def test_a_forked_child_starts_its_own(postgresql: Any) -> None:
    address = dj_npy.view(browser=False)

    def check() -> bool:
        return not view_module._running[0].is_running

    assert fork_and(check) == 0
    assert status(address) == 200


def test_without_the_extra_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "import dj_npy\nfrom dj_npy._view.view import Running\n"
        "from types import SimpleNamespace\n"
        "Running(SimpleNamespace(), 0, ())\n"
    )
    assert "pip install 'dj-npy[view]'" in warm.run("-c", code).stderr


def test_in_a_notebook_it_is_shown_in_the_cell(
    postgresql: Any, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    import IPython

    class Shell:
        kernel = None

    shown: list[Any] = []
    monkeypatch.setattr(IPython, "get_ipython", Shell)
    monkeypatch.setattr("IPython.display.display", shown.append)
    address = dj_npy.view()
    assert not opened
    assert shown[0].src == address
    policy = Page(address).ask("/").headers["content-security-policy"]
    assert "frame-ancestors http://127.0.0.1:*" in policy


def started(env: dict[str, str], *arguments: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [COMMAND, "view", "--no-browser", *arguments],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    for line in process.stdout:
        if found := re.search(r"http://\S+", line):
            return process, found[0]
    raise AssertionError(process.communicate()[1])


@pytest.mark.slow
def test_the_command_serves_until_it_is_interrupted(recording: Any, database: Any) -> None:
    process, address = started(environment(database), recording.database)
    assert status(address) == 200
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, "")
    with pytest.raises(OSError, match="refused"):
        status(address)


@pytest.mark.slow
def test_the_command_tells_of_a_taken_port_in_one_line(postgresql: Any) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        result = command("view", "--no-browser", "--port", port, env=environment(postgresql))
    assert result.returncode == 1
    assert result.stderr.startswith(f"dj-npy: cannot listen on port {port} ")
    assert result.stderr.count("\n") == 1


def test_the_command_creates_no_database(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _cli.main(["view", "--embedded", str(tmp_path / "typo")]) == 2
    assert "typo has no database" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_a_new_user_looks_at_the_quick_start(session_folder: Path) -> None:
    """Quick start, view, zoom, copy the code, run it: the same numbers."""
    folder = session_folder / "view-quickstart"
    said = subprocess.run(
        [COMMAND, "quickstart", str(folder)],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f"dj-npy view --embedded {folder}\n" in said
    process, address = started(environment(), "--embedded", str(folder))
    try:
        page = Page(address)
        named = {
            "table": "quickstart.recording",
            "attribute": "waveform",
            "key": '{"recording_id": 1}',
        }
        assert page.fine("array", **named).json["view"] == "trace"
        shown = page.fine("slice", selection="100:110,0:4", **named).array()
        code = page.fine("code", selection="100:110,0:4", **named).json["code"]
        assert f"dj_npy.embedded.start({str(folder)!r})\n" in code
        code += "print(waveform.tobytes().hex())"
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        env |= {"DJ_IGNORE_CONFIG_FILE": "true"}
        run = [sys.executable, "-W", "ignore", "-c", code]
        output = subprocess.run(run, env=env, capture_output=True, text=True, check=True).stdout
        assert output.split()[-1] == shown.tobytes().hex()
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("arguments", [["view", "--no-browser", "--embedded"], ["quickstart"]])
def test_no_server_is_left_when_the_command_is_killed(
    session_folder: Path, arguments: list[str], number: signal.Signals
) -> None:
    folder = session_folder / f"killed-{arguments[0]}-{number.name}"
    pid_file = folder / "postgres" / "postmaster.pid"
    if arguments[0] == "view":
        subprocess.run([COMMAND, "quickstart", str(folder)], env=environment(), check=True)
    default = partial(signal.signal, number, signal.SIG_DFL)  # the tests may run under nohup
    command = [COMMAND, *arguments, str(folder)]
    with subprocess.Popen(command, env=environment(), preexec_fn=default) as process:
        try:
            until(lambda: pid_file.exists() and _is_ready(pid_file))
            server = psutil.Process(int(pid_file.read_text().split()[0]))
            process.send_signal(number)
            assert process.wait(60) == 128 + number
            assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
            assert not pid_file.exists()
        finally:
            process.kill()
            if pid_file.exists():
                os.kill(int(pid_file.read_text().split()[0]), signal.SIGINT)


def _is_ready(pid_file: Path) -> bool:
    """Whether a server of PostgreSQL answers: by then, the command has begun to use it."""
    return len(lines := pid_file.read_text().splitlines()) > 7 and "ready" in lines[7]


@pytest.mark.slow
def test_the_process_ends_though_work_goes_on(tmp_path: Path, postgresql: Any) -> None:
    """Neither an overview nor an open page keeps it, and no file with the token is left."""
    code = (
        "import sys, threading, time, http.client, numpy as np, dj_npy\n"
        "from pathlib import Path\n"
        "from tests.view.test_trace import sparse\n"
        "from tests.view.conftest import Page\n"
        "from dj_npy._view import view\n"
        "dj_npy.settings.cache_dir = Path(sys.argv[1]) / 'cache'\n"
        "import datajoint as dj\n"
        "server = view.running(dj.conn())\n"
        "view.open_browser(server.address)\n"
        "page = Page(server.address)\n"
        "number = server.give(sparse(Path(sys.argv[1]), (130_000_000, 384), 'int16'))\n"
        "assert page.ask('/api/overview', {'given': number}, 'POST').json['state'] == 'running'\n"
        "time.sleep(0.5)\n"
        "print(page.fine('overview', given=number).json)\n"
    )
    begun = time.monotonic()
    env = environment(postgresql) | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    env |= {"TMPDIR": str(tmp_path), "BROWSER": "true"}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)],
        env=env,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "running" in result.stdout
    assert not [*tmp_path.glob("dj-npy-view-*")]
    assert time.monotonic() - begun < 30
