"""A small world for the controller's decisions: volumes, Pods and agents that do what theirs do, one step at a time.

It keeps the rules of the Lease (who may be removed, who leads) as the agents keep them, so that tests can interrupt a
plan after any action, change the wish at any moment, and look whether it ends as wished without breaking a rule.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from matriarch.decide import lease as leases
from matriarch.decide.actions import (
    Action,
    BeginSwitchover,
    CreateClaim,
    CreateLease,
    CreatePod,
    DeleteClaim,
    DeletePod,
    GrowClaim,
    MoveBootstrap,
    Plan,
    RestartPostgres,
    RestoreLease,
    Resume,
    SetLeaving,
)
from matriarch.decide.facts import Agent, Claim, Facts, Instance, Memory, Pod, Stream, Wish
from matriarch.decide.lease import LeaseState
from matriarch.decide.member import Member
from matriarch.decide.topology import decide
from matriarch.postgres.timeline import WalPosition

START = datetime(2026, 1, 1, tzinfo=UTC)
SIZE = 10 * 1024**3


def names(count: int) -> tuple[str, ...]:
    return tuple(f"orders-{i}" for i in range(1, count + 1))


@dataclass
class World:
    """`image` is what the wanted Pods are hashed from; `old_parameters` are instances that wait for a restart."""

    wish: Wish
    image: str = "v1"
    pods: dict[str, Pod] = field(default_factory=dict)
    claims: dict[str, Claim] = field(default_factory=dict)
    members: dict[str, str] = field(default_factory=dict)  # instance → incarnation on its volume
    pending: dict[str, dict[str, tuple[str, str]]] = field(default_factory=dict)
    lease: LeaseState | None = None
    memory: Memory = field(default_factory=Memory)
    now: datetime = START
    serial: int = 0
    unready: set[str] = field(default_factory=set)  # instances whose database does not come up
    stuck: set[str] = field(default_factory=set)  # images whose container does not run
    kept: set[str] = field(default_factory=set)  # instances whose volume has data that a Restore replaced
    log: list[Action] = field(default_factory=list)
    copies: dict[str, LeaseState] = field(default_factory=dict)  # instance → the newest Lease that it knew

    def uid(self) -> str:
        self.serial += 1
        return f"uid-{self.serial}"

    # --- what is seen -----------------------------------------------------------------------------------------

    @property
    def holder(self) -> str | None:
        return self.lease.holder.instance if self.lease and self.lease.holder else None

    def up(self, name: str) -> bool:
        pod = self.pods.get(name)
        return pod is not None and pod.running and not pod.terminating and name not in self.unready

    def streaming(self) -> list[Member]:
        if self.lease is None or self.holder is None or not self.up(self.holder):
            return []
        return [v for v in self.lease.voters if self.up(v.instance) and self.members.get(v.instance) == v.incarnation]

    def open(self) -> bool:
        lease = self.lease
        return (
            lease is not None
            and self.holder is not None
            and self.up(self.holder)
            and (lease.mode == "alone" or len(self.streaming()) >= lease.k)
        )

    def agent(self, name: str) -> Agent | None:
        pod = self.pods.get(name)
        if pod is None or not pod.running or pod.terminating:
            return None
        mine = name == self.holder
        streams = tuple(Stream(v.instance, v.incarnation, "streaming", 0) for v in self.streaming()) if mine else ()
        up = self.up(name)
        return Agent(
            role=("primary" if mine else "replica") if up else "none",
            state="running" if up else "starting",
            ready=up,
            door_open=mine and self.open(),
            incarnation=self.members.get(name, ""),
            streaming=any(v.instance == name for v in self.streaming()),
            pending=self.pending.get(name, {}) if up else {},
            streams=streams,
            lease=self.copies.get(name),
            kept_data=("r1",) if name in self.kept else (),
        )

    def facts(self) -> Facts:
        known = sorted({*self.wish.instances, *self.pods, *self.claims})
        return Facts(
            wish=self.wish,
            instances=tuple(
                Instance(n, self.image, self.pods.get(n), self.claims.get(n), self.agent(n)) for n in known
            ),
            lease=self.lease,
            memory=self.memory,
        )

    # --- what the controller does -----------------------------------------------------------------------------

    def reconcile(self, stop_after: int | None = None) -> Plan:
        """One round; `stop_after` actions the controller dies: neither the rest nor the status is written."""
        plan = decide(self.facts(), self.now)
        actions = plan.actions if stop_after is None else plan.actions[:stop_after]
        for action in actions:
            self.log.append(action)
            self.carry_out(action)
        if stop_after is None:
            self.memory = plan.memory
        return plan

    def carry_out(self, action: Action) -> None:
        match action:
            case CreateLease(bootstrap, _, restore):
                assert not self.claims, "initialised beside data"
                assert self.lease is None
                self.lease = leases.initial(bootstrap, restore)
            case RestoreLease(state):
                self.lease = state
            case MoveBootstrap(name):
                assert self.lease is not None
                assert self.lease.epoch == 0
                self.lease = replace(self.lease, bootstrap=name)
            case CreateClaim(name):
                assert name not in self.claims
                self.claims[name] = Claim(self.uid(), self.wish.storage, "17")
            case GrowClaim(name):
                self.claims[name] = replace(self.claims[name], requested=self.wish.storage)
            case CreatePod(name):
                assert name in self.claims
                assert name not in self.pods
                assert self.lease is None or not self.lease.suspended, f"{name} was started on data that is replaced"
                self.pods[name] = Pod(self.uid(), self.image, self.wish.restart)
            case DeletePod(name, uid, _):
                if name in self.pods and self.pods[name].uid == uid:
                    self.pods[name] = replace(self.pods[name], terminating=True, ready=False)
            case DeleteClaim(name, uid):
                assert self.lease is not None
                assert not self.lease.names_instance(name), f"deleted {name}, which the Lease names"
                assert name in self.lease.leaving
                assert name not in self.wish.instances
                assert self.claims[name].uid == uid
                self.claims[name] = replace(self.claims[name], terminating=True)
            case Resume(restore):
                assert self.lease is not None
                self.lease = leases.resumed(self.lease, restore)
            case SetLeaving(instances):
                assert self.lease is not None
                self.lease = leases.leaving_set(self.lease, instances)
            case RestartPostgres(name, in_place):
                assert in_place == (name == self.holder)
                self.pending.pop(name, None)
            case BeginSwitchover(holder, to, _):
                assert holder == self.holder
                self.hand_over(to)
            case _:
                pass

    def hand_over(self, to: str) -> None:
        """A switchover succeeds when the heir streams; else the holder goes on."""
        lease = self.lease
        assert lease is not None
        heir = next((v for v in self.streaming() if v.instance == to), None)
        if heir is not None:
            old = self.holder
            named = leases.heir_named(lease, heir, leases.CleanStop(lease.claimed, 1))
            self.lease = leases.heir_takes(named, lease.epoch + 1, WalPosition(lease.claimed, 1), "n")
            self.pending.pop(old or "", None)  # its server was stopped and started

    # --- what everybody else does -----------------------------------------------------------------------------

    def tick(self) -> None:
        """A second passes: the kubelet and the agents do their parts."""
        self.now += timedelta(seconds=1)
        for name, pod in list(self.pods.items()):
            if pod.terminating:
                del self.pods[name]
                self.pending.pop(name, None)  # whatever starts next starts with what is wanted
            elif not pod.running and pod.hash not in self.stuck:
                self.pods[name] = replace(pod, running=True, node="n", ip="10.0.0.1", ready_changed=self.now)
            else:
                ready = self.up(name)
                if pod.ready != ready:
                    self.pods[name] = replace(pod, ready=ready, ready_changed=self.now)
        for name, claim in list(self.claims.items()):
            if claim.terminating and name not in self.pods:
                del self.claims[name]
                self.members.pop(name, None)
        self.agents()
        for name in self.pods:
            if self.lease is not None and self.up(name):
                self.copies[name] = self.lease

    def agents(self) -> None:
        lease = self.lease
        self.pending = {n: p for n, p in self.pending.items() if n in self.pods}
        if lease is None:
            return
        for name in self.pods:
            if self.up(name) and name in self.claims and not self.claims[name].terminating:
                self.members.setdefault(name, f"{self.serial:04x}{name[-1]}")
        if lease.suspended:
            return
        if lease.holder is None or lease.filling is not None:
            if self.up(lease.bootstrap):
                replaces = lease.holder is not None
                if replaces:
                    self.serial += 1
                    self.members = {lease.bootstrap: f"{self.serial:04x}r"}  # the others clone anew
                me = Member(lease.bootstrap, self.members[lease.bootstrap])
                self.lease = leases.bootstrapped(lease, me, f"system-{self.serial}" if replaces else "sysid", "n")
            return
        if not self.up(lease.holder.instance) or self.members.get(lease.holder.instance) != lease.holder.incarnation:
            self.elect()
            return
        voters = {v for v in lease.voters if v.instance not in lease.leaving}
        voters = {v for v in voters if self.members.get(v.instance, v.incarnation) == v.incarnation}  # replaced volumes
        for name, incarnation in self.members.items():
            if name != self.holder and self.up(name) and name not in lease.leaving and name in self.wish.instances:
                voters.add(Member(name, incarnation))
        if voters:
            k = max(1, min(self.wish.number or 1, len(voters)))
            lease = leases.voters_set(lease, "quorum", voters, k)
        else:
            lease = leases.voters_set(lease, "alone", (), 0)
        enough = len(self.wish.instances) == 1 or len(voters) >= max(1, self.wish.number)
        self.lease = leases.opened_set(lease) if enough else lease

    def elect(self) -> None:
        lease = self.lease
        assert lease is not None
        alive = [v for v in lease.voters if self.up(v.instance) and self.members.get(v.instance) == v.incarnation]
        if lease.mode == "quorum" and len(alive) >= lease.election_quorum:
            self.lease = leases.taken_over(lease, alive[0], lease.epoch + 1, WalPosition(lease.claimed, 1), "n")

    def settle(self, rounds: int = 400) -> Plan:
        """Let everybody do their part until nothing is left to do."""
        plan = decide(self.facts(), self.now)
        for _ in range(rounds):
            plan = self.reconcile()
            self.tick()
            if not plan.actions and plan.verdict.standing == "Ready":
                return plan
        return plan


def world(count: int = 3, **wish: object) -> World:
    number = count // 2 if count > 1 else 0
    fields: dict[str, object] = {"number": max(1, number) if count > 1 else 0, "storage": SIZE, **wish}
    return World(Wish("orders", names(count), **fields))  # type: ignore[arg-type]  # fields of Wish by name
