"""How a participant asks about what it holds: whoever is silent, the answers of the others count."""

import asyncio
from types import SimpleNamespace

import msgspec
import pytest
import ray

from orchestrator.errors import ErrorCode, IndefiniteError
from orchestrator.protocol.identifiers import make_id, partition_of
from orchestrator.protocol.messages import Command, Inquiry, Kind
from orchestrator.transport import RayPort, RemoteOwners

SILENT = IndefiniteError(ErrorCode.UNREACHABLE, "it did not answer")


def inquiry(partition):
    return Inquiry(make_id(5, partition, 1, partition), "pay", 1)


class Deployment:
    """A log and shards; partition p belongs to shard p % 3. Named actors and partitions are silent."""

    def __init__(self, *silent):
        self.silent = set(silent)
        self.calls = []
        self.at_once = self.under_way = 0

    def port(self, actor, method):
        return SimpleNamespace(call=lambda payload: self.call(actor, method, payload))

    async def call(self, actor, method, payload):
        self.calls.append((actor, method))
        self.under_way += 1
        self.at_once = max(self.at_once, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        if actor in self.silent or (method == "owner" and payload in self.silent):
            raise SILENT
        if method == "owner":
            return msgspec.msgpack.encode({"shard": payload % 3, "epoch": 1, "incarnation": "first"})
        asked = msgspec.msgpack.decode(payload, type=list[Inquiry])
        return msgspec.msgpack.encode(
            [Command(one.transaction, one.step, Kind.COMMIT, 1, 1, "hold", b"") for one in asked])


async def asked(deployment, partitions):
    commands = await RemoteOwners(deployment.port).ask([inquiry(partition) for partition in partitions])
    return sorted(partition_of(command.transaction) for command in commands)


async def test_everybody_is_asked_once():
    deployment = Deployment()
    assert await asked(deployment, [0, 1, 2, 3, 3, 4]) == [0, 1, 2, 3, 3, 4]
    assert sorted(deployment.calls) == [("log", "owner")] * 5 + [(f"shard-{n}", "inquire") for n in range(3)]
    assert deployment.at_once == 5


@pytest.mark.parametrize("silent", ["shard-0", "shard-1", "shard-2"])
async def test_a_silent_shard_takes_no_other_ones_answers_along(silent):
    expected = [partition for partition in range(6) if f"shard-{partition % 3}" != silent]
    assert await asked(Deployment(silent), range(6)) == expected


@pytest.mark.parametrize("silent", range(4))
async def test_a_log_silent_about_one_partition_takes_no_other_one_along(silent):
    assert await asked(Deployment(silent), range(4)) == [n for n in range(4) if n != silent]


@pytest.mark.parametrize("silent", [["log"], ["shard-0", "shard-1", "shard-2"], [1, "shard-0", "shard-2"]])
async def test_nothing_but_silence_is_an_error(silent):
    with pytest.raises(IndefiniteError):
        await asked(Deployment(*silent), range(3))


async def test_an_answer_without_a_decision_is_an_answer():
    deployment = Deployment("shard-0")

    def port(actor, method):
        if actor == "shard-1":
            return SimpleNamespace(call=lambda _payload: asyncio.sleep(0, msgspec.msgpack.encode([])))
        return deployment.port(actor, method)

    assert await RemoteOwners(port).ask([inquiry(0), inquiry(1)]) == []


async def test_nothing_to_ask():
    assert await asked(Deployment("log"), []) == []


async def test_an_actor_is_looked_up_once_for_all_calls_that_wait(monkeypatch):
    looked_up = []

    class Answer:
        @staticmethod
        def remote(payload):
            return asyncio.sleep(0, payload)

    def get_actor(name, namespace):
        looked_up.append((name, namespace))
        if len(looked_up) == 1:
            raise ValueError("no such actor yet")
        return SimpleNamespace(echo=Answer)

    monkeypatch.setattr(ray, "get_actor", get_actor)
    port = RayPort("space", "log", "echo")
    missed = await asyncio.gather(*(port.call(b"x") for _ in range(20)), return_exceptions=True)
    assert [type(one) for one in missed] == [IndefiniteError] * 20
    assert await asyncio.gather(*(port.call(b"%d" % n) for n in range(20))) == [b"%d" % n for n in range(20)]
    assert looked_up == [("log", "space")] * 2


async def test_a_shard_that_is_stopped_does_not_keep_the_others_for_long(monkeypatch):
    monkeypatch.setattr("orchestrator.transport.INQUIRE_S_MAX", 0.05)
    deployment = Deployment()

    def port(actor, method):
        if actor == "shard-1":
            return SimpleNamespace(call=lambda _payload: asyncio.Event().wait())
        return deployment.port(actor, method)

    async with asyncio.timeout(5):
        (command,) = await RemoteOwners(port).ask([inquiry(0), inquiry(1)])
    assert partition_of(command.transaction) == 0
