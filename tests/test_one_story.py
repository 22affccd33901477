"""One story in every format, streamed and not: three turns, calls side by side, a process that is killed in the middle of them, a
person who settles what is in doubt. After every event all of them are in the same state, apart from raw items.

The model's side is a real server that speaks the format; the process that dies is a real one. What differs and has to: raw items, the
name of the format and the model, the digest of what the provider's cache knows, who owned the session, and when.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from faults import VENDORS
from processes import PATIENCE_SECONDS

from power_agent import Result, StatefulAgentLoop, tool
from power_agent.chance import CountedChance
from power_agent.messages import Call
from power_agent.models.http import HTTPModel
from power_agent.sink import opened
from power_agent.state import fold, freeze
from power_agent.testing.speaking import Loopback, Said, in_turn

APART = {"raw", "format", "model", "answered_by", "prefix_digest", "owner", "at", "started_at", "ms", "previous"}
WAYS = [(name, stream) for name in VENDORS for stream in (True, False)]
LOOKS = (Call("look", {"at": "north"}, provider_id="c1"), Call("look", {"at": "süd"}, provider_id="C1"), Call("pay", {"to": "ann", "cents": 5}, provider_id="c3"))
AGAIN = (Call("look", {"at": "nowhere"}, provider_id="c1"), Call("look", {"at": "up"}, provider_id="c2"))
SCRIPT = (
    Said(reasoning="Where to, 世界?", text="Let me see.", calls=LOOKS, finish="calls"),
    Said(text="Nothing there."),
    Said(calls=AGAIN, finish="calls"),
    Said(text="Still nothing."),
    Said(reasoning="Enough.", text="Goodbye."),
)
RESULTS = ["nothing north", "nothing süd", "paid by hand"]


@tool(recovery="rerun")
async def look(at: str) -> str:
    """Look somewhere."""
    if at == "nowhere":
        raise ValueError("there is no such place")
    return f"nothing {at}"


@tool
async def pay(to: str, cents: int) -> str:
    """Pay somebody: nobody promised that it may run twice."""
    return f"{to} has {cents} more"


def agent(url, path, name, stream):
    model = HTTPModel(VENDORS[name].form(), "m", base_url=url, key="a-key", stream=stream)
    return StatefulAgentLoop(model, tools=[look, pay], store=path, system="Be brief.", chance=CountedChance())


async def told(path, name, stream):
    """Tell the story; return each request's body as JSON, and the records that were kept."""
    vendor = VENDORS[name]
    script = in_turn(*(vendor.answer(said, stream=stream) for said in SCRIPT))
    async with Loopback(script) as loopback, asyncio.timeout(PATIENCE_SECONDS):
        told = [sys.executable, __file__, loopback.url, str(path), name, "stream" if stream else ""]
        child = await asyncio.create_subprocess_exec(*told, env={**os.environ, "POWER_AGENT_FAILPOINT": "after:call.started"}, cwd=Path(__file__).parent)
        assert await child.wait() == -signal.SIGKILL
        async with agent(loopback.url, path, name, stream) as loop:
            (doubted,) = (await loop.resume("story")).pending
            assert (doubted.tool, doubted.state) == ("pay", "doubted")
            await loop.settle("story", doubted.id, Result("paid by hand"), by="ada")
            assert (await loop.resume("story")).text == "Nothing there."
        async with agent(loopback.url, path, name, stream) as loop:
            assert (await loop.send("Again.", "story")).text == "Still nothing."
            assert (await loop.send("Thanks.", "story")).text == "Goodbye."
            assert [fault async for fault in loop.verify()] == []
            records = await loop.store.read("story")
    for asked in loopback.asked:
        vendor.server.check(asked.json)
    return [asked.json for asked in loopback.asked], records


def plain(value):
    """The same without what may differ."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items() if name not in APART}
    return [plain(one) for one in value] if isinstance(value, list) else value


def states(records):
    """What the log folds to after each event."""
    kept = [opened(record) for record in records]
    return [plain(json.loads(freeze(fold(kept[:count]), b"")[64:])[1]) for count in range(1, len(kept) + 1)]


@cache
def story(folder, name, stream):
    """The story in one format, told once for all tests."""
    return asyncio.run(told(folder / f"{name}-{stream}.db", name, stream))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("story")


@pytest.mark.parametrize(("name", "stream"), WAYS[1:])
def test_one_story_in_every_format(folder, name, stream):
    """State by state, event by event; and the provider heard each result once, in its order."""
    (requests, records), first = story(folder, name, stream), story(folder, *WAYS[0])[1]
    assert [record.kind for record in records] == [record.kind for record in first]
    for mine, theirs, record in zip(states(records), states(first), records, strict=True):
        assert mine == theirs, f"after {record.kind} at {record.seq}"
    assert [plain(json.loads(record.body)) for record in records] == [plain(json.loads(record.body)) for record in first]
    server = VENDORS[name].server
    heard = [server.results(request) for request in requests]
    assert [len(results) for results in heard] == [0, 3, 3, 5, 5]
    assert all(said in result for said, result in zip(RESULTS, heard[-1], strict=False))
    assert "no such place" in heard[-1][3]
    if name != "ollama":  # which has no ids: results follow in the order of the calls
        sent = json.dumps(requests[-1])
        assert [sent.count(f'"{id_}"') for id_ in ("c1", "C1")] == [2, 2]  # ids are compared exactly; the one that came again goes by ours
    for earlier, later in pairwise(heard):
        assert later[: len(earlier)] == earlier


def test_what_may_differ_does(folder):
    """The comparison is none of empty things: raw items and formats are in the log, and other words are another state."""
    records, first = story(folder, "gemini", True)[1], story(folder, *WAYS[0])[1]
    assert any('"raw"' in record.body for record in records)
    assert [record.body for record in records] != [record.body for record in first]
    whole = json.dumps(states(records)[-1])
    assert all(word in whole for word in ("Goodbye.", "paid by hand", "Enough.", "C1", "there is no such place"))
    assert len(states(records)) == len({json.dumps(state) for state in states(records)})


if __name__ == "__main__":

    async def live(url, path, name, stream):
        async with agent(url, path, name, bool(stream)) as loop:
            await loop.send("Look around!", "story")

    asyncio.run(live(*sys.argv[1:]))
