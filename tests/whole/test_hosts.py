"""A Dask cluster of two hosts, and the store on a third."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import run
from tests.support.hosts import PREFIX, Host, hosts
from tests.support.references import configured
from tests.support.servers import SECRET_KEY, s3_settings

pytestmark = pytest.mark.slow


@pytest.fixture
def three() -> Iterator[list[Host]]:
    with hosts("first", "second", "third") as found:
        yield found


def test_workers_on_two_hosts_read_from_a_store_on_a_third(
    three: list[Host], tmp_path: Path
) -> None:
    first, second, third = three
    scheduler = f"tcp://{first.address}:8786"
    plain = configured("environment", {}, tmp_path)
    quiet = ["--no-dashboard", "--host"]
    with ExitStack() as running:
        program = [
            sys.executable,
            "-m",
            "tests.support.hosts",
            str(tmp_path / "weed"),
            third.address,
        ]
        store = running.enter_context(third.runs(program, env=plain))
        command = [sys.executable, "-m", "distributed.cli.dask_scheduler", *quiet, first.address]
        running.enter_context(first.runs(command, env=plain))
        assert store.stdout
        settings = s3_settings(store.stdout.readline().strip())
        for host, way in ((first, "environment"), (second, "files")):
            folder = tmp_path / host.name
            folder.mkdir()
            command = [sys.executable, "-m", "distributed.cli.dask_worker", scheduler]
            command += [*quiet, host.address, "--no-nanny", "--nthreads", "1"]
            environment = configured(way, settings, folder)
            running.enter_context(host.runs(command, env=environment, cwd=folder))
        stores = {"default": "main", "main": settings, "archive": settings}
        program = [sys.executable, "-m", "tests.support.on_dask", scheduler, json.dumps(stores)]
        client = running.enter_context(first.runs(program, env=plain))
        out, errors = client.communicate(timeout=240)
        assert client.returncode == 0, errors
        read, _ = store.communicate(timeout=60)
    used_on, said = json.loads(out)
    assert used_on == ["first", "second"]
    assert set(said) == {"first", "second"}
    for host, text in said.items():
        assert "store 'archive' is configured with `access_key` and `secret_key`" in text
        assert f"on {host!r} no store is called 'archive'" in text
        assert SECRET_KEY not in text
    by_address = json.loads(read)
    assert set(by_address) == {first.address, second.address}
    for paths in by_address.values():
        numbers = {int(path.partition("=")[2]) for path in paths}
        assert any(n < 8 for n in numbers), "of those that were handed to tasks"
        assert any(8 <= n < 16 for n in numbers), "of those of the Dask array"


def test_nothing_of_the_hosts_is_left_when_a_test_fails() -> None:
    processes = []

    def fail() -> None:
        with hosts("only") as [host], host.runs(["sleep", "1000"]) as process:
            assert host.namespace in os.listdir("/run/netns")
            processes.append(process)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert processes[0].returncode is not None
    assert not [name for name in os.listdir("/run/netns") if f"-{os.getpid()}-" in name]


def test_what_a_killed_run_has_left_is_removed() -> None:
    with hosts("first"), subprocess.Popen(["true"]) as dead:
        pass
    of_the_dead = f"{PREFIX}{dead.pid}-first"
    run(["ip", "netns", "add", of_the_dead])
    with hosts("first"):
        assert of_the_dead not in os.listdir("/run/netns")
