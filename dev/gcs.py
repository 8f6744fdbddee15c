"""An emulator of Google Cloud Storage for tests: fake-gcs-server on a folder. Google's own server is never asked.

    python -m dev.gcs FOLDER [--address 127.0.0.1] [--port 4443] [--tls]     run one until it is interrupted

It checks no credentials, keeps no versions, and forgets uploads that are not finished when it ends. Without TLS the
store's client sends it no credentials.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from dev import programs
from dev.host import DevError
from dev.kubebox.pki import Authority
from dev.ports import free_port
from dev.storeserver import StoreServer

NAME = "fake-gcs-server"


@dataclass(frozen=True, slots=True)
class GcsServer(StoreServer):
    """A running emulator, or one that ran: `start` brings it back with the same data and address."""

    program: ClassVar[str] = NAME
    folder: str
    address: str
    port: int
    tls: bool = False

    def make_bucket(self, name: str) -> None:
        """A bucket; one that is there is left as it is."""
        request = urllib.request.Request(
            f"{self.endpoint}/storage/v1/b?project=test",
            data=json.dumps({"name": name}).encode(),
            headers={"Content-Type": "application/json"},
        )
        trust = ssl.create_default_context(cafile=self.ca_file) if self.tls else None
        try:
            urllib.request.urlopen(request, timeout=30, context=trust).close()
        except urllib.error.HTTPError as error:
            with error:
                if error.code != 409:
                    raise DevError(f"the bucket {name} could not be made: {error}") from error

    def start(self, timeout: float = 30.0) -> None:
        """Start the server unless it runs, and wait until it accepts connections."""
        folder = Path(self.folder)
        (folder / "data").mkdir(parents=True, exist_ok=True)
        words: list[object] = [programs.ensure(NAME), "-backend", "filesystem", "-filesystem-root", folder / "data"]
        words += ["-host", self.address, "-port", self.port, "-public-host", f"{self.address}:{self.port}"]
        words += ["-scheme", "https" if self.tls else "http", "-log-level", "error"]
        if self.tls:
            pki = folder / "pki"
            words += ["-cert-location", pki / "server.crt", "-private-key-location", pki / "server.key"]
        self._processes.start(NAME, words)
        self._processes.wait(NAME, self._accepts, timeout, f"the emulator at {self.endpoint}")


def ensure(folder: Path, *, address: str = "127.0.0.1", port: int = 0, tls: bool = False) -> GcsServer:
    """The server of a folder, running: the one that was there with its data, or a new one (port 0: any)."""
    known = folder / "server.json"
    try:
        server = GcsServer(**json.loads(known.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        folder.mkdir(parents=True, exist_ok=True)
        if tls:
            Authority.create(folder / "pki", "matriarch-gcs").issue("server", "gcs", names=[address, "localhost"])
        server = GcsServer(folder=str(folder), address=address, port=port or free_port(address), tls=tls)
        known.write_text(json.dumps(asdict(server)))
    server.start()
    return server


@contextlib.contextmanager
def temporary(folder: Path, *, tls: bool = False) -> Iterator[GcsServer]:
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
    parser.add_argument("--port", type=int, default=4443)
    parser.add_argument("--tls", action="store_true")
    args = parser.parse_args()
    try:
        server = ensure(args.folder.absolute(), address=args.address, port=args.port, tls=args.tls)
    except DevError as e:
        sys.exit(f"gcs: {e}")
    print(json.dumps({"endpoint": server.endpoint}))
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        server.stop()


if __name__ == "__main__":
    main()
