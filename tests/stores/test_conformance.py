"""Every backend on every server keeps the one contract."""

from pathlib import Path
from typing import Any

import fsspec
import pytest

from dj_npy._stores import Store
from dj_npy._stores.fsspec import GenericStore
from dj_npy._stores.obstore.store import CloudStore
from tests.support.conformance import IN_PARTS, Conformance
from tests.support.references import store_of
from tests.support.servers import BUCKET, AzureRaw, FolderRaw, FsspecRaw, Raw, S3Raw, s3_settings


class TestLocal(Conformance):
    @pytest.fixture
    def raw(self, store: Path) -> Raw:
        return FolderRaw(store)

    @pytest.fixture
    def opened(self, store: Path) -> Store:
        return store_of({"protocol": "file", "location": str(store)})


class ObjectStore(Conformance):
    """By obstore, of the `settings` that a subclass brings; or by what `kind` says."""

    kind: type[Store] = CloudStore

    @pytest.fixture
    def opened(self, settings: dict[str, Any]) -> Store:
        store = store_of(settings)
        assert isinstance(store, self.kind)
        return store


@pytest.mark.usefixtures("as_if_forked")
class ThroughFsspec:
    kind: type[Store] = GenericStore
    reserves = False


class S3(ObjectStore):
    """On the server at the `url` that a subclass brings."""

    @pytest.fixture
    def settings(self, url: str, location: str) -> dict[str, Any]:
        return s3_settings(url, location=location)

    @pytest.fixture
    def raw(self, url: str, location: str) -> Raw:
        return S3Raw(url, location)


class TestS3ByMoto(S3):
    @pytest.fixture
    def url(self, moto: str) -> str:
        return moto

    @pytest.mark.usefixtures("parts_from_16_mib")
    def test_nothing_of_a_failed_upload_is_left(self, opened: Store, raw: S3Raw) -> None:
        self.test_what_fails_on_the_way_leaves_nothing(opened, raw, IN_PARTS)
        assert raw.uploads() == []


class TestS3ByMotoThroughFsspec(ThroughFsspec, TestS3ByMoto):
    pass


class TestS3ByRclone(S3):
    creates_exclusively = False

    @pytest.fixture
    def url(self, rclone: str) -> str:
        return rclone


class TestS3ByRcloneThroughFsspec(ThroughFsspec, TestS3ByRclone):
    pass


class TestS3BySeaweedFS(S3):
    @pytest.fixture
    def url(self, seaweedfs: str) -> str:
        return seaweedfs


class TestS3BySeaweedFSThroughFsspec(ThroughFsspec, TestS3BySeaweedFS):
    pass


@pytest.mark.slow
def test_a_real_server_takes_more_than_64_mib(seaweedfs: str, location: str) -> None:
    """And not only what `parts_from_16_mib` takes for as much."""
    opened = store_of(s3_settings(seaweedfs, location=location))
    Conformance().a_file_comes_back(opened, S3Raw(seaweedfs, location), 70 << 20)


class TestAzure(ObjectStore):
    @pytest.fixture
    def settings(self, azurite: str, location: str) -> dict[str, Any]:
        return {
            "protocol": "azure",
            "container": BUCKET,
            "location": location,
            "connection_string": azurite,
        }

    @pytest.fixture
    def raw(self, azurite: str, location: str) -> Raw:
        return AzureRaw(azurite, location)


class TestAzureThroughFsspec(ThroughFsspec, TestAzure):
    pass


class TestGCSThroughFsspec(ObjectStore):
    kind = GenericStore
    reserves = False

    @pytest.fixture
    def settings(
        self, fake_gcs: str, location: str, monkeypatch: pytest.MonkeyPatch
    ) -> dict[str, Any]:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", fake_gcs)
        return {
            "protocol": "gcs",
            "bucket": BUCKET,
            "location": location,
            "token": "anon",
            "project": "test",
        }

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
