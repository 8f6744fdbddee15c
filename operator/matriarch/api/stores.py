"""Where backups go and how they are protected there."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from matriarch.api.model import Model, ObjectName, Quantity, Rule, SecretKey, list_map

PLAINTEXT = "i-accept-plaintext-backups"

StoreName = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]


class SecretKeyRef(Model):
    """One key of a Secret in the same namespace."""

    name: ObjectName
    """The Secret's name."""
    key: SecretKey
    """The key within it."""


class EncryptionKeyRef(Model):
    """The Secret with the key that backups are encrypted with."""

    name: ObjectName
    """The Secret's name."""
    key: SecretKey | None = None
    """The key within it that holds the base64 of 32 random bytes; `key` if absent."""


class S3Credentials(Model):
    """A Secret with an access key."""

    secret_name: ObjectName
    """The Secret's name, in the same namespace."""
    access_key_id_key: SecretKey | None = None
    """Key within the Secret; `ACCESS_KEY_ID` if absent."""
    secret_access_key_key: SecretKey | None = None
    """Key within the Secret; `SECRET_ACCESS_KEY` if absent."""


class S3Ca(Model):
    """Certificates that the endpoint is checked against instead of the public ones."""

    secret_name: ObjectName
    """The Secret's name, in the same namespace."""
    key: SecretKey | None = None
    """Key within the Secret; `ca.crt` if absent."""


class ObjectLock(Model):
    """What is written can neither be deleted nor replaced for so long. The bucket must have been made with it."""

    mode: Literal["Governance", "Compliance"]
    """`Compliance` binds everybody, the account's owner too; `Governance` yields to who may bypass it."""
    days: Annotated[int, Field(ge=1, le=36_500)]
    """From the moment of writing. Longer than retention keeps backups, and than the recovery window."""


class S3Store(Model):
    """A bucket of any S3 server."""

    bucket: Annotated[str, Field(min_length=3, max_length=63, pattern=r"^[a-z0-9][-.a-z0-9]*[a-z0-9]$")]
    """An existing bucket."""
    prefix: Annotated[str, Field(max_length=256, pattern=r"^[-_.=a-zA-Z0-9/]*$")] | None = None
    """Path within the bucket. Every cluster has a folder of its own below it."""
    region: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """`us-east-1` if absent."""
    endpoint: Annotated[str, Field(max_length=512, pattern=r"^https?://[^/?#\s]+/?$")] | None = None
    """Address of the server; absent for Amazon's own."""
    force_path_style: bool | None = None
    """Puts the bucket into the path instead of the host name; if absent, exactly when `endpoint` is set."""
    credentials: S3Credentials
    delete_credentials: S3Credentials | None = None
    """Used by retention and expiry alone: `credentials` then need no right to delete."""
    object_lock: ObjectLock | None = None
    ca: S3Ca | None = None


class GcsCredentials(Model):
    """A Secret with the key of a service account."""

    secret_name: ObjectName
    """The Secret's name, in the same namespace."""
    key: SecretKey | None = None
    """Key within the Secret that holds the JSON which Google gave; `key.json` if absent."""


class GcsStore(Model):
    """A bucket of Google Cloud Storage."""

    bucket: Annotated[str, Field(min_length=3, max_length=222, pattern=r"^[a-z0-9][-_.a-z0-9]*[a-z0-9]$")]
    """An existing bucket."""
    prefix: Annotated[str, Field(max_length=256, pattern=r"^[-_.=a-zA-Z0-9/]*$")] | None = None
    """Path within the bucket. Every cluster has a folder of its own below it."""
    project_id: Annotated[str, Field(max_length=64, pattern=r"^[a-z]([-a-z0-9.:]*[a-z0-9])?$")] | None = None
    """The bucket's project, for the client library. No request needs it: a bucket's name is unique among all."""
    endpoint: Annotated[str, Field(max_length=512, pattern=r"^https?://[^/?#\s]+/?$")] | None = None
    """Address of the server; absent for Google's own. One without TLS is sent no credentials."""
    credentials: GcsCredentials | None = None
    """If absent, the identity that Google gives to the Pods (workload identity, or that of the node)."""
    ca: S3Ca | None = None

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!self.bucket.startsWith('goog') && !self.bucket.contains('google')",
            message="no bucket's name begins with goog or holds google, as Google makes none: name an existing one",
            field=".bucket",
            broken=lambda s: s.bucket.startswith("goog") or "google" in s.bucket,
        ),
        Rule(
            cel="!has(self.ca) || has(self.endpoint)",
            message="ca goes with endpoint only: Google's own server has a public certificate",
            broken=lambda s: s.ca is not None and s.endpoint is None,
        ),
    )


class LocalStore(Model):
    """A volume: an existing claim, or one that the operator makes and keeps."""

    claim_name: ObjectName | None = None
    """An existing PersistentVolumeClaim in the same namespace."""
    size: Quantity | None = None
    """Size of the claim to make."""
    storage_class_name: ObjectName | None = None
    """Class of the claim to make; the cluster's default class if absent."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.claimName) != has(self.size)",
            message="set exactly one of claimName (a claim that exists) and size (a claim to make)",
            broken=lambda s: (s.claim_name is None) == (s.size is None),
        ),
        Rule(
            cel="!has(self.storageClassName) || has(self.size)",
            message="storageClassName goes with size only: an existing claim has its class already",
            broken=lambda s: s.storage_class_name is not None and s.size is None,
        ),
    )


ONE_KIND = Rule(
    cel="[has(self.s3), has(self.gcs), has(self.local)].filter(x, x).size() == 1",
    message="set exactly one of s3, gcs and local: a store is of one kind",
    broken=lambda s: sum(kind is not None for kind in (s.s3, s.gcs, s.local)) != 1,
)


class BackupStore(Model):
    """A place for backups. Exactly one of `s3`, `gcs` and `local` is set."""

    name: StoreName
    """What Backup and BackupSchedule call it."""
    s3: S3Store | None = None
    gcs: GcsStore | None = None
    local: LocalStore | None = None

    rules: ClassVar[tuple[Rule, ...]] = (ONE_KIND,)


class Encryption(Model):
    """Backups are encrypted unless this says otherwise in so many words."""

    key_secret: EncryptionKeyRef | None = None
    """The key. If absent, the operator makes one in the Secret `<cluster>-backup-key`: keep a copy elsewhere."""
    disabled: Annotated[str, Field(max_length=64)] | None = None
    """`i-accept-plaintext-backups` and nothing else stores backups unencrypted."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"!has(self.disabled) || self.disabled == '{PLAINTEXT}'",
            message=f"backups are encrypted: to store them readable for everybody write disabled: {PLAINTEXT}",
            field=".disabled",
            broken=lambda e: e.disabled is not None and e.disabled != PLAINTEXT,
        ),
        Rule(
            cel="!(has(self.disabled) && has(self.keySecret))",
            message="keySecret and disabled contradict each other: set one of them",
            broken=lambda e: e.disabled is not None and e.key_secret is not None,
        ),
    )


class WalArchive(Model):
    """Stores every change within a minute, all the time, so that a restore can end at any moment.

    Switching it on or off replaces the Pods one by one, with a switchover.
    """

    store: StoreName
    """The one of `stores` that it goes to; of kind `s3` or `gcs`."""
    max_rate: Quantity | None = None
    """Bytes a second that an instance may send, such as `20Mi`; not limited if absent. It must be more than the
    cluster writes in the long run, or the volumes fill with what waits."""
    recovery_window_days: Annotated[int, Field(ge=0, le=36_500)] | None = None
    """For so many days back WAL stays, and the physical backup that its first moment needs; 30 if absent. What a
    backup needs stays for longer."""
    expiry: Literal["Automatic", "Manual"] | None = None
    """`Automatic` (if absent) deletes the rest; `Manual` only says in `status.backup.stores` what would go."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.maxRate) || quantity(self.maxRate).compareTo(quantity('1Mi')) >= 0",
            message="maxRate is in bytes a second and at least 1Mi: with less, a cluster that writes anything falls"
            " behind for ever",
            field=".maxRate",
            broken=lambda a: a.max_rate is not None and _bytes(a.max_rate) < 1 << 20,
        ),
    )


def _bytes(text: str) -> int:
    from matriarch.api.rules import quantity  # which imports what is below

    return int(quantity(text))


class BackupSettings(Model):
    """Where this cluster's backups go."""

    stores: Annotated[list[BackupStore], Field(max_length=8, json_schema_extra=list_map("name"))]
    """The first is the default of Backup and BackupSchedule."""
    encryption: Encryption | None = None
    compression: Literal["gzip", "none"] | None = None
    """`gzip` if absent."""
    wal_archive: WalArchive | None = None
    """Continuous archiving; none if absent."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.walArchive)"
            " || self.stores.exists(s, s.name == self.walArchive.store && (has(s.s3) || has(s.gcs)))",
            message="walArchive.store names no s3 or gcs store of stores: a bucket is needed, because every instance"
            " writes to it, and a volume can't be mounted by all of them",
            field=".walArchive.store",
            broken=lambda b: (
                b.wal_archive is not None
                and not any(s.name == b.wal_archive.store and s.local is None for s in b.stores)
            ),
        ),
    )
