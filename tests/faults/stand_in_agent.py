"""Takes the agent's place in a Pod of namespaces: carries out what a test tells it through `agent.sock`.

It talks to the supervisor by the agent's own client, so that both ends are tested together.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matriarch.agent.beatcodec import state_of
from matriarch.agent.heartbeat_client import HeartbeatClient
from matriarch.agent.supervisor_client import SupervisorClient
from matriarch.errors import MatriarchError


async def main(run: Path) -> None:
    supervisor = await SupervisorClient.connect(str(run / "supervisor.sock"))
    heartbeat = HeartbeatClient(str(run / "heartbeat.sock"))
    views: list[dict[str, Any]] = []

    async def collect() -> None:
        while True:
            async with heartbeat.changed:
                await heartbeat.changed.wait()
                views.append({"received": heartbeat.received, **asdict(heartbeat.view)})
                del views[:-2000]

    collecting = asyncio.create_task(collect())

    async def carry_out(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            order = json.loads(line)
            answer: dict[str, Any] = {}
            try:
                match order["call"]:
                    case "exit":
                        os._exit(order["status"])
                    case "event":
                        event = await asyncio.wait_for(supervisor.events.get(), order["timeout"])
                        answer["result"] = {"type": type(event).__name__, **asdict(event)}
                    case "shell":  # a tool of the agent's own
                        tool = await asyncio.create_subprocess_exec("/bin/sh", "-c", order["script"])
                        answer["result"] = tool.pid
                    case "state":
                        answer["result"] = asdict(await supervisor.state())
                    case "beat":
                        sent = state_of(order["state"])
                        await heartbeat.send(sent)
                        answer["result"] = await heartbeat.in_force(sent.sequence, 5)
                    case "views":
                        answer["result"] = views
                    case call:
                        answer["result"] = await getattr(supervisor, call)(*order.get("arguments", []))
            except (MatriarchError, TimeoutError) as error:
                answer["error"] = f"{type(error).__name__}: {error}"
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()

    path = run / "agent.sock"
    path.unlink(missing_ok=True)
    await asyncio.start_unix_server(carry_out, path)
    await collecting


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
