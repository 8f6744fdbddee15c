"""The agent's process: `python -m matriarch.agent.main`, started and restarted by the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import sys
from collections.abc import Coroutine

from matriarch.agent import candidate, mutant, sites, stepdown
from matriarch.agent.api import Api
from matriarch.agent.archiving import Archiving
from matriarch.agent.canary import Canary
from matriarch.agent.clock import SECOND, boottime
from matriarch.agent.clockjump import watch_clock
from matriarch.agent.config import ClusterConfig, Environment
from matriarch.agent.events import Notices
from matriarch.agent.formerwal import FormerWal
from matriarch.agent.heartbeat_client import HeartbeatClient
from matriarch.agent.instance import Instance
from matriarch.agent.leases import Leases
from matriarch.agent.loop import Loop
from matriarch.agent.memberfiles import MemberFiles
from matriarch.agent.peers import Peers
from matriarch.agent.postgres import files as postgres_files
from matriarch.agent.postgres.facts import Identity, Paths
from matriarch.agent.postgres.server import Server
from matriarch.agent.renewals import keep_renewing
from matriarch.agent.replaced import ReplacedData
from matriarch.agent.reserve import Reserve
from matriarch.agent.rhythm import TURN
from matriarch.agent.routing import Routing
from matriarch.agent.space import Volume
from matriarch.agent.summarizer import Summarizer
from matriarch.agent.supervisor_client import ProcessExit, SupervisorClient, TerminationRequested
from matriarch.agent.tls import Tls
from matriarch.agent.transitions import note, note_lease
from matriarch.agent.watches import read_lease_sometimes, restarting, watch_config, watch_lease, watch_slices
from matriarch.decide import departure, leasetext
from matriarch.decide.lease import LeaseState
from matriarch.decide.member import Member
from matriarch.errors import Corrupt, MatriarchError, Refused, Unavailable
from matriarch.kube.client import Kube

log = logging.getLogger("matriarch.agent")

SHORT_GRACE = 5 * SECOND


class Agent:
    """Wires the parts and runs their tasks."""

    def __init__(self, instance: Instance, tls: Tls) -> None:
        self.instance = instance
        self.tls = tls
        self.loop = Loop(instance)
        self.elect_now = asyncio.Event()
        self.work: set[asyncio.Task[None]] = set()
        self.api = Api(
            instance,
            tls,
            elect=self.elect_now.set,
            won=self._won,
            switchover=lambda heir: self._spawn(self._switchover(heir)),
            restart=lambda: self._spawn(self._restart()),
        )

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self.work.add(task)
        task.add_done_callback(self.work.discard)

    def _won(self, won: candidate.Won) -> None:
        self.loop.won = won
        self.instance.nudge()

    async def run(self) -> None:
        """Until the supervisor wants the pod to end."""
        instance = self.instance
        if name := next(filter(mutant.is_on, mutant.MUTANTS), ""):
            log.error("built to lose data: the mutant %s is on", name)
        await self.api.start()
        loop = asyncio.create_task(self.loop.run())
        archiving = Archiving(instance)
        jobs = {
            "watch of the Lease": lambda: watch_lease(instance),
            "watch of the configuration": lambda: watch_config(instance),
            "watch of the slices": lambda: watch_slices(instance),
            "reads of the Lease": lambda: read_lease_sometimes(instance),
            "renewals": lambda: keep_renewing(instance),
            "clock": lambda: watch_clock(instance),
            "own address": self._announce,
            "candidacy": self._candidacy,
            "guard": self._guard,
            "canary": lambda: Canary(instance).watch(),
            "certificates": self._certificates,
            "designated primary": lambda: sites.keep_designated(instance),
            "archive": archiving.keep,
            "room of the volume": Volume(instance, Reserve(), Notices(instance)).keep,
            "replaced data": ReplacedData(instance).keep,
            "WAL of former timelines": FormerWal(instance).keep,
            "WAL summarizer": Summarizer(instance).keep,
        }
        tasks = [asyncio.create_task(restarting(name, work)) for name, work in jobs.items()]  # type: ignore[arg-type]
        try:
            await self._events()
        finally:
            instance.terminating = True
            loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await loop
            others = self._heirs()  # now: of the successor's Lease this instance is no holder
            with contextlib.suppress(MatriarchError):
                await self._step_down()
            await self._see_clients_off(others)
            for task in (*tasks, *self.work):
                task.cancel()
            await archiving.close()
            await self.api.close()
            await instance.peers.close()
            await instance.kube.close()

    async def _events(self) -> None:
        """What PID 1 reports. Returns when the pod is to end."""
        while True:
            event = await self.instance.supervisor.events.get()
            match event:
                case TerminationRequested():
                    log.info("asked to end, %.1f s left", (event.deadline - boottime()) / SECOND)
                    return
                case ProcessExit() if self.instance.server.postmaster() is None:
                    try:
                        await stepdown.postgres_ended(self.instance, event.status)
                    except MatriarchError as e:
                        log.error("after PostgreSQL's end: %s", e)
                        self.instance.reason = str(e)
                    self.instance.nudge()

    async def _guard(self) -> None:
        """Ends a deposed PostgreSQL at once, whatever the loop waits for."""
        instance = self.instance
        while True:
            await instance.leases.changed.wait()
            instance.leases.changed.clear()
            lease = instance.lease
            if instance.mute and not instance.is_holder:
                instance.mute = False
            runs = instance.server_role == "primary" or (instance.server_role == "starting" and instance.starts_primary)
            if lease is not None and not instance.is_holder and runs and lease.epoch:
                log.warning("%s holds epoch %d: this instance is deposed", lease.holder, lease.epoch)
                with contextlib.suppress(MatriarchError):
                    await stepdown.depose(instance)
            await instance.sync_beats()
            instance.nudge()

    async def _candidacy(self) -> None:
        """Look for a lost holder at every beat, and when one is overdue."""
        instance, failures, wait = self.instance, 0, TURN
        while True:
            await instance.heartbeat.next_view(wait)
            self.elect_now.clear()
            answer = candidate.suspicion(instance, others_answering=1)
            wait = candidate.next_look(answer, leads=instance.is_holder)
            if instance.terminating or not answer.yes:
                instance.refusal = candidate.refusal(instance, answer)
                failures = 0
                continue
            pause = 0.0
            try:
                won = await candidate.stand(instance)
                if won is not None:
                    self._won(won)
                    failures = 0
                    continue
                pause = 0.3
            except candidate.NotNow as e:
                log.info("no election now: %s", e)
                instance.refusal, pause = str(e), e.wait
            except (Unavailable, MatriarchError) as e:
                log.info("election broken off: %s", e)
                instance.refusal, pause = str(e), 0.2
            failures += 1
            pause = min(max(pause, 0.02) + 0.02 * failures, 2.0)
            await asyncio.sleep(min(pause, 0.4))  # a request does not make two candidates out of one
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(pause - 0.4, 0)):
                    await self.elect_now.wait()

    async def _announce(self) -> None:
        while True:
            await self.instance.routing.announce()
            await asyncio.sleep(5.0)

    async def _certificates(self) -> None:
        while True:
            await asyncio.sleep(10.0)
            if self.tls.refresh():
                log.info("new certificate")
            await self.instance.server.reload_tls()

    async def _switchover(self, heir: Member) -> None:
        try:
            lease = self.instance.lease
            follows = lease is not None and lease.mode == "follow"
            await (sites.hand_on if follows else stepdown.switchover)(self.instance, heir)
        except MatriarchError as e:
            log.warning("switchover to %s: %s", heir.instance, e)

    async def _restart(self) -> None:
        """A clean stop; the loop starts it again by its own rules."""
        instance = self.instance
        instance.busy = "restarting"
        stopping = contextlib.ExitStack()
        try:
            async with instance.control:
                stopping.enter_context(instance.wanted_stop())
                await stepdown.stop(instance, "restarting", timeout=60.0)
        except MatriarchError as e:
            log.warning("restart: %s", e)
        finally:
            instance.busy = ""
            stopping.close()
            instance.nudge()

    async def _step_down(self) -> None:
        """The pod ends: hand over if there is time, fence if there is not, and stop what runs."""
        instance = self.instance
        lease = instance.lease
        hands_over = lease is not None and lease.mode != "alone" and lease.filling is None
        if instance.server_role == "primary" and instance.is_holder and lease is not None and hands_over:
            if await self._short_grace():
                if lease.mode == "async":
                    with instance.wanted_stop():
                        await instance.server.stop("fast", timeout=1.0)  # it ends when the replicas have all
                await stepdown.fence(instance, "the pod is ended without grace")
                return
            for voter in lease.voters:
                try:
                    heir = await stepdown.check_heir(instance, voter.instance)
                except MatriarchError:
                    continue
                await stepdown.switchover(instance, heir)
                return
            with instance.wanted_stop():
                await instance.server.stop("fast", timeout=20.0)  # clean, for the restart: nobody can take over now
                if lease.mode == "async":
                    return  # a word would let them elect at once, without what only this volume has
                await stepdown.fence(instance, "the pod ends, and no replica can take over in order")
            return
        instance.stopping += 1  # for good
        if lease is not None and lease.filling is not None:
            await stepdown.stop(instance, "a Restore replaces the data", timeout=45.0)
            return
        if not await instance.server.stop("fast", timeout=45.0):
            await stepdown.end_postgres(instance)

    def _heirs(self) -> int:
        lease = self.instance.lease
        return len(lease.voters) if lease is not None and lease.filling is None else 0

    async def _see_clients_off(self, others: int) -> None:
        """Stay while clients are still led here: an address that is gone answers nothing (`decide.departure`)."""
        routing, ended = self.instance.routing, boottime()
        while True:
            now = boottime()
            facts = departure.Facts(now=now, ended=ended, led_here=routing.led_here(now), others=others)
            if not departure.stays(facts):
                return
            await asyncio.sleep(0.1)

    async def _short_grace(self) -> bool:
        """Whether the pod is to be gone within 5 s, or is gone from the API already. No answer counts as short."""
        env = self.instance.env
        try:
            pod = await self.instance.kube.get("Pod", env.namespace, env.instance, timeout=0.5)
        except MatriarchError:
            return True
        if pod is None or pod["metadata"]["uid"] != env.pod_uid:
            return True
        return int(pod["metadata"].get("deletionGracePeriodSeconds") or 60) * SECOND < SHORT_GRACE


async def connect(env: Environment) -> tuple[Instance, Tls]:
    """Everything that the agent stands on. Raises MatriarchError when the pod lacks something."""
    reserve = Reserve()
    postgres_files.RESERVE = reserve
    files = await asyncio.to_thread(MemberFiles, reserve=reserve)
    supervisor = await SupervisorClient.connect()
    heartbeat = await HeartbeatClient.connect()
    kube = Kube.connect(timeout=5.0, manager="matriarch-agent")
    tls = Tls()

    def keep(state: LeaseState) -> None:
        files.keep_lease({"state": leasetext.encode(state)})

    leases = Leases(kube, env.cluster, env.namespace, env.labels, keep=keep)
    addresses: dict[str, str] = {}
    peers = Peers(tls, address=addresses.get, hostname=env.hostname)
    known = await asyncio.to_thread(files.incarnation)
    identity = Identity(env.cluster, env.namespace, env.instance, known.id if known else "", env.pod_ip)
    server = Server(Paths(), identity, supervisor)
    instance = Instance(
        env, files, kube, leases, supervisor, heartbeat, server, Routing(kube, env), peers, addresses=addresses
    )
    await server.settle()
    if await _holds_data(server):
        known = await asyncio.to_thread(files.ensure_incarnation, env.claim_uid)
    instance.me = Member(env.instance, known.id) if known else None
    instance.promised = await asyncio.to_thread(files.promise)
    instance.fenced = await asyncio.to_thread(files.fenced)
    _recall(instance)
    if server.postmaster() is not None:  # the agent restarted, PostgreSQL did not
        instance.server_role = "starting"
        instance.armed = instance.guarded = (await supervisor.state()).armed
        await instance.look(timeout=2.0)
    leases.noted = functools.partial(note_lease, instance)
    note(instance, "start")
    return instance, tls


async def _holds_data(server: Server) -> bool:
    """Also data that cannot be read: what becomes of it is decided later, with what the Lease says."""
    try:
        return await server.control_data() is not None
    except Corrupt as e:
        log.error("%s", e)
        return True


def _recall(instance: Instance) -> None:
    """The copies on the volume, until the API server has answered."""
    kept = instance.files.lease()
    if kept is not None:
        with contextlib.suppress(ValueError, KeyError):
            state: LeaseState = leasetext.decode(kept["state"])
            instance.leases.state = state
    config = instance.files.config()
    if config is not None:
        with contextlib.suppress(ValueError):
            instance.config = ClusterConfig.parse(config)


async def amain() -> int:
    try:
        env = Environment.read()
        instance, tls = await connect(env)
    except (Refused, Unavailable) as e:
        log.error("%s", e)
        return 1
    await Agent(instance, tls).run()
    return 0


async def _to_its_end() -> None:
    """Everything was ended in order when `amain` returns. asyncio.run would cancel what is left and wait for it, and
    that of Python 3.11 waits for ever for a program of which it cancels the start."""
    status = await amain()
    logging.shutdown()
    sys.stderr.flush()
    os._exit(status)


def main() -> None:
    logging.basicConfig(
        level=os.environ.get("MATRIARCH_LOG_LEVEL", "INFO"),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    asyncio.run(_to_its_end())


if __name__ == "__main__":
    main()
