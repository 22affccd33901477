"""The examples are run as they stand, and stay short enough to be read at a glance."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
from processes import PATIENCE_SECONDS
from servers import ChatServer

from power_agent import Call
from power_agent.testing.speaking import Asked, Loopback, Said, body, head

FOLDER = Path(__file__).parent.parent / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))
NOTEBOOK = FOLDER / "notebook.ipynb"
REAL = "POWER_AGENT_MODEL"
IDIOM = f'os.environ.get("{REAL}") or ScriptedModel('
OF_ITS_OWN = {"several_models.py", "budget.py", "test_my_agent.py"}
"""Examples whose model is what they are about."""
SAYS = {
    "long_session.py": "3 compactions; 219 events, all still there",
    "listener.py": "weather 9: t1r1c2 is done\nRome is warmer.",
    "mcp_servers.py": "shop__order({'item': 'tea'}) waits: It waits for a person.\nTea is ordered.",
    "fastapi_handler.py": "message-1 Answer 1.\nmessage-1 Answer 1.\nmessage-2 Answer 2.",
    "test_my_agent.py": "1 passed",
    "hello.py": "You have said 2 thing(s) so far.",
    "tools.py": "It is 20 degrees.",
    "parallel_calls.py": "All three are here. ['took 0.3 s', 'took 0.1 s', 'took 0.2 s']",
    "approval.py": "t1r1c2: succeeded Bob has 500 euros",
    "crash_and_resume.py": "Ada is paid. The book says: Ada +10",
    "web.py": "failed 'http://0x7f000001/' is not fetched",
    "many_tools.py": "5 tools are shown, the last one is refund",
    "streaming.py": "    … progress: '2 of 3'",
    "queue_and_steer.py": "1 You said: whales; only blue ones.\n1 You said: whales; only blue ones.\n2 You said: whales; only blue ones; and now sharks.",
    "guards.py": "Done, and the tests pass.",
    "fork_and_time_travel.py": "I heard 3 messages, the last was: To the mountains.",
    "structured_output.py": "Invoice(number='42', cents=1000), asked 2 times",
    "without_asyncio.py": "turn 1 (the same input, nothing ran twice)",
    "several_models.py": "10 model.failed \n11 model.asked second:model",
    "budget.py": "limit max_cost_usd_per_session 0.075 dollars \ncompleted None",
    "probe.py": "waiting: doubted, The bank has booked, and its answer is lost.\ncompleted: Ada is paid, after 1 attempt",
}


def run(example: Path, *arguments: str) -> str:
    """Run an example without a warning and without a word on stderr; return what it printed."""
    told = subprocess.run(command(example, *arguments), check=False, capture_output=True, text=True, timeout=PATIENCE_SECONDS, env=environment())
    assert (told.returncode, told.stderr) == (0, "")
    return told.stdout


def command(example: Path, *arguments: str) -> list[str]:
    """Spell how an example is run: one that is a test, by pytest, in the folder of its store."""
    if example.name.startswith("test_"):
        return [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={Path(arguments[0]).parent / 'base'}", str(example)]
    return [sys.executable, "-W", "error", str(example), *arguments]


def environment(**more: str) -> dict[str, str]:
    """Return the environment of somebody who has no model yet."""
    return {name: value for name, value in os.environ.items() if name != REAL} | more


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_examples_run(example, tmp_path):
    """Every example ends well, says what it is there to say, writes its store where it was told to, and has fewer than 40 lines."""
    assert SAYS[example.name] in run(example, str(tmp_path / "agent.db"))
    assert list(tmp_path.rglob("agent.db"))
    assert len(example.read_text(encoding="utf-8").splitlines()) < 40


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ("['yes']", 200, {"status": "completed", "text": "yes", "waits_for": [], "why": None}),
        ("[[Call('refund')]]", 202, {"status": "waiting", "text": "", "waits_for": ["t1r1c1"], "why": None}),
        ("[]", 502, {"status": "failed", "text": "", "waits_for": [], "why": "The script has 0 lines; line 1 was asked for."}),
        ("[[Call('recall_search', {'query': 'x'})] for _ in range(9)]", 409, {"status": "limit", "text": "", "waits_for": [], "why": "max_rounds_per_turn"}),
    ],
)
def test_http_says_how_a_turn_stands(script, code, said, tmp_path):
    """Only a completed turn is 200; the others say what they wait for, or why they ended. The app starts as often as somebody starts it."""
    test = (
        "import json, fastapi_handler as here\nfrom fastapi.testclient import TestClient\n"
        "from power_agent import *\nfrom power_agent.policy import Allow, Ask\n"
        "def refund() -> str: return ''\n"
        f"here.StatefulAgentLoop = lambda model, store: StatefulAgentLoop(ScriptedModel({script}), store=store, tools=[refund],\n"
        "    limits=Limits(max_rounds_per_turn=2), policy=lambda wanted: Ask() if wanted.tool == 'refund' else Allow())\n"
        "for key in 'kk':\n"
        "    with TestClient(here.app) as client:\n"
        "        told = client.post('/sessions/s', params={'message': 'x', 'key': key})\n"
        "        print(json.dumps([told.status_code, told.json()]))\n"
    )
    told = subprocess.run([sys.executable, "-W", "error", "-c", test], cwd=FOLDER, check=False, capture_output=True, text=True, env=environment())
    assert [json.loads(line) for line in told.stdout.splitlines()] == [[code, said]] * 2, told.stderr


def test_http_goes_on_when_it_starts():
    """What a process left in the middle of its turn is resumed by the next one, before anybody asks."""
    test = (
        "import asyncio, sqlite3, time, fastapi_handler as here\nfrom fastapi.testclient import TestClient\n"
        "from power_agent import *\n"
        "async def hangs(request): await asyncio.Event().wait()\n"
        "async def leave():\n"
        "    async with StatefulAgentLoop(ScriptedModel(hangs), store=here.PATH) as agent:\n"
        "        turn = asyncio.ensure_future(agent.send('x', 's'))\n"
        "        while not await agent.sessions() or not await agent.history('s', kinds=['model.asked']): await asyncio.sleep(0.01)\n"
        "        turn.cancel()\n"
        "        await asyncio.wait([turn])\n"
        "asyncio.run(leave())\n"
        "open_turns = lambda: sqlite3.connect(here.PATH).execute('SELECT turn_open FROM sessions').fetchall()\n"
        "assert open_turns() == [(1,)]\n"
        "with TestClient(here.app) as client:\n"
        "    while open_turns() != [(0,)]: time.sleep(0.01)\n"
        "    print(client.post('/sessions/s', params={'message': 'y', 'key': 'k'}).json()['text'])\n"
    )
    told = subprocess.run([sys.executable, "-c", test], cwd=FOLDER, check=False, capture_output=True, text=True, env=environment(), timeout=PATIENCE_SECONDS)
    assert told.stdout == "Answer 2.\n", told.stderr


def test_an_example_run_twice(tmp_path):
    """Run again with the same path, the first example goes on where it was; without a path it finds a place of its own."""
    path = str(tmp_path / "agent.db")
    assert "You have said 2 thing(s)" in run(FOLDER / "hello.py", path)
    assert "You have said 4 thing(s)" in run(FOLDER / "hello.py", path)
    assert "You have said 2 thing(s)" in run(FOLDER / "hello.py")


def test_every_example_is_in_the_readme():
    """The folder's README has one line for each example, and for nothing else."""
    lines = [line for line in (FOLDER / "README.md").read_text(encoding="utf-8").splitlines() if line.startswith("- `")]
    assert sorted(line.split("`")[1] for line in lines) == sorted([*SAYS, NOTEBOOK.name])
    assert [example.name for example in EXAMPLES] == sorted(SAYS)


# -- one variable away from a real model -------------------------------------------------------------------------------

ASKS: dict[str, tuple[Call, ...]] = {
    "tools.py": (Call("convert", {"degrees": 68}),),
    "parallel_calls.py": (Call("fetch", {"seconds": 0.1}), Call("fetch", {"seconds": 0.2})),
    "approval.py": (Call("pay", {"to": "Bob", "euros": 500}), Call("pay", {"to": "Eve", "euros": 900})),
    "crash_and_resume.py": (Call("pay", {"to": "Ada"}),),
    "probe.py": (Call("pay", {"to": "Ada"}),),
    "streaming.py": (Call("count", {"to": 3}),),
    "guards.py": (Call("delete", {"path": "/etc/passwd"}),),
    "web.py": (Call("fetch", {"url": "http://169.254.169.254/"}),),
    "many_tools.py": (Call("search_tools", {"query": "refund"}),),
    "mcp_servers.py": (Call("shop__order", {"item": "tea"}),),
    "listener.py": (Call("look", {"city": "Oslo"}),),
}
VALUES = {"structured_output.py": '{"number": "42", "cents": 1000}'}
"""What a server on loopback, which speaks a real wire format, says in a real model's place: calls first, then words."""


async def asked_for_real(example: Path, folder: Path) -> None:
    """Run an example with the variable set, and see it ask the server and end well."""
    side = ChatServer()

    async def reply(asked: Asked, writer: asyncio.StreamWriter) -> None:
        side.check(asked.json)
        called = any(message["role"] == "tool" for message in asked.json["messages"])
        value = '{"value": true}' if "boolean" in json.dumps(asked.json.get("response_format")) else VALUES.get(example.name, "The tests pass.")
        calls = () if called else tuple(Call(call.name, call.arguments, provider_id=f"c{n}") for n, call in enumerate(ASKS.get(example.name, ())))
        said = Said(calls=calls, finish="calls") if calls else Said(text=value)
        writer.write(head(media_type=side.media_type) + b"".join(side.stream(said)))

    async with Loopback(reply) as server:
        real = environment(**{REAL: "openai-chat:m", "OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "k"})
        child = await asyncio.create_subprocess_exec(*command(example, str(folder / f"{example.stem}.db")), env=real, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, wrong = await asyncio.wait_for(child.communicate(), PATIENCE_SECONDS)
        assert (example.name, child.returncode, wrong.decode()) == (example.name, 0, "")
        assert server.asked, f"{example.name} asked nobody: {out.decode()}"


async def test_every_example_is_one_variable_away_from_a_real_model(tmp_path):
    """With POWER_AGENT_MODEL set, each asks that model instead of its script, over the wire, and ends well."""
    for example in EXAMPLES:
        assert (IDIOM in example.read_text(encoding="utf-8").replace("\n    ", "")) is (example.name not in OF_ITS_OWN), example.name
    two = asyncio.Semaphore(2)

    async def one(example: Path) -> None:
        async with two:
            await asked_for_real(example, tmp_path)

    await asyncio.gather(*(one(example) for example in EXAMPLES if example.name not in OF_ITS_OWN))


async def test_a_key_that_is_wrong_is_told():
    """Somebody's first try with a real model is refused: the first example says why, instead of nothing."""
    async with Loopback(body(401, {"error": {"message": "Incorrect API key provided.", "code": "invalid_api_key"}})) as server:
        real = environment(**{REAL: "openai-chat:m", "OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "k"})
        child = await asyncio.create_subprocess_exec(*command(FOLDER / "hello.py"), env=real, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, wrong = await asyncio.wait_for(child.communicate(), PATIENCE_SECONDS)
    assert (child.returncode, wrong) == (0, b"")
    assert out.count(b"Incorrect API key provided.") == 2


async def test_the_notebook_runs(monkeypatch, capsys):
    """Its cells run one after the other in a running event loop, as a notebook runs them; its outputs are not kept."""
    monkeypatch.delenv(REAL, raising=False)
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert IDIOM in "".join(cells[0]["source"])
    assert sum(len(cell["source"]) for cell in cells) < 40
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in cells:
        assert cell["outputs"] == []
        code = compile("".join(cell["source"]), NOTEBOOK.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        waits = FunctionType(code, names)()
        if inspect.iscoroutine(waits):
            await waits
    told = capsys.readouterr().out
    assert told.startswith("It is 12.\nTwice as much: 24.\n1 session.opened\n")
    assert "7 call.succeeded" in told
