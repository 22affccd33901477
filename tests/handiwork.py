"""Work for hands: rounds of commands and edits, each with a mark of its own that it leaves in the world exactly once.

It is played in a process that may be killed at any moment, begins wherever the one before was stopped, and decides about what is in
doubt as a careful person would: by looking whether the mark is there.
"""

from __future__ import annotations

from pathlib import Path

from power_agent import Call, Limits, Result, Retry, ScriptedModel, StatefulAgentLoop, files, shell
from power_agent.errors import SessionPending
from power_agent.policy import allow_all
from power_agent.ports import ModelRequest
from power_agent.tools.files.content import version_of

ROUNDS = 3
WAYS = (
    "echo {mark} >> ledger",
    "sleep 0.05; echo {mark} >> ledger",
    "setsid sh -c 'sleep 0.3; echo {mark} >> ledger' & wait",
    "(setsid nohup sh -c 'echo {mark} >> ledger; exec sleep 1000' >/dev/null 2>&1 &); until grep -qx {mark} ledger; do sleep 0.01; done; sleep 0.2",
)
"""Each leaves its mark with one write, sooner or later; the last one leaves a process behind as well."""


def marks(session: str) -> list[str]:
    """What must stand in the ledger at the end, once each."""
    return [f"{session}-{number}-{way}" for number in range(ROUNDS) for way in range(len(WAYS))]


def listed(session: str, rounds: int) -> str:
    """What the edited file holds after so many rounds."""
    return "".join(f"{session}-{number}\n" for number in range(rounds)) + "END\n"


def _next(session: str, request: ModelRequest) -> str | list[Call]:
    number = sum(message.role == "tool" for message in request.messages)
    if number == ROUNDS:
        return "done"
    calls = [Call("bash", {"command": line.format(mark=f"{session}-{number}-{way}")}) for way, line in enumerate(WAYS)]
    before = listed(session, number)
    if number == 0:
        return [*calls, Call("write", {"path": f"{session}.txt", "content": listed(session, 1)})]
    return [*calls, Call("edit", {"path": f"{session}.txt", "old": "END", "new": f"{session}-{number}\nEND", "version": version_of(before.encode())})]


async def handiwork(root: str, path: str, session: str) -> None:
    """Do the work to its end."""
    tools = [*files(root), *shell(root)]
    limits = Limits(max_parallel_calls=3)
    async with StatefulAgentLoop(ScriptedModel(lambda request: _next(session, request)), tools=tools, store=path, policy=allow_all, limits=limits) as loop:
        try:
            result = await loop.send("go", session, key="once")
        except SessionPending:
            result = await loop.resume(session)
        while result.status == "waiting":
            for call in [one for one in await loop.pending(session) if one.state == "doubted" and one.tool == "bash"]:  # a file's probe is asked by resume
                mark = next(one for one in str(call.arguments["command"]).split() if one.startswith(session))
                ledger = (Path(root) / "ledger").read_text().split()
                await loop.settle(session, call.id, Result("It did.") if mark in ledger else Retry())
            result = await loop.resume(session)
        assert result.status == "completed", result
