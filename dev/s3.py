"""A real S3 server for tests and the demo: versitygw on a folder, with keys made anew for every server.

    python -m dev.s3 FOLDER [--address 127.0.0.1] [--port 7070] [--tls]     run one until it is interrupted

A test without Kubernetes starts one on the loopback interface; a local cluster's listens on the machine's address on
the cluster's bridge, where both this machine and the pods reach it under the same name.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dev import programs
from dev.host import DevError
from dev.kubebox.pki import Authority
from dev.ports import free_port
from dev.storeserver import StoreServer

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

NAME = "versitygw"
REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class S3Server(StoreServer):
    """A running server, or one that ran: `start` brings it back with the same data, keys and address."""

    program: ClassVar[str] = NAME
    folder: str
    address: str
    port: int
    access_key: str
    secret_key: str
    tls: bool = False

    def client(self) -> S3Client:
        """A client with the server's own keys; it does not retry, so that a test sees what happens."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            verify=str(self.ca_file) if self.ca_file else None,
            config=Config(
                s3={"addressing_style": "path"},
                retries={"total_max_attempts": 1},
                # Over TLS, a checksum that trails the body meets a server that has refused and hung up before it came.
                request_checksum_calculation="when_required",
                connect_timeout=5,
                read_timeout=30,
            ),
        )

    def make_bucket(self, name: str, *, versioning: bool = False, object_lock: bool = False) -> None:
        """A bucket; one that is there is left as it is."""
        client = self.client()
        with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
            client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=object_lock)
        if versioning:
            client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})

    def user(self, bucket: str, *actions: str) -> tuple[str, str]:
        """Access key and secret of a new identity that may do exactly this (`s3:GetObject` and so on) in a bucket."""
        access, secret = secrets.token_hex(10), secrets.token_urlsafe(30)
        words: list[object] = [programs.ensure(NAME), "admin", "--endpoint-url", self.endpoint, "--region", REGION]
        words += ["--allow-insecure"] if self.tls else []
        words += ["create-user", "--access", access, "--secret", secret, "--role", "user"]
        root = {"ADMIN_ACCESS_KEY_ID": self.access_key, "ADMIN_SECRET_ACCESS_KEY": self.secret_key}
        subprocess.run([str(w) for w in words], env={**os.environ, **root}, check=True, capture_output=True, timeout=30)
        client = self.client()
        try:
            policy = json.loads(client.get_bucket_policy(Bucket=bucket)["Policy"])
        except client.exceptions.ClientError:
            policy = {"Version": "2012-10-17", "Statement": []}
        where = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
        for action in actions:  # on the bucket or on objects, never both: a policy that mixes them is refused
            on_bucket = "Bucket" in action
            policy["Statement"].append(
                {
                    "Effect": "Allow",
                    "Principal": {"AWS": [access]},
                    "Action": [action],
                    "Resource": [where[0] if on_bucket else where[1]],
                }
            )
        client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
        return access, secret

    def start(self, timeout: float = 30.0) -> None:
        """Start the server unless it runs, and wait until it accepts connections."""
        folder = Path(self.folder)
        for name in ("data", "versions", "iam"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        words: list[object] = [
            programs.ensure(NAME),
            "--port",
            f"{self.address}:{self.port}",
            "--region",
            REGION,
            "--quiet",
            "--iam-dir",
            folder / "iam",
        ]
        if self.tls:
            words += ["--cert", folder / "pki" / "server.crt", "--key", folder / "pki" / "server.key"]
        words += ["posix", "--versioning-dir", folder / "versions", folder / "data"]
        keys = {"ROOT_ACCESS_KEY": self.access_key, "ROOT_SECRET_KEY": self.secret_key}
        self._processes.start(NAME, words, env=keys)
        self._processes.wait(NAME, self._accepts, timeout, f"the S3 server at {self.endpoint}")


def ensure(folder: Path, *, address: str = "127.0.0.1", port: int = 0, tls: bool = False) -> S3Server:
    """The server of a folder, running: the one that was there with its keys and data, or a new one (port 0: any)."""
    known = folder / "server.json"
    try:
        server = S3Server(**json.loads(known.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        server = _new(folder, address=address, port=port or free_port(address), tls=tls)
        half = known.with_suffix(".half")
        half.touch(mode=0o600)
        half.write_text(json.dumps(asdict(server)))
        half.rename(known)
    server.start()
    return server


def _new(folder: Path, *, address: str, port: int, tls: bool) -> S3Server:
    folder.mkdir(parents=True, exist_ok=True)
    if tls:
        Authority.create(folder / "pki", "matriarch-s3").issue("server", "s3", names=[address, "localhost"])
    return S3Server(
        folder=str(folder),
        address=address,
        port=port,
        access_key=secrets.token_hex(10),
        secret_key=secrets.token_urlsafe(30),
        tls=tls,
    )


@contextlib.contextmanager
def temporary(folder: Path, *, tls: bool = False) -> Iterator[S3Server]:
    """A server on the loopback interface for as long as the block lasts; its folder is deleted after it."""
    server = ensure(folder, tls=tls)
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7070)
    parser.add_argument("--tls", action="store_true")
    args = parser.parse_args()
    try:
        server = ensure(args.folder.absolute(), address=args.address, port=args.port, tls=args.tls)
    except DevError as e:
        sys.exit(f"s3: {e}")
    print(json.dumps({"endpoint": server.endpoint, "access_key": server.access_key, "secret_key": server.secret_key}))
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        server.stop()


if __name__ == "__main__":
    main()
