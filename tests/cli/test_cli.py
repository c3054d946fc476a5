"""The command ``dj-npy``, mostly as the process that it is installed as."""

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np
import pytest

import dj_npy
from dj_npy._cli import main as _cli
from dj_npy._cli.command import Paint
from dj_npy._cli.quickstart import QUICK_START
from tests.conftest import run
from tests.support import servers, warm
from tests.support.processes import DATABASES

pytestmark = pytest.mark.slow

COMMAND = str(Path(sys.executable).parent / "dj-npy")
SECRET = "a-very-secret-word"


def environment(database: Any = None, **more: str) -> dict[str, str]:
    """That of a machine on which only `database` and its stores are configured."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("DJ_")}
    if database is not None:
        info = database.connection.conn_info
        bare |= {
            "DJ_HOST": info["host"],
            "DJ_PORT": str(info["port"]),
            "DJ_USER": info["user"],
            "DJ_PASS": info["passwd"],
            "DJ_BACKEND": database.config["database.backend"],
            "DJ_USE_TLS": "false",
            "DJ_STORES": json.dumps(database.config.stores),
        }
    return bare | more


def command(
    *arguments: str, env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    env = environment() if env is None else env
    return warm.run(COMMAND, *arguments, env=env, cwd=cwd or "/")


def facts(output: str) -> dict[str, str]:
    """What the text says, by the names in it."""
    return dict(re.findall(r"^  (\w+) +(.*)$", output, re.MULTILINE))


@pytest.fixture
def database(request: pytest.FixtureRequest) -> Any:
    """The one that this process is connected to, unless a test names another."""
    return request.getfixturevalue(getattr(request, "param", "postgresql"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "waveform.npy"
    np.save(path, np.zeros((1000, 32)))
    return path


def test_quickstart_shows_each_line_and_leaves_everything(session_folder: Path) -> None:
    folder = session_folder / "quickstart"
    first = run([COMMAND, "quickstart", str(folder)], env=environment()).stdout
    for line in QUICK_START.splitlines():
        assert not line or f">>> {line}" in first or f"... {line}" in first
    assert "NpyRef(shape=(1000, 32), dtype=float64, not loaded)" in first
    assert "NpyRef(shape=(1000, 32), dtype=float64, loaded)" in first
    file = folder / "store" / "quickstart" / "recording" / "recording_id=1" / "waveform.npy"
    assert str(file) in first
    assert np.load(file).shape == (1000, 32)
    before = file.stat()
    again = run([COMMAND, "quickstart", str(folder)], env=environment()).stdout
    assert "not inserted again" in again
    assert file.stat() == before
    # What it says at its end.
    code = "\n".join(line.strip() for line in first.split("To go on from Python:")[1].splitlines())
    warm.output("-c", code + "\nassert len(Recording.to_dicts()) == 1")


def test_the_version_is_all_that_it_says(tmp_path: Path) -> None:
    """In a folder without a configuration, of which DataJoint warns."""
    result = command("--version", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, f"dj-npy {dj_npy.__version__}\n")
    assert result.stderr == ""


def test_a_broken_configuration_is_told_in_one_line(tmp_path: Path, file: Path) -> None:
    (tmp_path / "datajoint.json").write_text("{")
    result = command("info", str(file), cwd=tmp_path)
    assert result.returncode == 0
    assert result.stderr.startswith("dj-npy: warning: Failed to load config")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["no-such-command"],
        ["quickstart", "a", "b"],
        ["info"],
        ["info", "ftp://host/a.npy"],
        ["info", "http:///a.npy"],
        ["info", "s3://bucket"],
        ["info", "http://host/a.npy", "a=1"],
        ["info", "lab.recording"],
        ["info", "recording", "recording_id=1"],
        ["info", "no_such_schema.recording", "recording_id=1"],
    ],
)
def test_wrong_arguments_exit_with_2(
    arguments: list[str], postgresql: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _cli.main(arguments) == 2
    output, error = capsys.readouterr()
    assert not output
    assert error.splitlines()[-1].startswith("dj-npy")


def test_a_folder_that_cannot_be_used_exits_with_1_and_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    result = command("quickstart", str(tmp_path / "file"))
    assert result.returncode == 1
    assert result.stderr.startswith("dj-npy: PostgreSQL did not start in")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("name", [None, *(each.name for each in _cli.COMMANDS)])
def test_help_has_examples_and_exit_codes(
    name: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _cli.main(["--help"] if name is None else [name, "--help"]) == 0
    output = capsys.readouterr().out
    assert "exit codes:\n  0 " in output
    for each in _cli.COMMANDS:
        if name in (None, each.name):
            assert f"examples:\n  dj-npy {name or _cli.COMMANDS[0].name}" in output
            assert each.examples.splitlines()[0] in output


# info


def test_info_of_a_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _cli.main(["info", str(file)]) == 0
    assert facts(capsys.readouterr().out) == {
        "where": str(file),
        "header": "shape (1000, 32), dtype float64, C order, data from byte 128, version 1.0",
        "file": "250 KiB (256,128 bytes)",
        "agree": "header and size",
    }


def test_info_of_a_file_that_is_cut_short(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.truncate(file, 5000)
    assert _cli.main(["info", str(file)]) == 1
    told = facts(capsys.readouterr().out)
    assert told["file"] == "4.88 KiB (5,000 bytes)"
    assert "expected 256128 bytes, found 5000" in told["wrong"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "there is no file"),
        (Path.mkdir, "is not a file"),
        (os.mkfifo, "is not a file"),
    ],
)
def test_what_is_no_file_is_one_line(
    make: Callable[[Path], Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "x.npy")
    assert _cli.main(["info", str(tmp_path / "x.npy")]) == 1
    output, error = capsys.readouterr()
    assert not output
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((), ">f4"),
        np.zeros((0, 3), "i8"),
        np.zeros((3, 4), order="F"),
        np.zeros(3, [("größe", "M8[us]"), ("y", "f4", (2,))]),
        np.zeros(3, [(f"field_{i}", "f8") for i in range(200)]),
    ],
    ids=lambda array: str(array.dtype)[:20],
)
def test_json_of_any_file(array: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "a.npy").open("wb") as file:
        version = (3, 0) if array.dtype.names and "größe" in array.dtype.names else None
        np.lib.format.write_array(file, array, version)
    assert _cli.main(["info", "--json", str(tmp_path / "a.npy")]) == 0
    [line] = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert found["problem"] is None
    assert tuple(found["header"]["shape"]) == array.shape
    assert dj_npy._format.npyfile.dtype_from_json(found["header"]["dtype"]) == array.dtype
    assert found["header"]["fortran_order"] is (array.flags.fnc and array.ndim > 1)
    assert found["file_nbytes"] == (tmp_path / "a.npy").stat().st_size


def test_what_a_terminal_would_obey_is_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "\x1b[31mred\n.npy"
    path.write_bytes(b"")
    assert _cli.main(["info", str(path)]) == 1
    output = capsys.readouterr().out
    assert "\x1b" not in output
    assert "\\x1b[31mred\\n.npy" in output


@pytest.mark.parametrize("database", DATABASES, indirect=True)
def test_info_of_a_row(database: Any, recording: Any, store: Path) -> None:
    recording.insert1({"recording_id": 7, "waveform": np.zeros((1000, 32))})
    schema = recording.database
    result = command("info", f"{schema}.Recording", "recording_id=7", env=environment(database))
    assert result.stderr == ""
    assert result.returncode == 0
    assert result.stdout.startswith(f"{schema}.recording recording_id=7 waveform\n")
    told = facts(result.stdout)
    path = f"{schema}/recording/recording_id=7/waveform.npy"
    assert json.loads(told.pop("row"))["path"] == path
    assert told == {
        "path": path,
        "store": "main",
        "where": str(store / path),
        "header": "shape (1000, 32), dtype float64, C order, data from byte 128, version 1.0",
        "file": "250 KiB (256,128 bytes)",
        "agree": "row, header and size (the data were not read)",
    }


DEFINITION = """
subject : varchar(20)
session : int32
---
waveform : <npy@>
spectrum = null : <npy@archive>
note : <blob@archive>
"""


@pytest.fixture
def sessions(table: Any) -> Any:
    made = table(DEFINITION, "Session", dj.Imported)
    made.insert(
        [
            {
                "subject": subject,
                "session": session,
                "waveform": np.zeros(session),
                "spectrum": None if session == 1 else np.ones((2, session), order="F"),
                "note": {"any": "thing"},
            }
            for subject in ("M'12", "M\\13")
            for session in (1, 2)
        ],
        allow_direct_insert=True,
    )
    return made


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[Any], str]:
    code = _cli.main(["info", "--json", *arguments])
    output, error = capsys.readouterr()
    return code, [json.loads(line) for line in output.splitlines()], error


@pytest.mark.parametrize("name", ["Session", "session", "_session"])
def test_a_part_of_a_key_gives_each_array_of_each_row(
    name: str, sessions: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found, error = told(capsys, f"{sessions.database}.{name}", "subject=M'12")
    assert (code, error) == (0, "")
    assert [(each["key"]["session"], each["attribute"]) for each in found] == [
        (1, "waveform"),
        (1, "spectrum"),
        (2, "waveform"),
        (2, "spectrum"),
    ]
    assert found[1]["row"] is None
    assert found[3]["header"]["fortran_order"] is True
    assert found[3]["store"] == "archive"


def test_a_part_table_is_found_by_its_name_in_python(
    schema: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    class Trial(dj.Part):
        definition = "-> master\ntrial : int32\n---\nwaveform : <npy@>"

    session = schema(
        type("Session", (dj.Manual,), {"definition": "session : int32", "Trial": Trial})
    )
    session.insert1({"session": 1})
    session.Trial.insert1({"session": 1, "trial": 2, "waveform": np.zeros(3)})
    code, [found], _ = told(capsys, f"{session.database}.Session.Trial", "trial=2")
    assert code == 0
    assert found["key"] == {"session": 1, "trial": 2}


@pytest.mark.parametrize(
    ("key", "code", "said"),
    [
        ("subject=nobody", 1, "has no row with subject=nobody"),
        ("session=1x", 2, "session of"),
        ("session", 2, "NAME=VALUE with an attribute of the key"),
        ("note=1", 2, "subject, session"),
        ("session=1 OR 1=1", 2, "is a number, not '1 OR 1=1'"),
        ("session=NaN", 1, ""),
        ("session=1.5", 1, ""),
        ("subject=' OR '1'='1", 1, "has no row"),
    ],
)
def test_a_key_that_is_none_is_one_line(
    key: str, code: int, said: str, sessions: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    found_code, found, error = told(capsys, f"{sessions.database}.Session", key)
    assert (found_code, found) == (code, [])
    assert said in error
    assert error.count("\n") == 1
    assert error.startswith("dj-npy: ")
    assert dj.conn().query("SELECT 1").fetchone()[0] == 1  # the connection can still be used


def test_a_table_that_is_not_there_names_those_that_are(
    sessions: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = told(capsys, f"{sessions.database}.Sesion", "session=1")
    assert code == 2
    assert "there are: Session" in error


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (Path.unlink, "there is no such file"),
        (lambda path: os.truncate(path, 130), "expected"),
        (lambda path: np.save(path, np.zeros(5)), "another array than the row says"),
        (lambda path: path.write_bytes(b"not"), "not a .npy file"),
    ],
)
def test_a_file_that_is_not_what_its_row_says_exits_with_1(
    harm: Callable[[Path], Any],
    said: str,
    sessions: Any,
    store: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = f"{sessions.database}.Session"
    _, [first, *_], _ = told(capsys, table, "subject=M'12")
    harm(Path(first["where"]))
    code, found, error = told(capsys, table, "subject=M'12")
    assert (code, error, len(found)) == (1, "", 4)
    assert said in found[0]["problem"]
    assert all(each["problem"] is None for each in found[1:])


def test_a_row_of_anything_and_a_store_that_is_gone_are_told(
    sessions: Any, postgresql: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (
        '{"path": "../x", "store": "main", "shape": [1], "dtype": "f8"}',
        '{"store": "gone"}',
        "3",
    )
    for number, row in enumerate(rows):
        dj.conn().query(
            f"UPDATE {sessions.full_table_name} SET waveform = %s WHERE session = 1 "
            f"AND subject {'=' if number else '<>'} %s",
            (row, "M'12"),
        )
        code, [found, *_], _ = told(capsys, f"{sessions.database}.Session", "session=1")
        assert code == 1
        assert found["row"] == (json.loads(row) if number else found["row"])
    assert "no valid path" in found["problem"]


# URLs and S3


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Python's own server, which knows no ranges."""

    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """Whoever wants the header only leaves before the whole file is sent."""

    handler = partial(Silent, directory=str(folder))
    with Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_info_of_a_url_of_a_server_without_ranges(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(file.parent) as url:
        code, [found], error = told(capsys, f"{url}/waveform.npy?key={SECRET}")
        missing = told(capsys, f"http://me:{SECRET}@{url[7:]}/gone.npy?key={SECRET}")
    assert (code, error) == (0, "")
    assert found["where"] == f"{url}/waveform.npy"
    assert found["file_nbytes"] == 256_128
    assert missing[0] == 1
    assert f"there is no file at {url}/gone.npy" in missing[2]
    assert SECRET not in missing[2]


def test_info_of_a_signed_url_and_of_its_object(
    moto: str, file: Path, stores: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = servers.S3Raw(moto, "deep/location")
    raw.put("ä b/waveform.npy", file.read_bytes())
    key = "deep/location/ä b/waveform.npy"
    url = servers.s3_client(moto).generate_presigned_url(
        "get_object", {"Bucket": servers.BUCKET, "Key": key}
    )
    code, [found], _ = told(capsys, url)
    assert (code, found["file_nbytes"]) == (0, 256_128)
    assert "?" not in found["where"]
    # With the credentials of the configured store that has the bucket.
    dj.config.stores = {**stores, "far": servers.s3_settings(moto)}
    code, [found], error = told(capsys, f"s3://{servers.BUCKET}/{key}")
    assert (code, error, found["header"]["shape"]) == (0, "", [1000, 32])
    code, _, error = told(capsys, f"s3://{servers.BUCKET}/gone.npy")
    assert code == 1
    assert "no such object" in error


def test_info_on_s3_with_the_credentials_of_the_environment(moto: str, file: Path) -> None:
    servers.S3Raw(moto, "plain").put("waveform.npy", file.read_bytes())
    env = environment(
        AWS_ENDPOINT_URL=moto,
        AWS_ACCESS_KEY_ID=servers.ACCESS_KEY,
        AWS_SECRET_ACCESS_KEY=servers.SECRET_KEY,
        AWS_REGION="us-east-1",
    )
    result = command("info", f"s3://{servers.BUCKET}/plain/waveform.npy", env=env)
    assert (result.returncode, result.stderr) == (0, "")
    assert "shape (1000, 32)" in result.stdout


@pytest.mark.parametrize("way", ["store", "environment"])
def test_info_on_s3_in_thread_safe_mode(moto: str, file: Path, way: str) -> None:
    servers.S3Raw(moto, "plain").put("waveform.npy", file.read_bytes())
    env = environment(DJ_THREAD_SAFE="true", AWS_REGION="us-east-1")
    env.pop("DJ_IGNORE_CONFIG_FILE", None)
    if way == "store":
        env["DJ_STORES"] = json.dumps({"far": servers.s3_settings(moto)})
    else:
        env["AWS_ENDPOINT_URL"], env["AWS_ACCESS_KEY_ID"] = moto, servers.ACCESS_KEY
        env["AWS_SECRET_ACCESS_KEY"] = servers.SECRET_KEY
    result = command("info", f"s3://{servers.BUCKET}/plain/waveform.npy", env=env)
    assert (result.returncode, result.stderr) == (0, "")
    assert "shape (1000, 32)" in result.stdout


def test_info_of_a_row_on_s3_says_where_it_is(
    moto: str, schema: Any, table: Any, stores: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    dj.config.stores = {**stores, "far": servers.s3_settings(moto)}
    far = table("recording_id : int32\n---\nwaveform : <npy@far>")
    far.insert1({"recording_id": 1, "waveform": np.zeros(3)})
    code, [found], error = told(capsys, f"{far.database}.recording", "recording_id=1")
    assert (code, error) == (0, "")
    host = moto.removeprefix("http://")
    assert found["where"] == f"s3://{host}/{servers.BUCKET}/deep/location/{found['path']}"
    assert servers.SECRET_KEY not in json.dumps(found)


def test_a_server_that_ends_the_connection_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=lambda: listener.accept()[0].close()).start()
        port = listener.getsockname()[1]
        code, _, error = told(capsys, f"http://me:{SECRET}@127.0.0.1:{port}/a.npy?key={SECRET}")
    assert code == 1
    assert error.startswith(f"dj-npy: could not read http://127.0.0.1:{port}/a.npy (")
    assert error.count("\n") == 1
    assert SECRET not in error


# The process


def test_a_database_that_cannot_be_reached_is_one_line_without_the_password() -> None:
    port = str(servers.free_port())
    env = environment(DJ_HOST="127.0.0.1", DJ_PORT=port, DJ_USER="me", DJ_PASS=SECRET)
    result = command("info", "lab.recording", "recording_id=1", env=env)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("dj-npy: the database could not be asked")
    assert result.stderr.count("\n") == 1
    assert SECRET not in result.stderr


@pytest.mark.parametrize(
    ("variable", "said"), [("DJ_STORES", "DJ_STORES contains invalid"), ("DJ_PORT", "DJ_PORT: ")]
)
def test_a_variable_that_is_not_valid_is_one_line(variable: str, said: str) -> None:
    result = command("--version", env=environment(**{variable: f"{{{SECRET}"}))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"dj-npy: the configuration is not valid: {said}")
    assert result.stderr.count("\n") == 1
    assert SECRET not in result.stderr


@pytest.mark.parametrize("no_color", [False, True])
def test_colours_are_for_terminals(no_color: bool, file: Path) -> None:
    ours, theirs = pty.openpty()
    env = {**environment(TERM="xterm"), **({"NO_COLOR": "1"} if no_color else {})}
    with subprocess.Popen([COMMAND, "info", str(file)], stdout=theirs, env=env, cwd="/"):
        os.close(theirs)
        output = b""
        while True:
            try:
                some = os.read(ours, 4096)
            except OSError:  # Linux's end of file
                break
            if not some:
                break
            output += some
    os.close(ours)
    assert b"header and size" in output
    assert (b"\x1b[32m" in output) is not no_color


def test_no_colours_into_a_file(tmp_path: Path) -> None:
    with (tmp_path / "output").open("w") as stream:
        assert Paint(stream).bad("x") == "x"


def test_a_reader_that_has_gone_is_nothing_to_talk_about(file: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        result = subprocess.run(
            [COMMAND, "info", str(file)],
            stdout=writing,
            stderr=subprocess.PIPE,
            env=environment(),
            check=False,
            cwd="/",
        )
    finally:
        os.close(writing)
    assert (result.returncode, result.stderr) == (141, b"")


def test_a_full_disk_is_one_line(file: Path) -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [COMMAND, "info", str(file)],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(),
            check=False,
            cwd="/",
        )
    assert result.returncode == 1
    assert result.stderr.startswith(b"dj-npy: ")
    assert result.stderr.count(b"\n") == 1


def test_ctrl_c_is_silent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/a.npy"
        with subprocess.Popen(
            [COMMAND, "info", url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            cwd="/",
        ) as process:
            connection, _ = listener.accept()
            connection.recv(1)
            process.send_signal(signal.SIGINT)
            output, error = process.communicate(timeout=30)
            connection.close()
    assert (process.returncode, output, error) == (130, b"", b"")
