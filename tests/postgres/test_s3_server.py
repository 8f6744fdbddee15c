"""The S3 server that all tests of backups stand on really does what they rely on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from dev import s3

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dev.s3 import S3Server

BUCKET = "backups"
# Servers are killed and frozen under boto3's clients here; a connection that dies in use may be closed by the garbage
# collector, during whichever test comes next. What the product opens is held to the rule everywhere else.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
)
PART = 5 * 1024 * 1024


@pytest.fixture(scope="module", params=[False, True], ids=["http", "https"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3.temporary(tmp_path_factory.mktemp("s3"), tls=request.param) as running:
        running.make_bucket(BUCKET, versioning=True)
        yield running


def _refused(error: pytest.ExceptionInfo[ClientError]) -> int:
    return int(error.value.response["ResponseMetadata"]["HTTPStatusCode"])


def test_put_is_refused_when_the_object_exists(server: S3Server) -> None:
    client = server.client()
    client.put_object(Bucket=BUCKET, Key="once", Body=b"first", IfNoneMatch="*")
    with pytest.raises(ClientError) as e:
        client.put_object(Bucket=BUCKET, Key="once", Body=b"second", IfNoneMatch="*")
    assert _refused(e) == 412
    assert client.get_object(Bucket=BUCKET, Key="once")["Body"].read() == b"first"


def _upload(server: S3Server, key: str, parts: list[bytes]) -> tuple[str, list[dict[str, object]]]:
    client = server.client()
    upload = client.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
    done = []
    for number, body in enumerate(parts, 1):
        answer = client.upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=number, Body=body)
        done.append({"PartNumber": number, "ETag": answer["ETag"]})
    return upload, done


def test_multipart_upload_appears_whole_and_only_once(server: S3Server) -> None:
    client = server.client()
    parts = [b"a" * PART, b"b" * 1000]
    upload, done = _upload(server, "large", parts)
    with pytest.raises(ClientError):
        client.head_object(Bucket=BUCKET, Key="large")
    client.complete_multipart_upload(
        Bucket=BUCKET, Key="large", UploadId=upload, MultipartUpload={"Parts": done}, IfNoneMatch="*"
    )
    assert client.get_object(Bucket=BUCKET, Key="large")["Body"].read() == b"".join(parts)
    second, done = _upload(server, "large", [b"c" * PART, b"d"])
    with pytest.raises(ClientError) as e:
        client.complete_multipart_upload(
            Bucket=BUCKET, Key="large", UploadId=second, MultipartUpload={"Parts": done}, IfNoneMatch="*"
        )
    assert _refused(e) == 412
    client.abort_multipart_upload(Bucket=BUCKET, Key="large", UploadId=second)
    assert not client.list_multipart_uploads(Bucket=BUCKET).get("Uploads")


def test_ranges_and_listings(server: S3Server) -> None:
    client = server.client()
    for i in range(5):
        client.put_object(Bucket=BUCKET, Key=f"list/{i}", Body=b"0123456789")
    answer = client.get_object(Bucket=BUCKET, Key="list/0", Range="bytes=3-5")
    assert answer["Body"].read() == b"345"
    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket=BUCKET, Prefix="list/", PaginationConfig={"PageSize": 2}
    )
    assert [o["Key"] for page in pages for o in page["Contents"]] == [f"list/{i}" for i in range(5)]


def test_versions_keep_what_was_overwritten_and_deleted(server: S3Server) -> None:
    client = server.client()
    first = client.put_object(Bucket=BUCKET, Key="versioned", Body=b"1")["VersionId"]
    client.put_object(Bucket=BUCKET, Key="versioned", Body=b"2")
    client.delete_object(Bucket=BUCKET, Key="versioned")
    with pytest.raises(ClientError):
        client.get_object(Bucket=BUCKET, Key="versioned")
    assert client.get_object(Bucket=BUCKET, Key="versioned", VersionId=first)["Body"].read() == b"1"


def test_a_killed_server_comes_back_with_its_data(server: S3Server) -> None:
    client = server.client()
    client.put_object(Bucket=BUCKET, Key="kept", Body=b"data")
    server.stop()
    with pytest.raises((BotoCoreError, ClientError)):
        client.get_object(Bucket=BUCKET, Key="kept")
    server.start()
    assert server.client().get_object(Bucket=BUCKET, Key="kept")["Body"].read() == b"data"


def test_a_frozen_server_hangs_and_goes_on(server: S3Server) -> None:
    client = server.client()
    client.put_object(Bucket=BUCKET, Key="kept", Body=b"data")
    server.freeze()
    started = time.monotonic()
    try:
        with pytest.raises(BotoCoreError):
            _impatient(server).get_object(Bucket=BUCKET, Key="kept")
        assert time.monotonic() - started >= 1
    finally:
        server.thaw()
    assert client.get_object(Bucket=BUCKET, Key="kept")["Body"].read() == b"data"


def _impatient(server: S3Server):  # type: ignore[no-untyped-def]  # boto3's client
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name=s3.REGION,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        verify=str(server.ca_file) if server.ca_file else None,
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=1, read_timeout=1),
    )


def test_wrong_keys_are_refused(server: S3Server, tmp_path: Path) -> None:
    import boto3

    stranger = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name=s3.REGION,
        aws_access_key_id=server.access_key,
        aws_secret_access_key="wrong",
        verify=str(server.ca_file) if server.ca_file else None,
    )
    with pytest.raises(ClientError) as e:
        stranger.list_objects_v2(Bucket=BUCKET)
    assert _refused(e) == 403
