"""Uploading to a real S3 server."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.store.local_store import Store, store

from azaion_api.training_run import S3Target
from azaion_trainer.targets import Access, Bucket, Upload, UploadError

pytestmark = pytest.mark.slow

#: Larger than one part of a multipart upload.
LARGE = hashlib.shake_128(b"weights").digest(20 << 20)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store(tmp_path_factory.mktemp("store"), "models") as found:
        yield found


def upload(
    tmp_path: Path, content: bytes, name: str = "azaion.onnx.big", directory: str = "azaion-2026-11-23"
) -> Upload:
    path = tmp_path / name
    path.write_bytes(content)
    return Upload(path, name, directory, hashlib.sha256(content).hexdigest())


def bucket(running: Store, **changes: Any) -> Bucket:
    access = {"endpoint": running.endpoint, "bucket": "models", "key_id": running.key_id, "secret": running.secret}
    target = msgspec.convert({"prefix": changes.pop("prefix", "edge/v1")}, S3Target)
    return Bucket(target, Access(**(access | changes)))


@pytest.mark.parametrize("content", [b"", b"x", LARGE], ids=["empty", "one byte", "many parts"])
def test_a_file_arrives_whole(running: Store, tmp_path: Path, content: bytes) -> None:
    where = bucket(running).put(upload(tmp_path, content))
    assert where == "s3://models/edge/v1/azaion-2026-11-23/azaion.onnx.big"
    there = running.directory / "models" / "edge" / "v1" / "azaion-2026-11-23" / "azaion.onnx.big"
    assert there.read_bytes() == content


def test_doing_it_again_replaces_the_file(running: Store, tmp_path: Path) -> None:
    for content in (b"the one before", b"the new one", b"the new one"):
        bucket(running, prefix="").put(upload(tmp_path, content, directory=""))
    assert (running.directory / "models" / "azaion.onnx.big").read_bytes() == b"the new one"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"secret": "another-secret"}, "the store refuses"),
        ({"key_id": "nobody"}, "the store refuses"),
        ({"bucket": "not-there"}, "the store refuses|NoSuchBucket"),
        ({"endpoint": "http://127.0.0.1:1"}, "Could not connect"),
    ],
)
def test_what_the_store_says_is_said_without_the_keys(
    running: Store, tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(UploadError, match=message) as refused:
        bucket(running, **changes).put(upload(tmp_path, b"x"))
    assert running.secret not in str(refused.value)
    assert "another-secret" not in str(refused.value)
