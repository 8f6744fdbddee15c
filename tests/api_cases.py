"""Specs and the exact words that users get for the bad ones: one table for the API server and for the Python twins."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]
API_VERSION = "matriarch.dev/v1alpha1"

REPLICA: Object = {
    "enabled": True,
    "source": {"host": "orders-rw.prod.svc", "secret": {"name": "orders-replica-tls"}},
}
DEMOTION_TOKEN = "mt1.eyJzeXN0ZW0iOiI3In0.0123abcd"

S3 = {"bucket": "backups", "credentials": {"secretName": "s3"}}
GCS = {"bucket": "acme_backups.example"}
MINIMAL: dict[str, Object] = {
    "DatabaseCluster": {"version": "17", "instances": 3, "storage": {"size": "10Gi"}},
    "Backup": {"cluster": "orders"},
    "BackupSchedule": {"cluster": "orders", "cron": "0 2 * * *"},
    "Restore": {"source": {"backup": {"name": "orders-1"}}, "target": {"cluster": "copy"}},
}


def manifest(kind: str, change: Object | None = None, name: str = "orders") -> Object:
    """The smallest object of `kind` with `change` merged in; a value of None removes the field."""
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": name},
        "spec": merged(MINIMAL[kind], change or {}),
    }


def merged(base: Object, change: Object) -> Object:
    """JSON merge patch."""
    made = copy.deepcopy(base)
    for key, value in change.items():
        if value is None:
            made.pop(key, None)
        elif isinstance(value, dict) and isinstance(made.get(key), dict):
            made[key] = merged(made[key], value)
        else:
            made[key] = copy.deepcopy(value)
    return made


@dataclass(frozen=True)
class Bad:
    """`field` and `message` are what the API server reports; `twin` is false where only it can know."""

    what: str
    kind: str
    change: Object
    field: str
    message: str
    name: str = "orders"
    old: Object | None = None  # the change that the stored object was made with; None: creation
    twin: bool = True
    removed: tuple[str, ...] = ()  # fields of the stored spec that the change takes away


def _cluster(what: str, change: Object, where: str, message: str, **more: Any) -> Bad:
    return Bad(what, "DatabaseCluster", change, where, message, **more)


def _store(**kinds: Object) -> Object:
    return {"backup": {"stores": [{"name": "main", **kinds}]}}


NO_ARCHIVE_STORE = (
    "walArchive.store names no s3 or gcs store of stores: a bucket is needed, because every instance writes to it, and"
    " a volume can't be mounted by all of them"
)

BAD: tuple[Bad, ...] = (
    _cluster("sqlite", {"engine": "sqlite"}, "spec.engine", "engine sqlite is not yet supported: use postgresql"),
    _cluster(
        "unknown version",
        {"version": "16"},
        "spec.version",
        'version 16 is not known: this release runs 17. Write version: "17"',
    ),
    _cluster(
        "version as a number",
        {"version": 12},
        "spec.version",
        'version 12 is not known: this release runs 17. Write version: "17"',
    ),
    _cluster(
        "master-master",
        {"replication": {"mode": "master-master"}},
        "spec.replication.mode",
        "replication mode master-master is not yet supported: use primary-replica",
    ),
    _cluster(
        "cluster",
        {"replication": {"mode": "cluster"}},
        "spec.replication.mode",
        "replication mode cluster is not yet supported: use primary-replica",
    ),
    _cluster(
        "async with a number",
        {"replication": {"sync": {"mode": "async", "number": 1}}},
        "spec.replication.sync.mode",
        "sync.mode async waits for no replica: remove number and durability, or write mode: quorum",
    ),
    _cluster(
        "async with durability",
        {"replication": {"sync": {"mode": "async", "durability": "required"}}},
        "spec.replication.sync.mode",
        "sync.mode async waits for no replica: remove number and durability, or write mode: quorum",
    ),
    _cluster(
        "sync.number not below instances",
        {"replication": {"sync": {"number": 3}}},
        "spec.replication.sync.number",
        "sync.number must be below instances, because a write can wait for the other instances only: lower sync.number"
        " or raise instances",
    ),
    _cluster(
        "sync.number with one instance",
        {"instances": 1, "replication": {"sync": {"number": 1}}},
        "spec.replication.sync.number",
        "sync.number must be below instances, because a write can wait for the other instances only: lower sync.number"
        " or raise instances",
    ),
    _cluster(
        "a replica cluster with a promotion token",
        {"replica": {**REPLICA, "promotionToken": DEMOTION_TOKEN}},
        "spec.replica",
        "promotionToken and promotion belong to enabled: false, because they end following: remove them, or set"
        " enabled: false to promote",
    ),
    _cluster(
        "a replica cluster that is forced",
        {"replica": {**REPLICA, "promotion": "forced"}},
        "spec.replica",
        "promotionToken and promotion belong to enabled: false, because they end following: remove them, or set"
        " enabled: false to promote",
    ),
    _cluster(
        "promoted by token and by force",
        {"replica": {**REPLICA, "enabled": False, "promotionToken": DEMOTION_TOKEN, "promotion": "forced"}},
        "spec.replica",
        "promotionToken and promotion: forced exclude each other: with the token nothing is lost, so remove promotion;"
        " without the source the token is never fulfilled, so remove promotionToken",
    ),
    _cluster(
        "a part of a token",
        {"replica": {**REPLICA, "enabled": False, "promotionToken": DEMOTION_TOKEN[:-1]}},
        "spec.replica.promotionToken",
        "promotionToken is not a demotion token: copy status.demotionToken of the demoted cluster whole",
    ),
    _cluster(
        "a replica cluster whose source is taken away",
        {},
        "spec.replica",
        "replica cannot be removed while it is enabled, because the cluster follows its source: set replica.enabled:"
        " false with a promotionToken first",
        old={"replica": REPLICA},
        twin=False,
        removed=("replica",),
    ),
    _cluster(
        "priority of an instance that does not exist",
        {"replication": {"priorities": [{"instance": "orders-4", "priority": 1}]}},
        "spec.replication.priorities",
        "priorities name an instance that this cluster does not have: name <cluster>-1 to <cluster>-<instances>, or"
        " remove the entry",
    ),
    _cluster(
        "priority of another cluster's instance",
        {"replication": {"priorities": [{"instance": "order-1", "priority": 1}]}},
        "spec.replication.priorities",
        "priorities name an instance that this cluster does not have: name <cluster>-1 to <cluster>-<instances>, or"
        " remove the entry",
    ),
    _cluster(
        "a delay of an instance that does not exist",
        {"replication": {"delayed": [{"instance": "orders-4", "delaySeconds": 60}]}},
        "spec.replication.delayed",
        "delayed names an instance that this cluster does not have, or the one that should be primary: name"
        " <cluster>-1 to <cluster>-<instances>, and not spec.primary",
    ),
    _cluster(
        "a delay of the wanted primary",
        {"primary": "orders-3", "replication": {"delayed": [{"instance": "orders-3", "delaySeconds": 60}]}},
        "spec.replication.delayed",
        "delayed names an instance that this cluster does not have, or the one that should be primary: name"
        " <cluster>-1 to <cluster>-<instances>, and not spec.primary",
    ),
    _cluster(
        "more delayed instances than a quorum can spare",
        {
            "replication": {
                "sync": {"number": 2},
                "delayed": [{"instance": "orders-3", "delaySeconds": 60}],
            }
        },
        "spec.replication.delayed",
        "too many instances are delayed: beside the primary, sync.number instances must not be, because delayed ones"
        " acknowledge nothing and are never primary; raise instances or delay fewer",
    ),
    _cluster(
        "primary that does not exist",
        {"primary": "orders-4"},
        "spec.primary",
        "primary is not an instance of this cluster: name <cluster>-1 to <cluster>-<instances>, or remove it",
    ),
    _cluster(
        "health time-out above its interval",
        {"replication": {"healthCheck": {"intervalMilliseconds": 2000}}},
        "spec.replication.healthCheck",
        "timeoutMilliseconds (5000 if absent) must not exceed intervalMilliseconds (10000 if absent): a look must end"
        " before the next begins",
    ),
    _cluster(
        "storage without a unit",
        {"storage": {"size": "10"}},
        "spec.storage.size",
        "size must be 256Mi or more, because PostgreSQL needs that much when it is empty: write a unit, as in 10Gi",
    ),
    _cluster(
        "smaller storage",
        {"storage": {"size": "9.9Gi"}},
        "spec.storage.size",
        "size cannot shrink from 10Gi to 9.9Gi, because no volume can: put the old size back, or restore a backup into"
        " a new cluster",
        old={},
        twin=False,
    ),
    _cluster(
        "storage class added later",
        {"storage": {"storageClassName": "fast"}},
        "spec.storage",
        "storageClassName cannot change, because volumes keep their class: put the old value back, or restore a backup"
        " into a new cluster",
        old={},
        twin=False,
    ),
    _cluster(
        "storage class changed",
        {"storage": {"storageClassName": "fast"}},
        "spec.storage",
        "storageClassName cannot change, because volumes keep their class: put the old value back, or restore a backup"
        " into a new cluster",
        old={"storage": {"storageClassName": "slow"}},
        twin=False,
    ),
    _cluster(
        "database renamed",
        {"bootstrap": {"database": "shop"}},
        "spec.bootstrap",
        "bootstrap.database cannot change, because it was made when the cluster was born: put the old value back and"
        " rename the database with SQL",
        old={},
        twin=False,
    ),
    _cluster(
        "owner renamed",
        {"bootstrap": {"owner": "app"}},
        "spec.bootstrap",
        "bootstrap.owner cannot change, because it was made when the cluster was born: put the old value back",
        old={"bootstrap": {"owner": "shop"}},
        twin=False,
    ),
    _cluster(
        "parameter of the operator",
        {"parameters": {"fsync": "off"}},
        "spec.parameters",
        "parameter fsync belongs to Matriarch: it stays on, because an acknowledged write must be on disk. Remove it"
        " from parameters",
    ),
    _cluster(
        "another parameter of the operator",
        {"parameters": {"work_mem": "64MB", "synchronous_standby_names": ""}},
        "spec.parameters",
        "parameter synchronous_standby_names belongs to Matriarch: replication and failover are built on it; use"
        " spec.replication. Remove it from parameters",
    ),
    _cluster(
        "parameter in capitals",
        {"parameters": {"Fsync": "off"}},
        "spec.parameters",
        "parameter names are written in lower case with at most one dot, as in work_mem and pgaudit.log",
    ),
    _cluster(
        "quantity with a wrong unit",
        {"resources": {"requests": {"memory": "4GB"}}},
        "spec.resources",
        "requests and limits hold Kubernetes quantities, such as 500m, 2 and 4Gi",
    ),
    _cluster(
        "request above its limit",
        {"resources": {"requests": {"memory": "4Gi"}, "limits": {"memory": "2Gi"}}},
        "spec.resources",
        "a request is above its limit: lower the request or raise the limit",
    ),
    _cluster(
        "a store of no kind",
        _store(),
        "spec.backup.stores[0]",
        "set exactly one of s3, gcs and local: a store is of one kind",
    ),
    _cluster(
        "a store of two kinds",
        _store(s3=S3, local={"size": "1Gi"}),
        "spec.backup.stores[0]",
        "set exactly one of s3, gcs and local: a store is of one kind",
    ),
    _cluster(
        "a store of two kinds of bucket",
        _store(s3=S3, gcs=GCS),
        "spec.backup.stores[0]",
        "set exactly one of s3, gcs and local: a store is of one kind",
    ),
    _cluster(
        "a bucket that Google would not make",
        _store(gcs={"bucket": "my-google-backups"}),
        "spec.backup.stores[0].gcs.bucket",
        "no bucket's name begins with goog or holds google, as Google makes none: name an existing one",
    ),
    _cluster(
        "a CA for Google's own server",
        _store(gcs={**GCS, "ca": {"secretName": "ca"}}),
        "spec.backup.stores[0].gcs",
        "ca goes with endpoint only: Google's own server has a public certificate",
    ),
    _cluster(
        "a local store without a volume",
        _store(local={}),
        "spec.backup.stores[0].local",
        "set exactly one of claimName (a claim that exists) and size (a claim to make)",
    ),
    _cluster(
        "a class for an existing claim",
        _store(local={"claimName": "x", "storageClassName": "fast"}),
        "spec.backup.stores[0].local",
        "storageClassName goes with size only: an existing claim has its class already",
    ),
    _cluster(
        "an archive in an unknown store",
        {"backup": {"stores": [{"name": "main", "s3": S3}], "walArchive": {"store": "other"}}},
        "spec.backup.walArchive.store",
        NO_ARCHIVE_STORE,
    ),
    _cluster(
        "an archive on a volume",
        {"backup": {"stores": [{"name": "main", "local": {"size": "1Gi"}}], "walArchive": {"store": "main"}}},
        "spec.backup.walArchive.store",
        NO_ARCHIVE_STORE,
    ),
    _cluster(
        "an archive that is too slow for anything",
        {"backup": {"stores": [{"name": "main", "s3": S3}], "walArchive": {"store": "main", "maxRate": "100k"}}},
        "spec.backup.walArchive.maxRate",
        "maxRate is in bytes a second and at least 1Mi: with less, a cluster that writes anything falls behind for"
        " ever",
    ),
    _cluster(
        "plaintext backups by accident",
        {"backup": {"stores": [{"name": "main", "s3": S3}], "encryption": {"disabled": "true"}}},
        "spec.backup.encryption.disabled",
        "backups are encrypted: to store them readable for everybody write disabled: i-accept-plaintext-backups",
    ),
    _cluster(
        "a key for plaintext backups",
        {
            "backup": {
                "stores": [{"name": "main", "s3": S3}],
                "encryption": {"disabled": "i-accept-plaintext-backups", "keySecret": {"name": "k"}},
            }
        },
        "spec.backup.encryption",
        "keySecret and disabled contradict each other: set one of them",
    ),
    _cluster(
        "a name that is too long",
        {},
        "metadata.name",
        "a cluster's name has at most 40 characters of a-z, 0-9 and -, and starts with a letter, because Services and"
        " Pods carry it: choose another name",
        name="o" * 41,
    ),
    _cluster(
        "a name with a dot",
        {},
        "metadata.name",
        "a cluster's name has at most 40 characters of a-z, 0-9 and -, and starts with a letter, because Services and"
        " Pods carry it: choose another name",
        name="orders.eu",
    ),
    _cluster(
        "a name that another cluster's objects have",
        {},
        "metadata.name",
        "a cluster's name cannot end in -backup, because another cluster's objects may be called so: choose another"
        " name",
        name="orders-backup",
    ),
    _cluster(
        "a name that another cluster's pooler has",
        {},
        "metadata.name",
        "a cluster's name cannot end in -pooler, because another cluster's objects may be called so: choose another"
        " name",
        name="orders-pooler",
    ),
    _cluster(
        "a pool that keeps more than it may open",
        {"pooler": {"minConnections": 11}},
        "spec.pooler",
        "minConnections (2 if absent) must not exceed maxConnections (10 if absent): a pool cannot keep more than it"
        " may open",
    ),
    _cluster(
        "a pool smaller than its minimum",
        {"pooler": {"maxConnections": 1}},
        "spec.pooler",
        "minConnections (2 if absent) must not exceed maxConnections (10 if absent): a pool cannot keep more than it"
        " may open",
    ),
    Bad(
        "a backup made into another",
        "Backup",
        {"store": "other"},
        "spec",
        "the spec cannot change, because this runs only once: make a new object instead",
        old={},
        twin=False,
    ),
    *(
        Bad(
            f"increments of a {how.get('method', 'logical')} {kind}",
            kind,
            {"incremental": {}, **how},
            "spec.incremental",
            "incremental is of physical backups alone: set method to physical, or leave incremental out",
        )
        for kind in ("Backup", "BackupSchedule")
        for how in ({}, {"method": "logical"})
    ),
    *(
        Bad(
            f"cron {line!r}",
            "BackupSchedule",
            {"cron": line},
            "spec.cron",
            "cron needs five fields (minute, hour, day of the month, month, day of the week), such as 0 2 * * *",
        )
        for line in ("0 2 * *", "@daily", "every night", "0 0 2 * * *")
    ),
    *(
        Bad(
            f"cron {line!r}",
            "BackupSchedule",
            {"cron": line},
            "spec.cron",
            "cron never fires, because none of its months has such a day: choose a day that exists, or L for the last"
            " of each month",
        )
        for line in ("0 0 30 2 *", "0 0 31 feb *", "15 3 30,31 02 *", "0 0 31 4,6,9,11 *", "0 0 31 NOV *")
    ),
    Bad(
        "restore of nothing",
        "Restore",
        {"source": {"backup": None}},
        "spec.source",
        "set exactly one of backup (a Backup in this namespace), schedule (the newest good one of a BackupSchedule) and"
        " store (a backup in a store)",
    ),
    Bad(
        "restore of two things",
        "Restore",
        {"source": {"store": {"s3": S3}}},
        "spec.source",
        "set exactly one of backup (a Backup in this namespace), schedule (the newest good one of a BackupSchedule) and"
        " store (a backup in a store)",
    ),
    Bad(
        "restore from a store of no kind",
        "Restore",
        {"source": {"backup": None, "store": {}}},
        "spec.source.store",
        "set exactly one of s3, gcs and local: a store is of one kind",
    ),
    Bad(
        "restore from a claim that is yet to be made",
        "Restore",
        {"source": {"backup": None, "store": {"local": {"size": "1Gi"}}}},
        "spec.source.store",
        "a restore reads an existing volume: set local.claimName",
    ),
    Bad(
        "restore of a bucket at Google as it was",
        "Restore",
        {"source": {"backup": None, "store": {"gcs": GCS, "asOf": "2026-03-01T14:05:00Z"}}},
        "spec.source.store.asOf",
        "asOf goes with s3 only: stores of other kinds are read as they are now",
    ),
    Bad(
        "restore of a volume as it was",
        "Restore",
        {"source": {"backup": None, "store": {"local": {"claimName": "x"}, "asOf": "2026-03-01T14:05:00Z"}}},
        "spec.source.store.asOf",
        "asOf goes with s3 only: stores of other kinds are read as they are now",
    ),
    Bad(
        "restore into a name that another cluster's pooler has",
        "Restore",
        {"target": {"cluster": "orders-pooler"}},
        "spec.target.cluster",
        "a cluster's name cannot end in -pooler, because another cluster's objects may be called so: choose another"
        " name",
    ),
    Bad(
        "restore into a name that another cluster's objects have",
        "Restore",
        {"target": {"cluster": "orders-backup"}},
        "spec.target.cluster",
        "a cluster's name cannot end in -backup, because another cluster's objects may be called so: choose another"
        " name",
    ),
    Bad(
        "restore with a parameter of the operator",
        "Restore",
        {"target": {"overrides": {"parameters": {"fsync": "off"}}}},
        "spec.target.overrides.parameters",
        "parameter fsync belongs to Matriarch: it stays on, because an acknowledged write must be on disk. Remove it"
        " from parameters",
    ),
    Bad(
        "restore in place without the right word",
        "Restore",
        {"inPlace": {"confirm": "yes"}},
        "spec.inPlace.confirm",
        "inPlace.confirm must be copy, the cluster whose data is replaced",
    ),
    Bad(
        "overrides in place",
        "Restore",
        {"inPlace": {"confirm": "copy"}, "target": {"overrides": {"instances": 1}}},
        "spec.target",
        "overrides are for a new cluster: with inPlace change the DatabaseCluster itself",
    ),
    Bad(
        "an application by a label that cannot be",
        "Restore",
        {"inPlace": {"confirm": "copy", "applicationSelector": {"matchLabels": {"app=shop": "x"}}}},
        "spec.inPlace.applicationSelector.matchLabels",
        "matchLabels has a name that no label can have: write labels as `kubectl get deploy --show-labels` shows them",
    ),
    Bad(
        "a recovery to two targets",
        "Restore",
        {"recoveryTarget": {"to": "latest", "lsn": "0/3000148"}},
        "spec.recoveryTarget",
        "set exactly one of to (latest or immediate), time, lsn, xid and name",
    ),
    Bad(
        "a schedule's backup before a transaction",
        "Restore",
        {"source": {"backup": None, "schedule": {"name": "nightly"}}, "recoveryTarget": {"xid": "800"}},
        "spec.source.schedule",
        "no schedule knows which backup is before a transaction or a restore point: name a Backup",
    ),
    Bad(
        "WAL onto a logical backup",
        "Restore",
        {"source": {"backup": None, "store": {"s3": S3, "method": "logical"}}, "recoveryTarget": {"to": "latest"}},
        "spec.source.store.method",
        "WAL is replayed onto physical backups only: set source.store.method to physical, or leave recoveryTarget out",
    ),
    Bad(
        "a restore run again",
        "Restore",
        {"target": {"cluster": "other"}},
        "spec",
        "the spec cannot change, because this runs only once: make a new object instead",
        old={},
        twin=False,
    ),
)

GOOD: tuple[tuple[str, str, Object], ...] = (
    (
        "an archive",
        "DatabaseCluster",
        {"backup": {"stores": [{"name": "main", "s3": S3}], "walArchive": {"store": "main", "maxRate": "20Mi"}}},
    ),
    (
        "an archive in a bucket at Google",
        "DatabaseCluster",
        {
            "backup": {
                "stores": [
                    {"name": "main", "gcs": GCS},
                    {
                        "name": "own",
                        "gcs": {
                            "bucket": "b-1",
                            "prefix": "a/b",
                            "projectId": "acme-prod",
                            "endpoint": "https://gcs.example:4443",
                            "credentials": {"secretName": "gcs", "key": "account.json"},
                            "ca": {"secretName": "ca"},
                        },
                    },
                ],
                "walArchive": {"store": "main"},
            }
        },
    ),
    ("smallest", "DatabaseCluster", {}),
    ("version as a number", "DatabaseCluster", {"version": 17}),
    ("one instance", "DatabaseCluster", {"instances": 1}),
    ("older word", "DatabaseCluster", {"replication": {"mode": "master-slave"}}),
    ("async", "DatabaseCluster", {"replication": {"sync": {"mode": "async"}}}),
    (
        "everything",
        "DatabaseCluster",
        {
            "engine": "postgresql",
            "instances": 9,
            "primary": "orders-9",
            "replication": {
                "mode": "primary-replica",
                "sync": {"mode": "quorum", "number": 8, "durability": "preferred"},
                "priorities": [{"instance": "orders-1", "priority": 200}, {"instance": "orders-9", "priority": 0}],
                "healthCheck": {"intervalMilliseconds": 10000, "timeoutMilliseconds": 5000},
                "syncIntervalMilliseconds": 30000,
                "reads": "bounded",
            },
            "replica": {
                "enabled": False,
                "source": {
                    "host": "10.1.2.3",
                    "port": 5433,
                    "user": "copier",
                    "sslMode": "verify-ca",
                    "secret": {"name": "source"},
                },
                "promotionToken": DEMOTION_TOKEN,
            },
            "storage": {"size": "1.5Ti", "storageClassName": "fast"},
            "resources": {"requests": {"cpu": 2, "memory": "4Gi"}, "limits": {"memory": "4Gi"}},
            "scheduling": {
                "nodeSelector": {"disk": "nvme"},
                "tolerations": [{"key": "db", "operator": "Exists", "effect": "NoSchedule"}],
                "spread": [
                    {"topologyKey": "kubernetes.io/hostname", "rule": "required"},
                    {"topologyKey": "topology.kubernetes.io/zone"},
                ],
                "priorityClassName": "important",
            },
            "parameters": {"max_connections": 200, "work_mem": "64MB", "pgaudit.log": "ddl", "jit": "off"},
            "superuserAccess": True,
            "bootstrap": {"database": "shop", "owner": "shop"},
            "backup": {
                "stores": [
                    {
                        "name": "s3",
                        "s3": {
                            "bucket": "backups",
                            "prefix": "prod/eu",
                            "region": "eu-central-1",
                            "endpoint": "https://s3.example.com:9000",
                            "forcePathStyle": True,
                            "credentials": {
                                "secretName": "s3",
                                "accessKeyIdKey": "id",
                                "secretAccessKeyKey": "secret",
                            },
                            "ca": {"secretName": "s3-ca", "key": "ca.crt"},
                        },
                    },
                    {"name": "claim", "local": {"claimName": "old"}},
                    {"name": "volume", "local": {"size": "20Gi", "storageClassName": "slow"}},
                ],
                "encryption": {"keySecret": {"name": "key", "key": "k"}},
                "compression": "gzip",
            },
            "deletionPolicy": "Retain",
            "image": "registry.example.com/postgres:17",
            "imagePullSecrets": [{"name": "registry"}],
        },
    ),
    (
        "plaintext in so many words",
        "DatabaseCluster",
        {"backup": {"stores": [{"name": "s", "s3": S3}], "encryption": {"disabled": "i-accept-plaintext-backups"}}},
    ),
    ("by hand", "Backup", {}),
    ("by hand, all fields", "Backup", {"method": "logical", "store": "s3", "target": "primary"}),
    ("by hand, physical", "Backup", {"method": "physical"}),
    ("by hand, incremental", "Backup", {"method": "physical", "incremental": {}}),
    ("schedule", "BackupSchedule", {}),
    *(
        (f"cron {line!r}", "BackupSchedule", {"cron": line})
        for line in (
            "0 0 29 2 *",
            "*/5 * * * MON-FRI",
            "0 0 L * *",
            "0 0 31 1,4 *",
            "0 0 30 2 1",
            "0 0 * * 5L",
            "0 0 LW * *",
        )
    ),
    (
        "schedule, all fields",
        "BackupSchedule",
        {
            "timeZone": "America/Argentina/Buenos_Aires",
            "suspend": True,
            "method": "physical",
            "incremental": {"maxIncrements": 13},
            "store": "s3",
            "target": "prefer-replica",
            "retention": {"days": 30, "count": 7},
            "history": {"successful": 7, "failed": 0},
            "concurrency": "Allow",
            "startingDeadlineSeconds": 600,
        },
    ),
    ("restore", "Restore", {}),
    ("restore in place", "Restore", {"inPlace": {"confirm": "copy"}}),
    (
        "restore in place, the application stopped",
        "Restore",
        {"inPlace": {"confirm": "copy", "applicationSelector": {"matchLabels": {"example.com/app": "shop", "t": ""}}}},
    ),
    (
        "a recovery in place",
        "Restore",
        {"inPlace": {"confirm": "copy", "skipSafetyBackup": True}, "recoveryTarget": {"to": "latest"}},
    ),
    (
        "a physical backup of a store in place",
        "Restore",
        {"inPlace": {"confirm": "copy"}, "source": {"backup": None, "store": {"s3": S3, "method": "physical"}}},
    ),
    ("restore to a second", "Restore", {"recoveryTarget": {"time": "2026-03-01T14:05:00.123456+01:00"}}),
    (
        "restore of a schedule's newest backup",
        "Restore",
        {"source": {"backup": None, "schedule": {"name": "nightly"}}, "recoveryTarget": {"to": "latest"}},
    ),
    ("restore to a transaction", "Restore", {"recoveryTarget": {"xid": "800"}}),
    (
        "restore of a physical backup in a store",
        "Restore",
        {
            "source": {"backup": None, "store": {"s3": S3, "method": "physical"}},
            "recoveryTarget": {"lsn": "0/3000148"},
        },
    ),
    (
        "restore from a store, all fields",
        "Restore",
        {
            "source": {
                "backup": None,
                "store": {
                    "s3": S3,
                    "cluster": "prod/orders-7523",
                    "backupId": "backup-2024-01-15T02:00:00.000Z-abc123.sql.gz.enc",
                    "keySecret": {"name": "key"},
                },
            },
            "target": {
                "overrides": {
                    "instances": 1,
                    "storage": {"size": "20Gi", "storageClassName": "fast"},
                    "resources": {"requests": {"cpu": "500m"}},
                    "scheduling": {"nodeSelector": {"a": "b"}},
                    "parameters": {"work_mem": "1MB"},
                    "backup": {"stores": [{"name": "v", "local": {"size": "1Gi"}}]},
                    "image": "x",
                }
            },
        },
    ),
)
