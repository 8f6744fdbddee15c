"""What a member must remember across restarts: `/var/lib/matriarch/member/`.

Beside PGDATA, never inside it: pg_rewind and a base backup copy or wipe what is inside, and a voter that forgets its
promise can acknowledge to two epochs. Every write is a temporary file, fsync, rename, fsync of the folder, so a
crash leaves the old content or the new one. A file that cannot be read is never taken for an absent one.

All methods but those named keep_ wait for the disk: the agent calls them in a thread, with a time limit of its own.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matriarch.agent.reserve import Reserve
from matriarch.agent.volumecopy import VolumeCopy
from matriarch.errors import Corrupt, Refused

FOLDER = Path("/var/lib/matriarch/member")

PROMISE = "promise.json"
FENCED = "fenced.json"
INCARNATION = "incarnation.json"
LEASE = "lease.json"
CONFIG = "config.json"
DOCTOR = "doctor.json"


@dataclass(frozen=True, slots=True)
class Incarnation:
    """One life of a volume: made when it was initialised, cloned or restored. `claim_uid`: the PVC's UID."""

    id: str
    claim_uid: str


class MemberFiles:
    """The member's files in `folder`, which is made when it is absent (its parent must exist)."""

    def __init__(self, folder: Path = FOLDER, reserve: Reserve | None = None) -> None:
        self.folder = folder
        self._reserve = reserve
        self._epochs = threading.Lock()
        self._lease_copy = VolumeCopy("the Lease", self.write_lease)
        self._config_copy = VolumeCopy("the configuration", self.write_config)
        if not folder.is_dir():
            folder.mkdir(mode=0o700)
            _fsync_folder(folder.parent)

    def promise(self) -> int:
        """The highest epoch promised; 0 for none."""
        return self._read_epoch(PROMISE)

    def write_promise(self, epoch: int) -> None:
        """Durable when it returns. The same epoch again is fine; a lower one is Refused."""
        self._write_epoch(PROMISE, epoch, "promised")

    def fenced(self) -> int:
        """The highest epoch in which this member said "fenced"; 0 for none."""
        return self._read_epoch(FENCED)

    def write_fenced(self, epoch: int) -> None:
        """Durable when it returns. The same epoch again is fine; a lower one is Refused."""
        self._write_epoch(FENCED, epoch, "fenced")

    def incarnation(self) -> Incarnation | None:
        """The volume's incarnation as written, whatever claim it was written for; None before the first."""
        content = self._read(INCARNATION)
        if content is None:
            return None
        match content:
            case {"id": str(id_), "claim_uid": str(claim_uid)} if id_:
                return Incarnation(id_, claim_uid)
        raise self._corrupt(INCARNATION, 'it is not {"id", "claim_uid"}')

    def ensure_incarnation(self, claim_uid: str) -> Incarnation:
        """This volume's incarnation; a new one when there is none or it was written for another claim.

        A volume made from a snapshot carries the id of its source: only the claim's UID tells them apart.
        """
        known = self.incarnation()
        if known is not None and known.claim_uid == claim_uid:
            return known
        return self.renew_incarnation(claim_uid)

    def renew_incarnation(self, claim_uid: str) -> Incarnation:
        """A new life, durable when it returns: called before a volume's data is wiped, cloned or restored."""
        if not claim_uid:
            raise Refused("The claim's UID is empty, so a copied volume would go unnoticed: set MATRIARCH_CLAIM_UID.")
        # 48 bits: short, because application_name holds 63 characters of instance-incarnation
        made = Incarnation(secrets.token_hex(6), claim_uid)
        self._write(INCARNATION, {"id": made.id, "claim_uid": made.claim_uid})
        return made

    def lease(self) -> dict[str, Any] | None:
        """The newest Lease seen, as it was written; None before the first."""
        return self._read(LEASE)

    def keep_lease(self, lease: dict[str, Any]) -> None:
        """Written soon, by a thread of its own. Which Lease is newer is the caller's to decide."""
        self._lease_copy.keep(lease)

    def keep_config(self, config: dict[str, Any]) -> None:
        """The same."""
        self._config_copy.keep(config)

    def write_lease(self, lease: dict[str, Any]) -> None:
        """Which Lease is newer is the caller's to decide. No disk is touched when nothing changed."""
        self._write_changed(LEASE, lease)

    def config(self) -> dict[str, Any] | None:
        """The newest ClusterConfig seen; None before the first."""
        return self._read(CONFIG)

    def write_config(self, config: dict[str, Any]) -> None:
        """No disk is touched when nothing changed."""
        self._write_changed(CONFIG, config)

    def doctor(self) -> dict[str, Any] | None:
        """What the replica doctor has tried; None for nothing, also where it cannot be read: no promise is in it."""
        try:
            return self._read(DOCTOR)
        except Corrupt:
            return None

    def write_doctor(self, case: dict[str, Any]) -> None:
        """Durable when it returns, so that a restart does not begin anew with what did not help."""
        self._write_changed(DOCTOR, case)

    def _read_epoch(self, name: str) -> int:
        content = self._read(name)
        if content is None:
            return 0
        match content:
            case {"epoch": int(epoch)} if epoch >= 0 and not isinstance(epoch, bool):
                return epoch
        raise self._corrupt(name, 'it is not {"epoch"} with a whole number')

    def _write_epoch(self, name: str, epoch: int, word: str) -> None:
        # One at a time: a write that its caller gave up on goes on in its thread, and must not replace a later one.
        with self._epochs:
            known = self._read_epoch(name)
            if epoch < known:
                raise Refused(f"Epoch {epoch} cannot be {word}: epoch {known} already is, and it never goes back.")
            if epoch > known:
                self._write(name, {"epoch": epoch})

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            raw = (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None
        try:
            content = json.loads(raw)
        except ValueError as error:
            raise self._corrupt(name, str(error)) from error
        if not isinstance(content, dict):
            raise self._corrupt(name, "it is not a JSON object")
        return content

    def _write_changed(self, name: str, content: dict[str, Any]) -> None:
        try:
            same = self._read(name) == content
        except Corrupt:
            same = False  # a copy of what the API server has: replacing it loses nothing
        if not same:
            self._write(name, content)

    def _write(self, name: str, content: dict[str, Any]) -> None:
        if self._reserve is not None:
            self._reserve.with_room(lambda: self._write_once(name, content))
        else:
            self._write_once(name, content)

    def _write_once(self, name: str, content: dict[str, Any]) -> None:
        temporary = self.folder / f".{name}.new"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(json.dumps(content, sort_keys=True).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.folder / name)
        _fsync_folder(self.folder)

    def _corrupt(self, name: str, why: str) -> Corrupt:
        return Corrupt(
            f"{self.folder / name} cannot be read ({why}), and what this member once said must not be guessed: "
            "delete this instance's Pod and PersistentVolumeClaim, and it is cloned anew."
        )


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
