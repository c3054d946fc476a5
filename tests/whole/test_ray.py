"""Ray: references as arguments, in its object store, in actors and in rows."""

import json
import sys
import uuid
from pathlib import Path

import pytest

from tests.conftest import run
from tests.support.references import configured
from tests.support.servers import SECRET_KEY, s3_settings

pytestmark = pytest.mark.slow


def test_workers_of_ray_read_what_they_are_configured_for(
    seaweedfs: str, location: str, tmp_path: Path, session_folder: Path
) -> None:
    settings = s3_settings(seaweedfs, location=location)
    stores = {"default": "main", "main": settings, "archive": settings}
    own = session_folder / "ray"  # a short path: of its sockets
    environment = {
        **configured("files", settings, tmp_path),
        "RAY_AUTH_TOKEN": uuid.uuid4().hex,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_memory_monitor_refresh_ms": "0",  # what else runs here is no reason to end a worker
    }
    command = [sys.executable, "-m", "tests.support.on_ray", json.dumps(stores), str(own)]
    done = run(command, cwd=tmp_path, env=environment, timeout=240)
    said = json.loads(done.stdout.splitlines()[-1])
    assert "store 'archive' is configured with `access_key` and `secret_key`" in said
    assert said.endswith("or by dj.config.stores['archive'] = {...}")
    assert SECRET_KEY not in done.stderr + said
    written = [path for path in own.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any(path.name.startswith("raylet") for path in written)
    for path in written:
        assert SECRET_KEY.encode() not in path.read_bytes(), path
