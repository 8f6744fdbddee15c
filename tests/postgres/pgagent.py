"""An agent's one call in a process of its own, so that tests can kill it at any instant.

python pgagent.py '{"paths": [...], "identity": [...], "settings": {...}, "call": "clone", "upstream": {...}}'
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from matriarch.agent.postgres.server import Identity, Paths, Server
from matriarch.postgres.conninfo import Upstream
from matriarch.postgres.settings import ServerSettings
from tests.postgres.pgbox import Spawner


async def main(task: dict[str, object]) -> None:
    paths = Paths(*(Path(p) for p in task["paths"]))  # type: ignore[attr-defined]  # JSON of our own
    spawner = Spawner(Path(str(task["log"])))
    server = Server(paths, Identity(*task["identity"]), spawner)  # type: ignore[misc,arg-type]  # the same
    await server.configure(ServerSettings(**task["settings"]))  # type: ignore[arg-type]  # the same
    await server.settle()
    call = getattr(server, str(task["call"]))
    upstream = task.get("upstream")
    print(await (call(Upstream(**upstream)) if upstream else call()))  # type: ignore[arg-type]  # the same


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
