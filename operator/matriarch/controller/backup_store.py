"""A store and its key as four things: what must exist, what a Job is told, what it mounts, what a status remembers."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from matriarch.api.defaults import S3_REGION, ClusterDefaults
from matriarch.api.stores import BackupStore, EncryptionKeyRef, LocalStore, S3Store
from matriarch.backup import jobspec
from matriarch.backup.keys import Kek
from matriarch.decide.backups import Need
from matriarch.errors import MatriarchError
from matriarch.kube.client import Kube, Object
from matriarch.resources.job import LOCAL_PATH
from matriarch.resources.storefiles import KEY, SecretFiles, files_of

KEY_FILE = "backup-key"
"""Name under which a Job finds the encryption key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One cluster's folder in one store, and the key that its backups are encrypted with."""

    store: BackupStore
    folder: str
    """Below the store's own prefix: `prod/orders-7412345678901234567`; empty only while it is not known."""
    key: EncryptionKeyRef | None
    """None: not encrypted."""
    cluster: str
    """Whose store it is; names the claim that is made for it."""
    as_of: str | None = None
    """Read what the bucket held then."""


def folder(namespace: str, cluster: str, system_identifier: str) -> str:
    """Where a cluster's backups lie below a store's prefix.

    By the identity of its data: a cluster that is deleted and adopted again goes on in its folder, another one of the
    same name gets its own, and a person who has nothing but the store can still read whose it is.
    """
    return f"{namespace}/{cluster}-{system_identifier}"


def claim_name(place: Place) -> str:
    """The PersistentVolumeClaim of a local store: the user's, or the one that is made for the cluster."""
    local = place.store.local
    if local is None:
        raise ValueError(f"store {place.store.name} is not local")
    return local.claim_name or f"{place.cluster}-store-{place.store.name}"


def key_of(defaults: ClusterDefaults) -> EncryptionKeyRef | None:
    """The key in force for a cluster's new backups."""
    if defaults.backup_key_secret is None:
        return None
    return EncryptionKeyRef(name=defaults.backup_key_secret, key=defaults.backup_key)


def spec(place: Place) -> jobspec.StoreSpec:
    """What a Job is told."""
    return _whole(place).below(place.folder)


def _whole(place: Place) -> jobspec.StoreSpec:
    """The store with the folders of all its clusters."""
    if place.store.s3 is not None:
        s3 = place.store.s3
        return jobspec.StoreSpec(
            s3=jobspec.S3Store(
                bucket=s3.bucket,
                prefix=s3.prefix or "",
                region=s3.region or S3_REGION,
                endpoint=s3.endpoint,
                path_style=s3.force_path_style,
                lock=_lock(s3),
                as_of=place.as_of,
            )
        )
    if (gcs := place.store.gcs) is not None:
        return jobspec.StoreSpec(
            gcs=jobspec.GcsStore(
                bucket=gcs.bucket,
                prefix=gcs.prefix or "",
                project=gcs.project_id,
                endpoint=gcs.endpoint,
            )
        )
    return jobspec.StoreSpec(local=jobspec.LocalStore(path=LOCAL_PATH))


def _prefix(of_store: str | None, folder: str) -> str:
    return "/".join(part for part in ((of_store or "").strip("/"), folder) if part)


def address(place: Place) -> str:
    """One line that is another one for another place: bucket or claim, and folder."""
    for scheme, bucket in (("s3", place.store.s3), ("gs", place.store.gcs)):
        if bucket is not None:
            where = f"{scheme}://{_prefix(bucket.bucket, _prefix(bucket.prefix, place.folder))}"
            return where + (f" at {bucket.endpoint.rstrip('/')}" if bucket.endpoint else "")
    return f"{claim_name(place)}:/{place.folder}"


def key_names(place: Place) -> tuple[str, ...]:
    """The files in a Job's key folder."""
    return (KEY_FILE,) if place.key is not None else ()


def key_files(place: Place) -> SecretFiles | None:
    """The key as a Job mounts it."""
    if place.key is None:
        return None
    return SecretFiles(secret=place.key.name, files={place.key.key or KEY: KEY_FILE})


def _lock(s3: S3Store) -> jobspec.ObjectLock | None:
    asked = s3.object_lock
    if asked is None:
        return None
    return jobspec.ObjectLock(mode="GOVERNANCE" if asked.mode == "Governance" else "COMPLIANCE", days=asked.days)


def store_files(place: Place, *, deleting: bool = False) -> tuple[SecretFiles, ...]:
    """The store's credentials as a Job mounts them; `deleting`: as one that deletes does."""
    return files_of(place.store, deleting=deleting)


def deletes_apart(place: Place) -> bool:
    """Another identity deletes than the one that writes."""
    return place.store.s3 is not None and place.store.s3.delete_credentials is not None


def claim(place: Place) -> str | None:
    """The claim that a Job mounts."""
    return claim_name(place) if place.store.local is not None else None


async def needs(kube: Kube, namespace: str, place: Place) -> tuple[Need, ...]:
    """Everything that a Job would wait for in vain if it were not there, with what is there now."""
    found: list[Need] = []
    name = place.store.name
    for files in store_files(place):
        there = await kube.get("Secret", namespace, files.secret)
        what = "CA" if "ca.crt" in files.files.values() else "credentials"
        found.append(_secret(files.secret, f"the {what} of store {name}", tuple(files.files), there))
    if place.store.local is not None:
        wanted = claim_name(place)
        there = await kube.get("PersistentVolumeClaim", namespace, wanted)
        found.append(
            Need(
                kind="PersistentVolumeClaim",
                name=wanted,
                holds=f"the backups of store {name}",
                found=None if there is None else frozenset(),
            )
        )
    if place.key is not None:
        secret = await kube.get("Secret", namespace, place.key.name)
        entry = place.key.key or KEY
        need = _secret(place.key.name, "the key that backups are encrypted with", (entry,), secret)
        found.append(_with_key_problem(need, entry, secret))
    return tuple(found)


def key_id(secret: Object | None, entry: str) -> str | None:
    """The fingerprint of the encryption key in a Secret; None when there is none that can be read."""
    try:
        return Kek.parse(_value(secret, entry), origin="").id
    except (MatriarchError, KeyError, binascii.Error):
        return None


def wanted_claim(place: Place, namespace: str, labels: dict[str, str]) -> Object | None:
    """The claim of a local store that the operator makes. It has no owner: backups outlive the cluster."""
    local: LocalStore | None = place.store.local
    if local is None or local.size is None:
        return None
    volume: Object = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": local.size}}}
    if local.storage_class_name is not None:
        volume["storageClassName"] = local.storage_class_name
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": claim_name(place), "namespace": namespace, "labels": labels},
        "spec": volume,
    }


def _secret(name: str, holds: str, keys: tuple[str, ...], there: Object | None) -> Need:
    entries = None if there is None else frozenset(key for key, value in (there.get("data") or {}).items() if value)
    return Need(kind="Secret", name=name, holds=holds, keys=keys, found=entries)


def _with_key_problem(need: Need, entry: str, secret: Object | None) -> Need:
    if need.found is None or entry not in need.found:
        return need
    try:
        Kek.parse(_value(secret, entry), origin=f"Key {entry} of Secret {need.name}")
    except (MatriarchError, binascii.Error) as error:
        return Need(
            kind=need.kind, name=need.name, holds=need.holds, keys=need.keys, found=need.found, problem=str(error)
        )
    return need


def _value(secret: Object | None, entry: str) -> bytes:
    return base64.b64decode((secret or {}).get("data", {})[entry])
