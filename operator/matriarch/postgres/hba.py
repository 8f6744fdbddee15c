"""Who may log in: pg_hba.conf and pg_ident.conf.

Voters are counted by name, so the roles that can take such a name admit nothing but certificates of this cluster's
instances (S7); everybody else comes with a password over TLS. Rules are read from the top, the first match decides.
Pure.
"""

from __future__ import annotations

import re

AGENT_MAP = "agent"
INSTANCES_MAP = "agents"

_HBA = """\
# Written by Matriarch; changes are overwritten.
# type   database     user                              address  method
local    all          postgres                                   peer map={agent}
local    all          all                                        reject
hostssl  replication  matriarch_stream,matriarch_clone  all      cert map={instances}
hostssl  postgres     matriarch_rewind,matriarch_stream  all     cert map={instances}
hostssl  replication,postgres  matriarch_replica        all      cert
hostssl  all          matriarch_backup                  all      cert
hostssl  postgres     matriarch_pooler                  all      {pooler}
hostssl  all          postgres                          all      {superuser}
host     all          postgres,"/^matriarch_"           all      reject
host     replication  all                               all      reject
hostssl  all          all                               all      {clients}
host     all          all                               all      reject
"""

_IDENT = """\
# Written by Matriarch; changes are overwritten.
# map    certificate or system user     role
{agent}    {system_user}    postgres
{instances}    "/^{cluster}-[1-9]$"    matriarch_stream
{instances}    "/^{cluster}-[1-9]$"    matriarch_clone
{instances}    "/^{cluster}-[1-9]$"    matriarch_rewind
"""


def render_hba(*, superuser_access: bool = False, clients: bool = True) -> str:
    """pg_hba.conf. Without `superuser_access` nobody but a restore's certificate (CN postgres) is a superuser.

    Without `clients` the door is closed: a primary that has just started may hold what nobody was acknowledged, and
    that must not be read before enough voters hold it too.
    """
    superuser = "scram-sha-256" if superuser_access else "cert"
    return _HBA.format(
        agent=AGENT_MAP,
        instances=INSTANCES_MAP,
        superuser=superuser,
        pooler="cert" if clients else "reject",  # so the pooler knows from its own login that others will get in
        clients="scram-sha-256" if clients else "reject",
    )


def render_ident(cluster: str, system_user: str) -> str:
    """pg_ident.conf. `system_user`: who the agent is to the kernel; it alone is `postgres` on the local socket.

    Raises ValueError for names that could mean more than themselves in these files.
    """
    if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", cluster):
        msg = f"not a cluster's name: {cluster!r}"
        raise ValueError(msg)
    if not re.fullmatch(r"[a-z_][a-z0-9_.-]*", system_user):
        msg = f"not a system user: {system_user!r}"
        raise ValueError(msg)
    pattern = cluster.replace(".", r"\.")
    return _IDENT.format(agent=AGENT_MAP, instances=INSTANCES_MAP, cluster=pattern, system_user=system_user)
