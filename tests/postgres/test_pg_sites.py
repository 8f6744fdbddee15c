"""Two sites as their agents drive them: copied, demoted, promoted by the token, and back; with crashes in between.

The agent's loop is the real one, and so is PostgreSQL. The API server is a dictionary with its compare-and-swap, and
each cluster has one instance, so there is no heartbeat and nobody to ask.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from matriarch.agent import follow, lead, settings
from matriarch.agent import sites as sites_of_agents
from matriarch.agent.api import Api as AgentApi
from matriarch.agent.beat import HeartbeatState, HeartbeatView
from matriarch.agent.config import ClusterConfig, Environment, ReplicaConfig
from matriarch.agent.instance import Instance
from matriarch.agent.leases import Leases
from matriarch.agent.loop import Loop
from matriarch.agent.memberfiles import MemberFiles
from matriarch.agent.renewals import keep_renewing
from matriarch.agent.status import instance_status
from matriarch.decide import designation, following, leasetext
from matriarch.decide.lease import LeaseState
from matriarch.decide.member import Member as Named
from matriarch.errors import Unavailable
from matriarch.kube.errors import Conflict
from matriarch.postgres.conninfo import Upstream
from matriarch.postgres.preload import Door
from matriarch.postgres.settings import ServerSettings
from tests.postgres.pgbox import Box, Member, eventually
from tests.postgres.test_pg_replica_cluster import mount

pytestmark = pytest.mark.timeout(240)


class Api:
    """One cluster's Lease. With `lose`, that many answers to writes are lost after they landed; none comes while
    `away`."""

    def __init__(self, state: LeaseState) -> None:
        self.lose = 0
        self.away = False
        self.seen: Leases | None = None
        self.object = leasetext.to_manifest(
            state, cluster="c", namespace="n", renew_time="t", labels={}, resource_version="1"
        )

    @property
    def state(self) -> LeaseState:
        return leasetext.from_manifest(self.object).state

    async def get(self, *_: object, **__: object) -> dict[str, Any]:
        self._answers()
        return copy.deepcopy(self.object)

    async def replace(self, obj: dict[str, Any], **_: object) -> dict[str, Any]:
        self._answers()
        version = self.object["metadata"]["resourceVersion"]
        if obj["metadata"]["resourceVersion"] != version:
            raise Conflict("changed", status=409, reason="Conflict")
        self.object = copy.deepcopy(obj)
        self.object["metadata"]["resourceVersion"] = str(int(version) + 1)
        if self.lose:
            self.lose -= 1
            raise Unavailable("the answer was lost")
        return copy.deepcopy(self.object)

    def _answers(self) -> None:
        if self.away:
            raise Unavailable("the API server is away")


class StandIn:
    """The supervisor, the heartbeat and the routes of an instance; and its peers, those that run."""

    def __init__(self, member: Member, cluster: dict[str, Site]) -> None:
        self.member, self.cluster = member, cluster
        self.view = HeartbeatView(sequence=0)
        self.routed: dict[str, Any] = {}
        self.away_at = 0

    async def send(self, state: HeartbeatState) -> None:
        self.view = replace(self.view, sequence=state.sequence)

    async def in_force(self, sequence: int, timeout: float) -> bool:
        return self.view.sequence >= sequence

    def led_here(self, now: int) -> int:
        return 0

    async def arm(self) -> None: ...

    async def disarm(self) -> None: ...

    async def end_others(self, timeout: float) -> bool:
        self.member.kill()
        return True

    async def get(self, instance: str, path: str, **_: object) -> dict[str, Any]:
        assert path == "/v1/status"
        return await instance_status(self._peer(instance))

    async def post(self, instance: str, path: str, body: dict[str, Any], **_: object) -> dict[str, Any]:
        peer: Any = self._peer(instance)
        handlers: Any = AgentApi(peer, None, elect=peer, won=peer, switchover=peer, restart=peer)  # type: ignore[arg-type]
        found: dict[str, Any] = await getattr(handlers, path.rpartition("/")[2])(None, body)
        return found

    def _peer(self, instance: str) -> Instance:
        found = self.cluster.get(instance)
        if found is None or found.task is None or found.task.done():
            raise Unavailable(f"{instance} is away")
        return found.instance

    async def write(self, epoch: int, wanted: dict[str, Any], **_: object) -> None:
        self.routed.update(wanted)

    async def lead_here(self, *_: object, **__: object) -> None: ...

    async def label(self, *_: object, **__: object) -> None: ...

    def forget_labels(self, *_: object) -> None: ...

    def leads_to(self, *_: object) -> bool:
        return True


class Site:
    """An instance and the agent that drives it; most clusters here have one."""

    def __init__(
        self, member: Member, api: Api, replica: ReplicaConfig, cluster: dict[str, Site] | None = None
    ) -> None:
        self.member, self.api = member, api
        self.replica = replica
        self.cluster = {} if cluster is None else cluster
        self.cluster[member.instance] = self
        self.files = MemberFiles(member.paths.volume / "member")
        self.task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """A new agent, as after its start in a pod."""
        member, others = self.member, StandIn(self.member, self.cluster)
        member.server = member.new_agent()
        await member.server.settle()
        env = Environment("c", "n", member.instance, member.address, "pod", "node", "claim")
        leases = Leases(self.api, "c", "n", {}, keep=self._keep)  # type: ignore[arg-type]  # all they need of one
        stand_in: Any = others
        names = tuple(sorted(self.cluster))
        self.instance = Instance(
            env, self.files, stand_in, leases, stand_in, stand_in, member.server, stand_in, stand_in,
            config=ClusterConfig(1, names, len(names) - 1, required=False, replica=self.replica), config_fresh=True,
        )  # fmt: skip
        self.instance.addresses.update({n: s.member.address for n, s in self.cluster.items()})
        known = self.files.incarnation()
        self.instance.me = Named(member.instance, known.id) if known else None
        self.instance.fenced, self.instance.promised = self.files.fenced(), self.files.promise()
        if (kept := self.files.lease()) is not None:
            leases.state = leasetext.decode(kept["state"])
        if member.server.postmaster() is not None:
            self.instance.server_role = "starting"
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        jobs = (self._watch(), keep_renewing(self.instance), sites_of_agents.keep_designated(self.instance))
        tasks = [asyncio.create_task(job) for job in jobs]
        try:
            await Loop(self.instance).run()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(Unavailable):
                self.instance.leases.seen(await self.api.get())
                self.instance.nudge()
            await asyncio.sleep(0.1)

    def _keep(self, state: LeaseState) -> None:
        self.files.write_lease({"state": leasetext.encode(state)})

    async def crash(self) -> None:
        """Agent and server."""
        if self.task is not None:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task
        self.member.kill()

    def wish(self, **change: Any) -> None:
        self.replica = replace(self.replica, **change)
        assert self.instance.config is not None
        self.instance.config = replace(self.instance.config, replica=self.replica)
        self.instance.nudge()

    async def leads(self) -> None:
        await eventually(lambda: self.instance.door == "open", f"{self.member.instance} leads", within=60)

    async def follows(self) -> None:
        await eventually(lambda: self.instance.site.get("streaming"), f"{self.member.instance} follows", within=60)

    async def demoted(self) -> str:
        await eventually(lambda: self.api.state.mode == "follow", "demoted", within=60)
        assert self.api.state.site is not None
        return self.api.state.site.demoted

    async def count(self) -> object:
        return await self.member.value("SELECT count(*) FROM t")

    async def counts(self, number: int) -> None:
        async def seen() -> bool:
            try:
                return await self.count() == number
            except (asyncpg.PostgresError, OSError):
                return False  # it has just started

        await eventually(seen, f"{number} rows at {self.member.instance}", within=30)


@pytest.fixture
async def sites(box: Box, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Site, Site]]:
    """`home` leads, `away` has just been created and copies it."""
    monkeypatch.setattr(lead, "_secret", lambda name: "secret" if name == "app" else None)
    real = settings.server_settings

    def here(instance: Instance, names: str, *, door: Door) -> ServerSettings:
        own = next(m for m in box.members if m.instance == instance.env.instance).settings
        made = real(instance, names, door=door)
        return replace(
            made, parameters=own.parameters, preload=(), listen_addresses=own.listen_addresses, port=own.port,
            system_user=own.system_user,
        )  # fmt: skip

    monkeypatch.setattr(settings, "server_settings", here)
    upstream = follow.Follower.upstream

    def of_this_box(self: follow.Follower, holder: Named, address: str) -> Upstream:
        return replace(upstream(self, holder, address), hostname=holder.instance, port=box.port)

    async def reachable(address: str) -> None: ...

    monkeypatch.setattr(follow.Follower, "upstream", of_this_box)
    monkeypatch.setattr(follow, "_reachable", reachable)
    monkeypatch.setattr(designation, "AWAY", 4 * designation.SECOND)
    one, two = await box.primary(), box.member(2)
    await one.sql("CREATE TABLE t (i int)")
    status = await one.server.status()
    assert status is not None
    assert await one.server.stop("fast")
    for member in (one, two):
        mount(member, box.ca)

    def source(of: Member, *, enabled: bool) -> ReplicaConfig:
        return ReplicaConfig(enabled, of.address, box.port, ssl_mode="verify-ca")

    files = MemberFiles(one.paths.volume / "member")
    me = Named(one.instance, files.ensure_incarnation("claim").id)
    leads = LeaseState(1, me, one.instance, mode="alone", system_identifier=status.system_identifier, opened=True)
    home = Site(one, Api(leads), source(two, enabled=False))
    away = Site(two, Api(following.initial(two.instance)), source(one, enabled=True))
    await home.start()
    await home.leads()
    await away.start()
    await away.follows()
    yield home, away
    for each in (home, away):
        await each.crash()
    # Each has a limit. What a loop that closes cancels while a program is being started is waited for without an end.
    asking = [t for t in asyncio.all_tasks() if "_ask_source" in repr(t.get_coro())]
    if asking:
        await asyncio.wait(asking, timeout=60)


async def test_the_role_moves_by_a_token_and_back(sites: tuple[Site, Site]) -> None:
    home, away = sites
    await home.member.sql("INSERT INTO t VALUES (1)")
    await away.counts(1)
    state = away.api.state
    assert (state.mode, state.epoch, state.holder) == ("follow", 1, away.instance.me)
    for old, new, rows in ((home, away, 2), (away, home, 3)):
        new.wish(enabled=True, token="")
        old.wish(enabled=True, token="")
        token = await old.demoted()
        new.wish(enabled=False, token=token)
        await new.leads()
        assert new.api.state.mode == "alone"
        await new.member.sql("INSERT INTO t VALUES (2)")
        await old.follows()
        await old.counts(rows)
        timeline = new.api.state.timeline
        await eventually(lambda o=old, t=timeline: o.api.state.timeline == t, "the line is recorded", within=20)


async def test_a_token_is_refused_waits_and_is_used_once(sites: tuple[Site, Site]) -> None:
    home, away = sites
    away.wish(enabled=False)
    await eventually(lambda: away.instance.site.get("promotion") == "refuse", "refused without a token")
    assert "needs replica.promotionToken" in away.instance.site["message"]
    await home.member.sql("INSERT INTO t VALUES (1)")
    await away.counts(1)  # it follows on
    await away.member.server.cut_stream()
    away.instance.following = None
    home.wish(enabled=True)
    token = await home.demoted()
    away.wish(token=token)
    await away.leads()
    assert away.api.state.site is not None
    used = away.api.state.epoch
    away.wish(enabled=True, token="")
    await away.demoted()
    away.wish(enabled=False, token=token)
    await eventually(lambda: away.instance.site.get("promotion") == "refuse", "refused the second time", within=30)
    assert "a token promotes once" in away.instance.site["message"]
    assert away.api.state.epoch > used
    assert away.instance.server_role == "standby"


@pytest.mark.parametrize("lost", [False, True])
async def test_crashes_around_both_swaps(sites: tuple[Site, Site], *, lost: bool) -> None:
    home, away = sites
    home.api.lose = away.api.lose = int(lost)
    home.wish(enabled=True)
    token = await home.demoted()
    await home.crash()
    away.wish(enabled=False, token=token)
    await eventually(lambda: away.api.state.mode == "alone", "the promotion is decided", within=60)
    await away.crash()
    await home.start()
    await away.start()
    await away.leads()
    await away.member.sql("INSERT INTO t VALUES (1)")
    await home.follows()
    await home.counts(1)
    assert home.instance.server_role == "standby"


async def moved(home: Site, away: Site) -> dict[str, Any]:
    """The role, by a token; the copy of the Lease that `away` had before."""
    home.wish(enabled=True)
    token = await home.demoted()
    before = away.files.lease()
    assert before is not None
    away.wish(enabled=False, token=token)
    await away.leads()
    await eventually(lambda: away.api.state.promoting is None, "the promotion is recorded", within=20)
    return before


async def started_by(before: dict[str, Any], site: Site) -> None:
    """Killed, and started by that copy of the Lease, for the API server is away."""
    await site.crash()
    site.files.write_lease(before)
    site.api.away = True
    await site.start()


async def test_a_primary_that_starts_as_a_standby_by_an_old_copy_leads_again(sites: tuple[Site, Site]) -> None:
    """Killed before its promotion was on the volume too, and started while the API server is away: the copy says that
    this is a replica cluster. What the Lease says later makes it the primary that it was."""
    home, away = sites
    before = await moved(home, away)
    await away.member.sql("INSERT INTO t VALUES (1)")
    timeline, epoch = away.api.state.timeline, away.api.state.epoch
    await started_by(before, away)
    await eventually(lambda: away.instance.server_role == "standby", "it runs as a standby", within=30)
    away.api.away = False
    await away.leads()
    await away.counts(1)
    assert away.api.state.timeline > timeline
    assert away.api.state.epoch > epoch
    await home.follows()
    await home.counts(1)


async def test_nothing_is_rewound_by_an_old_copy_of_the_lease(sites: tuple[Site, Site]) -> None:
    """The source was promoted by force meanwhile, so that its line left that of the primary which the copy forgot."""
    home, away = sites
    before = await moved(home, away)
    await home.follows()
    home.wish(enabled=False, forced=True)
    await home.leads()
    await home.member.sql("INSERT INTO t VALUES (7), (8)")
    await away.member.sql("INSERT INTO t VALUES (2), (3), (4)")  # acknowledged by the primary of its own Lease
    await started_by(before, away)
    said = "nothing is rewound or copied anew"
    await eventually(lambda: said in away.instance.site.get("problem", ""), "it says why it waits", within=40)
    away.api.away = False
    await away.leads()
    await away.counts(3)


async def test_force_parts_the_sites_and_the_old_one_keeps_what_it_acknowledged(sites: tuple[Site, Site]) -> None:
    home, away = sites
    away.wish(enabled=False, forced=True)
    await away.leads()
    assert away.api.state.site is not None
    assert away.api.state.site.forced
    assert away.api.state.timeline >= 17
    await away.member.sql("INSERT INTO t VALUES (1)")
    await home.member.sql("INSERT INTO t VALUES (2), (3)")
    home.wish(enabled=True)
    await home.demoted()
    said = "without its last writes"
    await eventually(lambda: said in home.instance.site.get("problem", ""), "it says what it has", within=40)
    assert await home.count() == 2


async def test_a_source_that_is_another_database_stops_nothing(sites: tuple[Site, Site], box: Box) -> None:
    home, _ = sites
    other = box.member(3)
    await other.server.initdb()
    await other.server.start_primary()
    await other.server.bootstrap_sql("app", "app", "secret", None)
    home.wish(enabled=True, host=other.address)
    await eventually(lambda: home.instance.site.get("promotion") == "refuse", "refused", within=30)
    assert "could never follow it" in home.instance.site["message"]
    assert home.api.state.mode == "alone"
    await home.member.sql("INSERT INTO t VALUES (1)")


async def test_the_other_instances_cascade_and_take_the_place(sites: tuple[Site, Site], box: Box) -> None:
    """A second instance joins the site; the designated primary is lost; it comes back; the place is moved; promoted."""
    home, two = sites
    three = Site(box.member(3), two.api, two.replica, two.cluster)
    mount(three.member, box.ca)
    await two.crash()
    await two.start()  # with both in its configuration
    await two.follows()
    await three.start()
    await home.member.sql("INSERT INTO t VALUES (1)")
    await three.counts(1)

    async def streams() -> bool:
        return len(await two.member.server.replication()) == 1  # the row may have come with the copy

    await eventually(streams, "the third follows the second", within=30)
    (sender,) = await two.member.server.replication()
    assert (sender.role, sender.application_name) == ("matriarch_stream", str(three.instance.me))
    assert len(await home.member.server.replication()) == 1

    await two.crash()
    await eventually(lambda: three.api.state.holder == three.instance.me, "it takes the place", within=30)
    await three.follows()
    await home.member.sql("INSERT INTO t VALUES (2)")
    await three.counts(2)
    await two.start()
    await two.counts(2)
    assert two.instance.server_role == "standby"
    assert len(await home.member.server.replication()) == 1
    await eventually(lambda: _streams_from(three, two), "the other one cascades", within=30)

    next_one = await sites_of_agents.check_next(three.instance, two.member.instance)
    await sites_of_agents.hand_on(three.instance, next_one)
    await two.follows()
    await eventually(lambda: _streams_from(two, three), "the places are exchanged", within=30)
    await home.member.sql("INSERT INTO t VALUES (3)")
    await three.counts(3)
    assert two.api.state.claimed == 1

    home.wish(enabled=True)
    token = await home.demoted()
    for each in (two, three):
        each.wish(enabled=False, token=token)
    await two.leads()
    await eventually(lambda: two.api.state.mode == "quorum", "it has a voter again", within=40)
    await two.member.sql("INSERT INTO t VALUES (4)")
    await three.counts(4)
    await home.follows()
    await home.counts(4)


async def _streams_from(source: Site, member: Site) -> bool:
    senders = await source.member.server.replication()
    return any(s.application_name == str(member.instance.me) and s.state == "streaming" for s in senders)


async def test_a_demotion_waits_until_logical_slots_are_dropped(sites: tuple[Site, Site]) -> None:
    home, _ = sites
    await home.member.sql("SELECT pg_create_logical_replication_slot('cdc', 'pgoutput')")
    home.wish(enabled=True)
    await eventually(lambda: home.instance.site.get("promotion") == "refuse", "refused", within=30)
    assert "the logical slots cdc exist" in home.instance.site["message"]
    await home.member.sql("INSERT INTO t VALUES (1)")
    assert home.api.state.mode == "alone"
