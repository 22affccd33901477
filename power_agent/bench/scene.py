"""The turn that is measured: a question, one call, its result, an answer; 1 kB of content in all. The model is scripted and answers at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from power_agent.bench.raw import Commits
from power_agent.events import InputReceived
from power_agent.loop import StatefulAgentLoop
from power_agent.messages import Call, Usage
from power_agent.models.scripted import Answer, ScriptedModel
from power_agent.ports import Durability, ModelRequest

ASKED = "Please look at my notes and tell me what is still to do. "
QUESTION = ASKED * 4
PLAN = "I will read the file first. " * 4
NOTES = "- buy milk\n- call Ada\n- write the report\n" * 8
ANSWER = "You still have to buy milk, call Ada and write the report. "
SENTENCES = 9
"""Of a question and its answer together: of the usual question there are four."""
USAGE = Usage(900, 60)
COMMIT_BEGINS = {"input.received", "model.answered", "call.succeeded"}
"""The kinds of events a commit of such a turn begins with: there are four."""


async def read_file(path: str, limit: int) -> str:  # noqa: ARG001  there is no file; what is measured is the log
    """Read a file."""
    return NOTES


def answer(request: ModelRequest) -> Answer:
    """Say what the model says: a call, then the answer, the shorter the longer the question was."""
    if request.messages[-1].role == "tool":
        return Answer(ANSWER * (SENTENCES - request.messages[-3].text.count(ASKED)), usage=USAGE)
    return Answer(PLAN, [Call("read_file", {"path": "notes/today.md", "limit": 200}, provider_id=f"toolu_{request.replies:020}")], usage=USAGE)


def agent(path: Path | str, durability: Durability = "full", **more: Any) -> StatefulAgentLoop:
    """Return an agent as an application would have it. What its model was asked is let go at once: a real one would not keep it."""

    def say(request: ModelRequest) -> Answer:
        model.requests.clear()
        return answer(request)

    model = ScriptedModel(say)
    return StatefulAgentLoop(more.pop("model", model), tools=[*more.pop("tools", ()), read_file], store=path, durability=durability, system="You are helpful.", **more)


async def talk(loop: StatefulAgentLoop, session: str, turns: int, question: Callable[[int], str] = lambda _: QUESTION) -> None:
    """Run turns of one session, one after the other."""
    for number in range(turns):
        result = await loop.send(question(number), session)
        if result.status != "completed":
            raise RuntimeError(f"A turn ended as {result.status}: {result.reason}")


async def bodies(loop: StatefulAgentLoop, session: str) -> Commits:
    """Return what the last turn of a session wrote, commit by commit."""
    records: Iterable[Any] = await loop.store.read(session)
    found: list[list[str]] = []
    for record in records:
        if record.kind == InputReceived.kind:
            found = []
        if record.kind in COMMIT_BEGINS or not found:
            found.append([])
        found[-1].append(record.body)
    return found
