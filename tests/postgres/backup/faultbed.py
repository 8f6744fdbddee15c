"""What tests with a fault at each request share: a store behind the proxy that loses no time, and the rounds."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dev.s3 import S3Server
from matriarch.backup import s3 as s3_module
from matriarch.backup.s3 import S3
from matriarch.backup.stop import Stop
from tests.postgres.backup import faultproxy
from tests.postgres.backup.bed import s3, s3_spec
from tests.postgres.backup.faultproxy import Fault, FaultProxy

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client

OUTAGE = 2.0  # seconds that a call of these tests waits for a store that is away: one pause and a slow machine
READ_TIMEOUT = 0.7  # seconds; longer than the real server ever takes for the little that is sent here


class Hasty(Stop):
    """Pauses between two tries are as many as ever, and short."""

    def sleep(self, seconds: float) -> None:
        super().sleep(min(seconds, 0.02))


@pytest.fixture
def proxy(s3server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    monkeypatch.setattr(s3_module, "READ_TIMEOUT", READ_TIMEOUT)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
    with faultproxy.before(s3server) as found:
        yield found


_clients: dict[tuple[int, str], S3Client] = {}  # by port and access key: another server may get a port again


class Place:
    """A prefix of the bucket, straight and through the proxy."""

    def __init__(self, proxy: FaultProxy, real: S3Server, folder: Path, name: str) -> None:
        self.proxy, self._real, self._folder, self.prefix = proxy, real, folder, name
        self.straight: S3 = s3(real, "backups", folder / "credentials", prefix=name)
        who = (real.port, real.access_key)
        self.straight._made = _clients.get(who) or _clients.setdefault(who, self.straight.client)

    def struck(self) -> S3:
        """The client of boto3 is the same for all behind one proxy: to make one takes longer than what is tested."""
        spec = s3_spec(self.proxy.server, "backups", self._folder / "credentials", prefix=self.prefix)
        store = S3(spec, Hasty(), outage=OUTAGE)
        who = (self.proxy.server.port, self.proxy.server.access_key)
        store._made = _clients.get(who) or _clients.setdefault(who, store.client)
        return store

    def copied(self, name: str) -> Place:
        """The same objects below another prefix."""
        other, client = Place(self.proxy, self._real, self._folder, name), self.straight.client
        for entry in self.straight.list(""):
            source = {"Bucket": "backups", "Key": f"{self.prefix}/{entry.key}"}
            client.copy_object(Bucket="backups", Key=f"{name}/{entry.key}", CopySource=source)  # type: ignore[arg-type]
        return other

    def content(self) -> dict[str, int]:
        return {e.key: e.size for e in self.straight.list("")}


def dice() -> random.Random:
    seed = int(os.environ.get("SEED", "0")) or random.randrange(1, 1 << 30)
    print("seed", seed)  # shown when the test fails: SEED=… repeats it
    return random.Random(seed)


def count(place: Place, work: Callable[[], object]) -> int:
    """How many requests `work` makes when nothing is wrong."""
    place.proxy.calm()
    work()
    return len(place.proxy.seen)


def rounds(requests: int, faults: Iterable[Fault], share: int | None = None) -> list[tuple[int, Fault]]:
    """Every request with every fault, or `share` of these by dice, the first and the last requests among them."""
    every = [(at, fault) for at in range(1, requests + 1) for fault in faults]
    if share is None or share >= len(every):
        return every
    return sorted(dice().sample(every, share), key=lambda r: (r[0], r[1].value))
