"""Datasets of objects in S3, with the real boto3 against a server that speaks S3's words on this machine."""

from __future__ import annotations

import hashlib
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from verta_local import Client
from verta_local.dataset import S3, S3Location
from verta_local.errors import MissingExtra

MODIFIED = "2026-01-02T03:04:05.000Z"
MODIFIED_HTTP = "Fri, 02 Jan 2026 03:04:05 GMT"
MODIFIED_MS = 1767323045000


class Bucket(ThreadingHTTPServer):
    """A bucket `data` that keeps versions: key -> bytes of its versions, the newest last."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, list[bytes]] = {}

    def put(self, key: str, data: bytes) -> None:
        self.objects.setdefault(key, []).append(data)


class Handler(BaseHTTPRequestHandler):
    """The three calls of S3 that are needed: a listing with versions, an object's head, an object."""

    protocol_version = "HTTP/1.1"
    server: Bucket

    def do_GET(self) -> None:
        parts = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
        bucket, _, key = urllib.parse.unquote(parts.path).lstrip("/").partition("/")
        if bucket != "data":
            self._answer(404, b"<Error><Code>NoSuchBucket</Code><Message>no</Message></Error>")
        elif "versions" in query:
            self._answer(200, self._listing(query.get("prefix", "")))
        else:
            self._object(key, query.get("versionId"))

    do_HEAD = do_GET

    def _listing(self, prefix: str) -> bytes:
        found = "".join(
            f"<Version><Key>{key}</Key><VersionId>v{number}</VersionId><IsLatest>{str(data is versions[-1]).lower()}"
            f"</IsLatest><LastModified>{MODIFIED}</LastModified><ETag>&quot;{hashlib.md5(data).hexdigest()}&quot;</ETag>"
            f"<Size>{len(data)}</Size><StorageClass>STANDARD</StorageClass></Version>"
            for key, versions in sorted(self.server.objects.items())
            for number, data in enumerate(versions, 1)
            if key.startswith(prefix)
        )
        return f"<ListVersionsResult><IsTruncated>false</IsTruncated>{found}</ListVersionsResult>".encode()

    def _object(self, key: str, version: str | None) -> None:
        versions = self.server.objects.get(key)
        if not versions:
            self._answer(404, b"<Error><Code>NoSuchKey</Code><Message>no</Message></Error>")
            return
        number = int(version[1:]) if version else len(versions)
        data = versions[number - 1]
        etag = f'"{hashlib.md5(data).hexdigest()}"'
        self._answer(200, data, {"ETag": etag, "Last-Modified": MODIFIED_HTTP, "x-amz-version-id": f"v{number}"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Says nothing."""


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    pytest.importorskip("boto3")
    with Bucket() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        yield server
        server.shutdown()
        thread.join()


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


def test_objects_are_listed_by_bucket_prefix_key_and_version(bucket: Bucket) -> None:
    bucket.put("census/train.csv", b"1,2\n")
    bucket.put("census/train.csv", b"1,2,3\n")
    bucket.put("census/deep/test.csv", b"4\n")
    bucket.put("other.txt", b"x")
    assert S3("s3://data").list_paths() == [
        "s3://data/census/deep/test.csv",
        "s3://data/census/train.csv",
        "s3://data/other.txt",
    ]
    content = S3("s3://data/census/")
    assert content.list_paths() == ["s3://data/census/deep/test.csv", "s3://data/census/train.csv"]
    component = content.list_components()[1]
    assert (component.size, component.last_modified) == (6, MODIFIED_MS)
    assert (component.md5, component.s3_version_id) == (hashlib.md5(b"1,2,3\n").hexdigest(), "v2")
    assert (component.s3_bucket, component.s3_key) == ("data", "census/train.csv")
    (one,) = S3("s3://data/census/train.csv").list_components()
    assert one == component
    (old,) = S3(S3.location("s3://data/census/train.csv", version_id="v1")).list_components()
    assert (old.size, old.s3_version_id) == (4, "v1")
    both = S3(["s3://data/other.txt", S3Location("s3://data/census/deep/")])
    assert len(both.list_paths()) == 2


def test_managed_objects_come_back_from_the_store(
    bucket: Bucket, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put("census/train.csv", b"old\n")
    bucket.put("census/train.csv", b"new\n")
    bucket.put("census/empty", b"")
    content = S3(
        [S3.location("s3://data/census/train.csv", "v1"), "s3://data/census/empty"], enable_mdb_versioning=True
    )
    version = client.set_dataset("census", type="s3").create_version(content)
    bucket.objects.clear()
    assert version.get_content() == content
    monkeypatch.chdir(tmp_path)
    assert Path(version.download_content("s3://data/census/train.csv")).read_bytes() == b"old\n"
    folder = Path(version.download_content("s3://data/census", "all"))
    assert sorted((path.name, path.read_bytes()) for path in folder.iterdir()) == [
        ("empty", b""),
        ("train.csv", b"old\n"),
    ]
    assert (Path(version.download_content()) / "data" / "census" / "train.csv").is_file()


def test_an_object_that_changed_since_it_was_listed_makes_no_version(bucket: Bucket, client: Client) -> None:
    bucket.put("a", b"one")
    content = S3("s3://data/a", enable_mdb_versioning=True)
    bucket.objects["a"] = [b"two"]
    dataset = client.set_dataset("d")
    with pytest.raises(ValueError, match="changed since"):
        dataset.create_version(content)
    assert len(dataset.versions) == 0


def test_first_clients_name_a_bucket_and_a_key(bucket: Bucket, client: Client) -> None:
    bucket.put("census/train.csv", b"1")
    dataset = client.set_dataset("d", type="s3")
    for arguments in ({}, {"key": "census/train.csv"}, {"key_prefix": "census"}):
        version = dataset.create_version(bucket_name="data", **arguments)
        assert version.get_content().list_paths() == ["s3://data/census/train.csv"]


@pytest.mark.parametrize("path", ["s3://data/absent", "s3://data/absent/"])
def test_nothing_there_is_said(bucket: Bucket, path: str) -> None:
    with pytest.raises(ValueError, match="absent"):
        S3(path)


@pytest.mark.parametrize(
    ("path", "error"), [("data/x", ValueError), ("s3://", ValueError), (3, TypeError), ([None], TypeError)]
)
def test_paths_are_those_of_s3(path: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        S3(path)
    with pytest.raises(ValueError, match="one object"):
        S3.location("s3://data", version_id="v1")


def test_without_boto3_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "boto3", None)
    with pytest.raises(MissingExtra, match=r"pip install verta_local\[s3\]"):
        S3("s3://data/x")
