"""Every backend on every server keeps the one contract."""

import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest

from dj_npy._stores import Store, open_store, opening
from dj_npy._stores.fsspec import GenericStore
from dj_npy._stores.obstore.store import CloudStore
from tests.support.conformance import Conformance
from tests.support.servers import BUCKET, AzureRaw, FolderRaw, FsspecRaw, Raw, S3Raw, s3_settings


def store_of(settings: dict[str, Any]) -> Store:
    """The store of these settings, opened anew."""
    stores: dict[str, Any] = {"default": "main", "main": settings}
    config = SimpleNamespace(stores=stores, get_store_spec=lambda name: dict(stores[name]))
    opening._open_stores.clear()
    opening._recent.clear()
    return open_store(config, "main")


@pytest.fixture
def location() -> str:
    """A part of a bucket that no other test uses."""
    return f"test/{uuid.uuid4().hex}"


@pytest.fixture
def as_if_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_forked", True)


class TestLocal(Conformance):
    @pytest.fixture
    def raw(self, store: Path) -> Raw:
        return FolderRaw(store)

    @pytest.fixture
    def opened(self, store: Path) -> Store:
        return store_of({"protocol": "file", "location": str(store)})


class TestS3ByMoto(Conformance):
    @pytest.fixture
    def raw(self, moto: str, location: str) -> Raw:
        return S3Raw(moto, location)

    @pytest.fixture
    def opened(self, moto: str, location: str) -> Store:
        store = store_of(s3_settings(moto, location=location))
        assert isinstance(store, CloudStore)
        return store

    def test_nothing_of_a_failed_upload_is_left(self, opened: Store, raw: S3Raw) -> None:
        self.test_what_fails_on_the_way_leaves_nothing(opened, raw, 70 << 20)
        assert raw.uploads() == []


@pytest.mark.usefixtures("as_if_forked")
class TestS3ByMotoThroughFsspec(TestS3ByMoto):
    reserves = False

    @pytest.fixture
    def opened(self, moto: str, location: str) -> Store:
        store = store_of(s3_settings(moto, location=location))
        assert isinstance(store, GenericStore)
        return store


class TestS3ByRclone(Conformance):
    creates_exclusively = False

    @pytest.fixture
    def raw(self, rclone: str, location: str) -> Raw:
        return S3Raw(rclone, location)

    @pytest.fixture
    def opened(self, rclone: str, location: str) -> Store:
        store = store_of(s3_settings(rclone, location=location))
        assert isinstance(store, CloudStore)
        return store


@pytest.mark.usefixtures("as_if_forked")
class TestS3ByRcloneThroughFsspec(TestS3ByRclone):
    reserves = False

    @pytest.fixture
    def opened(self, rclone: str, location: str) -> Store:
        store = store_of(s3_settings(rclone, location=location))
        assert isinstance(store, GenericStore)
        return store


class TestS3BySeaweedFS(Conformance):
    @pytest.fixture
    def raw(self, seaweedfs: str, location: str) -> Raw:
        return S3Raw(seaweedfs, location)

    @pytest.fixture
    def opened(self, seaweedfs: str, location: str) -> Store:
        store = store_of(s3_settings(seaweedfs, location=location))
        assert isinstance(store, CloudStore)
        return store


@pytest.mark.usefixtures("as_if_forked")
class TestS3BySeaweedFSThroughFsspec(TestS3BySeaweedFS):
    reserves = False

    @pytest.fixture
    def opened(self, seaweedfs: str, location: str) -> Store:
        store = store_of(s3_settings(seaweedfs, location=location))
        assert isinstance(store, GenericStore)
        return store


class TestAzure(Conformance):
    @pytest.fixture
    def raw(self, azurite: str, location: str) -> Raw:
        return AzureRaw(azurite, location)

    @pytest.fixture
    def opened(self, azurite: str, location: str) -> Store:
        store = store_of(
            {
                "protocol": "azure",
                "container": BUCKET,
                "location": location,
                "connection_string": azurite,
            }
        )
        assert isinstance(store, CloudStore)
        return store


@pytest.mark.usefixtures("as_if_forked")
class TestAzureThroughFsspec(TestAzure):
    reserves = False

    @pytest.fixture
    def opened(self, azurite: str, location: str) -> Store:
        store = store_of(
            {
                "protocol": "azure",
                "container": BUCKET,
                "location": location,
                "connection_string": azurite,
            }
        )
        assert isinstance(store, GenericStore)
        return store


class TestGCSThroughFsspec(Conformance):
    reserves = False

    @pytest.fixture
    def opened(self, fake_gcs: str, location: str, monkeypatch: pytest.MonkeyPatch) -> Store:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", fake_gcs)
        store = store_of(
            {
                "protocol": "gcs",
                "bucket": BUCKET,
                "location": location,
                "token": "anon",
                "project": "test",
            }
        )
        assert isinstance(store, GenericStore)
        return store

    @pytest.fixture
    def raw(self, opened: GenericStore, location: str) -> Raw:
        import gcsfs

        filesystem = gcsfs.GCSFileSystem(token="anon", project="test", skip_instance_cache=True)
        return FsspecRaw(filesystem, f"{BUCKET}/{location}")


class TestMemoryThroughFsspec(Conformance):
    creates_exclusively = False
    reserves = False

    @pytest.fixture
    def raw(self, location: str) -> Raw:
        return FsspecRaw(fsspec.filesystem("memory"), f"/{location}")

    @pytest.fixture
    def opened(self, location: str) -> Store:
        return GenericStore(
            "main", fsspec.filesystem("memory"), f"/{location}/".__add__, f"memory://{location}"
        )
