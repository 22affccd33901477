"""Files that older code wrote: brought up to date on opening, with nothing lost, nothing reported, and the same to be done."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest

from power_agent import ScriptedModel, StatefulAgentLoop, events, tool
from power_agent.messages import Call
from power_agent.policy import Allow, Ask
from power_agent.settling import Approve
from power_agent.store import migrate
from power_agent.store.migrate import current, migrations


@tool
async def pay(euros: int) -> str:
    """Pay."""
    return f"paid {euros}"


def agent(path) -> StatefulAgentLoop:
    model = ScriptedModel([[Call("pay", {"euros": 1}), Call("pay", {"euros": 100})], "Done."])
    return StatefulAgentLoop(model, tools=[pay], store=path, policy=lambda call: Ask("May I?") if call.arguments["euros"] > 10 else Allow())


def rows(path, sql) -> list[tuple]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute(sql).fetchall()


@pytest.mark.parametrize("schema", range(1, current()))
async def test_a_file_of_an_older_schema(schema, tmp_path, monkeypatch):
    """Its log is the same to the byte, its views say the same, `verify` finds nothing, and what waited can be decided."""
    path, known = tmp_path / "agent.db", migrations()
    with monkeypatch.context() as then:
        then.setattr(migrate, "migrations", lambda: known[:schema])
        async with agent(path) as loop:
            assert (await loop.send("pay", "s")).status == "waiting"
            await loop.send("pay", "other")
    log, views = rows(path, "SELECT * FROM event"), [rows(path, f"SELECT * FROM {view}") for view in ("sessions", "pending", "usage", "log")]
    assert rows(path, "PRAGMA user_version") == [(schema,)]
    async with agent(path) as loop:
        assert rows(path, "PRAGMA user_version") == [(current(),)]
        assert rows(path, "SELECT * FROM event") == log
        assert [rows(path, f"SELECT * FROM {view}") for view in ("sessions", "pending", "usage", "log")] == views
        assert [wrong async for wrong in loop.verify()] == []
        (call,) = await loop.pending("s")
        await loop.settle("s", call.id, Approve())
        assert (await loop.resume("s")).text == "Done."
    made = "SELECT type, name, sql FROM sqlite_master ORDER BY type, name"
    async with agent(tmp_path / "new.db"):
        pass
    assert rows(path, made) == rows(tmp_path / "new.db", made)


def test_what_is_not_written_any_more_is_read():
    """Fields that older code wrote at what is their default now mean the same."""
    for kind, older, now in (
        ("model.asked", '{"turn":1,"round":1,"model":"m"}', '{"turn":1,"model":"m"}'),
        ("model.answered", '{"round":1,"parts":[]}', '{"parts":[]}'),
        ("model.failed", '{"round":1,"failure":{"code":"c","message":"m"}}', '{"failure":{"code":"c","message":"m"}}'),
    ):
        assert events.decode(kind, older) == events.decode(kind, now)
        assert events.encode(events.decode(kind, older)) == now
