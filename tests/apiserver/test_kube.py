"""The Kubernetes client against a real API server: outcomes, watches that go on, one active process, counted events."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from dev.apiserver import ApiServer
from matriarch.errors import Refused, Unavailable
from matriarch.kube.client import Kube, Object
from matriarch.kube.config import connection
from matriarch.kube.errors import Conflict, Forbidden, Invalid, NotFound
from matriarch.kube.events import Recorder
from matriarch.kube.lease import Leadership


@pytest.fixture
async def kube(api_server: ApiServer) -> AsyncIterator[Kube]:
    client = Kube.connect(kubeconfig=api_server.kubeconfig, manager="test")
    yield client
    await client.close()


@pytest.fixture
async def namespace(kube: Kube) -> str:
    name = f"k-{uuid.uuid4().hex[:8]}"
    await kube.create({"kind": "Namespace", "metadata": {"name": name}})
    return name


def config_map(namespace: str, name: str = "a", **data: str) -> Object:
    labels = {"app": "test"}
    return {"kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace, "labels": labels}, "data": data}


async def test_what_is_there_and_what_is_not(kube: Kube, namespace: str) -> None:
    assert await kube.get("ConfigMap", namespace, "a") is None
    made = await kube.create(config_map(namespace, x="1"))
    assert (made["kind"], made["apiVersion"]) == ("ConfigMap", "v1")
    with pytest.raises(Conflict) as caught:
        await kube.create(config_map(namespace))
    assert caught.value.exists
    assert (await kube.get("ConfigMap", namespace, "a") or {})["data"] == {"x": "1"}
    assert await kube.delete("ConfigMap", namespace, "a")
    assert not await kube.delete("ConfigMap", namespace, "a")


async def test_a_replace_names_the_version_that_it_read(kube: Kube, namespace: str) -> None:
    made = await kube.create(config_map(namespace, x="1"))
    await kube.replace({**made, "data": {"x": "2"}})
    with pytest.raises(Conflict) as caught:
        await kube.replace({**made, "data": {"x": "3"}})
    assert not caught.value.exists
    blind = {**made, "metadata": {k: v for k, v in made["metadata"].items() if k != "resourceVersion"}}
    with pytest.raises(ValueError, match="without a resourceVersion"):
        await kube.replace(blind)


async def test_only_the_one_that_was_meant_is_deleted(kube: Kube, namespace: str) -> None:
    made = await kube.create(config_map(namespace))
    with pytest.raises(Conflict):
        await kube.delete("ConfigMap", namespace, "a", uid="another")
    assert await kube.delete("ConfigMap", namespace, "a", uid=made["metadata"]["uid"])


async def test_apply_owns_what_it_gave(kube: Kube, namespace: str) -> None:
    await kube.apply(config_map(namespace, mine="1", gone="1"), manager="one")
    await kube.apply(config_map(namespace, theirs="1"), manager="two")
    found = await kube.apply(config_map(namespace, mine="2"), manager="one")
    assert found["data"] == {"mine": "2", "theirs": "1"}
    again = await kube.apply(config_map(namespace, mine="2"), manager="one")
    assert again["metadata"]["resourceVersion"] == found["metadata"]["resourceVersion"]


async def test_patch_removes_with_null(kube: Kube, namespace: str) -> None:
    await kube.create(config_map(namespace, x="1", y="2"))
    found = await kube.patch("ConfigMap", namespace, "a", {"data": {"x": None}})
    assert found["data"] == {"y": "2"}
    with pytest.raises(NotFound):
        await kube.patch("ConfigMap", namespace, "other", {"data": {}})


async def test_lists_come_in_pages_and_whole(kube: Kube, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matriarch.kube.client._PAGE", 3)
    for i in range(7):
        await kube.create(config_map(namespace, f"c{i}"))
    found = await kube.list("ConfigMap", namespace, {"app": "test"})
    assert sorted(o["metadata"]["name"] for o in found) == [f"c{i}" for i in range(7)]
    assert {o["kind"] for o in found} == {"ConfigMap"}
    assert await kube.list("ConfigMap", namespace, {"app": "other"}) == []
    assert len(await kube.list("ConfigMap", None, {"app": ""})) >= 7


async def test_a_wrong_object_is_invalid_and_says_why(kube: Kube, namespace: str) -> None:
    with pytest.raises(Invalid, match="name"):
        await kube.create(config_map(namespace, "UPPER"))


async def test_a_call_that_takes_too_long_has_an_unknown_outcome(kube: Kube, namespace: str) -> None:
    started = time.monotonic()
    with pytest.raises(Unavailable, match="no answer within"):
        await kube.get("ConfigMap", namespace, "a", timeout=0.0001)
    assert time.monotonic() - started < 5


async def test_an_account_without_rights_is_forbidden(kube: Kube, api_server: ApiServer, namespace: str) -> None:
    where = connection(api_server.kubeconfig)
    account = await kube.create({"kind": "ServiceAccount", "metadata": {"name": "nobody", "namespace": namespace}})
    assert account
    stranger = Kube(where)
    try:
        await stranger.get("ConfigMap", namespace, "a")
        stranger._session.headers.update({"Impersonate-User": "nobody"})  # type: ignore[union-attr]  # opened by the call above
        with pytest.raises(Forbidden, match="cannot get"):
            await stranger.get("ConfigMap", namespace, "a")
    finally:
        await stranger.close()


async def test_no_kubeconfig_is_refused_with_what_to_do(tmp_path: object) -> None:
    with pytest.raises(Refused, match="KUBECONFIG"):
        Kube.connect(kubeconfig=f"{tmp_path}/none")


class TestWatch:
    async def test_lists_first_and_follows(self, kube: Kube, namespace: str) -> None:
        await kube.create(config_map(namespace, "old"))
        seen = asyncio.Queue[tuple[str, str]]()
        task = asyncio.create_task(_follow(kube, namespace, seen))
        assert await _next(seen) == ("ADDED", "old")
        await kube.create(config_map(namespace, "new"))
        assert await _next(seen) == ("ADDED", "new")
        await kube.patch("ConfigMap", namespace, "new", {"data": {"x": "1"}})
        assert await _next(seen) == ("MODIFIED", "new")
        await kube.delete("ConfigMap", namespace, "old")
        assert await _next(seen) == ("DELETED", "old")
        await _end(task)

    async def test_one_name_alone(self, kube: Kube, namespace: str) -> None:
        await kube.create(config_map(namespace, "a"))
        await kube.create(config_map(namespace, "b"))
        watch = kube.watch("ConfigMap", namespace, name="b")
        event, obj = await anext(watch)
        assert (event, obj["metadata"]["name"], obj["kind"]) == ("ADDED", "b", "ConfigMap")
        await watch.aclose()  # type: ignore[attr-defined]  # it is a generator

    async def test_survives_a_restart_of_the_api_server(
        self, kube: Kube, namespace: str, api_server: ApiServer
    ) -> None:
        await kube.create(config_map(namespace, "before"))
        seen = asyncio.Queue[tuple[str, str]]()
        task = asyncio.create_task(_follow(kube, namespace, seen))
        assert await _next(seen) == ("ADDED", "before")
        await asyncio.to_thread(api_server.stop)
        with pytest.raises(Unavailable):
            await kube.get("ConfigMap", namespace, "before")
        await asyncio.to_thread(api_server.start)
        await kube.delete("ConfigMap", namespace, "before")
        await kube.create(config_map(namespace, "after"))
        assert await _next(seen) == ("DELETED", "before")
        assert await _next(seen) == ("ADDED", "after")
        await _end(task)

    async def test_a_version_that_is_too_old_lists_again(
        self, kube: Kube, namespace: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The differences come as events, also a deletion that nobody saw."""
        await kube.create(config_map(namespace, "gone"))
        await kube.create(config_map(namespace, "stays"))
        seen = asyncio.Queue[tuple[str, str]]()
        real, streams = kube.stream, 0

        async def stream(*args: object, **kwargs: object) -> AsyncIterator[bytes]:
            nonlocal streams
            streams += 1
            if streams == 1:
                await kube.delete("ConfigMap", namespace, "gone")
                await kube.create(config_map(namespace, "new"))
                yield b'{"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}'
                return
            async with aclosing(real(*args, **kwargs)) as lines:  # type: ignore[arg-type, type-var]  # handed on
                async for line in lines:
                    yield line

        monkeypatch.setattr(kube, "stream", stream)
        task = asyncio.create_task(_follow(kube, namespace, seen))
        first = {await _next(seen), await _next(seen)}
        assert first == {("ADDED", "gone"), ("ADDED", "stays")}
        assert {await _next(seen), await _next(seen)} == {("DELETED", "gone"), ("ADDED", "new")}
        await kube.delete("ConfigMap", namespace, "stays")
        assert await _next(seen) == ("DELETED", "stays")
        assert streams == 2
        await _end(task)

    async def test_silence_is_given_up(self, kube: Kube, namespace: str) -> None:
        _, version = await kube.list_with_version("ConfigMap", namespace)
        lines = kube.stream("ConfigMap", namespace, {"resourceVersion": version}, inactivity=0.5)
        started = time.monotonic()
        with pytest.raises(Unavailable):
            await anext(lines)
        assert time.monotonic() - started < 10


async def _follow(kube: Kube, namespace: str, seen: asyncio.Queue[tuple[str, str]]) -> None:
    async for event, obj in kube.watch("ConfigMap", namespace, labels={"app": "test"}):
        seen.put_nowait((event, obj["metadata"]["name"]))


async def _next(seen: asyncio.Queue[tuple[str, str]]) -> tuple[str, str]:
    return await asyncio.wait_for(seen.get(), 30)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class TestLeadership:
    async def test_one_is_active_and_the_other_follows_a_clean_exit_at_once(self, kube: Kube, namespace: str) -> None:
        one, two = (Leadership(kube, namespace, "lock", i, duration=30.0) for i in ("one", "two"))
        order: list[str] = []
        let_go, led = asyncio.Event(), asyncio.Event()

        async def lead(who: Leadership, until: asyncio.Event | None) -> None:
            async with who.held():
                order.append(who.identity)
                led.set()
                if until is not None:
                    await until.wait()

        first = asyncio.create_task(lead(one, let_go))
        await led.wait()
        second = asyncio.create_task(lead(two, None))
        await asyncio.sleep(1.5)
        assert order == ["one"]
        let_go.set()
        await asyncio.wait_for(asyncio.gather(first, second), 10)  # far below the 30 s of a dead holder
        assert order == ["one", "two"]
        lease = await kube.get("Lease", namespace, "lock")
        assert lease is not None
        assert not lease["spec"].get("holderIdentity")

    async def test_a_dead_holder_is_followed_after_its_time_and_not_before(self, kube: Kube, namespace: str) -> None:
        dead = Leadership(kube, namespace, "lock", "dead", duration=3.0)
        await dead._acquire()
        started = time.monotonic()
        async with Leadership(kube, namespace, "lock", "next", duration=3.0).held():
            waited = time.monotonic() - started
        assert 2.5 <= waited < 15

    async def test_who_cannot_renew_gives_up_before_another_may_begin(
        self, kube: Kube, namespace: str, api_server: ApiServer
    ) -> None:
        """Even though its event loop is held up, as a garbage collection or a swapped-out page would."""
        gave_up: list[float] = []
        leader = Leadership(
            kube, namespace, "lock", "me", duration=3.0, give_up=lambda: gave_up.append(time.monotonic())
        )
        await leader._acquire()
        started = time.monotonic()
        async with leader.held():
            time.sleep(2.6)  # noqa: ASYNC251 - the loop is meant to hang
        assert gave_up
        assert gave_up[0] - started < 3.0

    async def test_a_usurped_holder_ends_at_once(self, kube: Kube, namespace: str) -> None:
        gave_up = asyncio.Event()
        leader = Leadership(kube, namespace, "lock", "me", duration=5.0, give_up=gave_up.set)
        async with leader.held():
            await kube.patch("Lease", namespace, "lock", {"spec": {"holderIdentity": "other"}})
            await asyncio.wait_for(gave_up.wait(), 10)

    async def test_a_foreign_label_does_not_end_it(self, kube: Kube, namespace: str) -> None:
        gave_up = asyncio.Event()
        leader = Leadership(kube, namespace, "lock", "me", duration=9.0, give_up=gave_up.set)
        async with leader.held():
            written = leader.written
            await kube.patch("Lease", namespace, "lock", {"metadata": {"labels": {"x": "y"}}})
            async with asyncio.timeout(30):
                while leader.written == written:  # noqa: ASYNC110 - the renewal tells nobody else
                    await asyncio.sleep(0.1)
        assert not gave_up.is_set()


class TestEvents:
    async def test_repeats_are_counted_in_one_event(
        self, kube: Kube, namespace: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("matriarch.kube.events.INTERVAL", 0.0)
        about = await kube.create(config_map(namespace))
        recorder = Recorder(kube, "test")
        for _ in range(3):
            await recorder.record(about, "Tested", "It was tested.", kind="Normal")
        await Recorder(kube, "test").record(about, "Tested", "It was tested.", kind="Normal")  # another process
        await recorder.record(about, "Tested", "Something else.", kind="Warning")
        events = [e for e in await kube.list("Event", namespace) if e["reason"] == "Tested"]
        assert sorted((e["message"], e["count"], e["type"]) for e in events) == [
            ("It was tested.", 4, "Normal"),
            ("Something else.", 1, "Warning"),
        ]
        assert {e["involvedObject"]["uid"] for e in events} == {about["metadata"]["uid"]}

    async def test_the_api_server_is_not_flooded(self, kube: Kube, namespace: str) -> None:
        about = await kube.create(config_map(namespace))
        recorder = Recorder(kube, "test")
        for _ in range(50):
            await recorder.record(about, "Often", "Again and again.", kind="Normal")
        (event,) = [e for e in await kube.list("Event", namespace) if e["reason"] == "Often"]
        assert event["count"] == 1

    async def test_recording_never_fails_the_caller(self, kube: Kube) -> None:
        about = {"kind": "ConfigMap", "metadata": {"name": "a", "namespace": "no-such-namespace", "uid": "u"}}
        await Recorder(kube, "test").record(about, "Lost", "Nobody reads this.", kind="Normal")
