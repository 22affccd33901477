"""An agent nobody wrote code for: a model by name over a real connection, toolboxes, a policy as a table, and what a person is shown."""

from __future__ import annotations

import asyncio
import threading
from typing import Self

import pytest
from processes import PATIENCE_SECONDS
from servers import ChatServer
from shell import Terminal, piped
from test_cli_terminal import shown

from power_agent.messages import Call
from power_agent.models.named import PROVIDERS
from power_agent.testing.speaking import Asked, Loopback, Said, head

KEY = "sk-a-key-that-nobody-may-see"


class Provider:
    """A provider on loopback, in a thread of its own: it answers what a test says, a request at a time."""

    def __init__(self, *answers: Said) -> None:
        self.answers = list(answers)
        self.side = ChatServer()
        self.asked: list[Asked] = []
        self.serves: str | None = None
        self.url = ""
        self._ready, self._end = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with Loopback(self._reply) as server:
            self.url = server.url
            self.asked = server.asked
            self._ready.set()
            await self._end.wait()

    async def _reply(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        if self.serves is not None:
            writer.write(head(media_type="text/html", length=len(self.serves)) + self.serves.encode())
            return
        self.side.check(asked.json)
        said = self.answers.pop(0)
        writer.write(head(media_type=self.side.media_type))
        for piece in self.side.stream(said):
            writer.write(piece)
            await writer.drain()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(PATIENCE_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(30)


@pytest.fixture
def project(here):
    """Write the project file."""

    def write(text: str) -> None:
        (here / "power-agent.toml").write_text(text, encoding="utf-8")

    return write


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch):
    for name in {name for one in PROVIDERS.values() for name in (*one.keys, one.address) if name}:
        monkeypatch.delenv(name, raising=False)


def reach(monkeypatch, provider: Provider) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", provider.url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def write(path: str, text: str) -> Said:
    return Said(calls=(Call("write", {"path": path, "content": text}, provider_id="p1"),), finish="calls")


def read(path: str) -> Said:
    return Said(calls=(Call("read", {"path": path}, provider_id="p0"),), finish="calls")


# -- a model by name ---------------------------------------------------------------------------------------------------


def test_a_model_by_name(run, project, monkeypatch):
    """`model = "provider:name"`: asked over a real connection, with the key from the variable, which nobody sees."""
    project('model = "openai-chat:m-1"\nsystem = "Be brief."\n[settings]\ntemperature = 0.5')
    with Provider(Said(text="Hello there.")) as provider:
        reach(monkeypatch, provider)
        told = run("send", "@new", "hello")
        assert (told.code, told.out) == (0, "Hello there.\n")
        assert (provider.asked[0].json["model"], provider.asked[0].json["temperature"]) == ("m-1", 0.5)
        assert provider.asked[0].headers["authorization"] == f"Bearer {KEY}"
    for words in (("history", "@last", "--json"), ("doctor",), ("models",), ("models", "--json"), ("config", "show", "--origin")):
        told = run(*words)
        assert KEY not in told.out + told.err


@pytest.mark.parametrize(("text", "words"), [
    ('model = "opnai:m"', ("Did you mean 'openai'?", "power-agent models")), ('model = "anthropic:m"', ("ANTHROPIC_API_KEY", "power-agent models")),
    ('model = "gpt"', ("names no model", "provider:model")),
])  # fmt: skip
def test_a_model_out_of_reach(text, words, run, project):
    """A misspelt provider, a missing key, no provider: exit code 2, where it was said, and what helps."""
    project(text)
    told = run("send", "@new", "hello")
    assert told.code == 2
    assert "power-agent.toml" in told.err
    assert all(word in told.err for word in words), told.err


def test_models_names_keys_and_never_values(run, project, monkeypatch):
    """What is ready, which variable is missing, and that an address was changed, but not to what."""
    project('model = "openai:m"')
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://me:hunter2@127.0.0.1/")
    told = run("models", "--json")
    assert told.data["model"] == "openai:m"
    found = {one["provider"]: one for one in told.data["providers"]}
    assert set(found) >= set(PROVIDERS)
    assert (found["openai"]["ready"], found["openai"]["set"], found["openai"]["moved"]) == (True, ["OPENAI_API_KEY"], True)
    assert (found["anthropic"]["ready"], found["anthropic"]["keys"]) == (False, ["ANTHROPIC_API_KEY"])
    assert not found["anthropic"]["moved"]
    assert found["ollama"]["ready"]
    for words in (("models",), ("models", "--json"), ("doctor",), ("doctor", "--json")):
        shown_ = run(*words)
        assert KEY not in shown_.out + shown_.err
        assert "hunter2" not in shown_.out + shown_.err
        assert "anthropic" in shown_.out


def test_models_say_how_many_keys_and_which_address(run, monkeypatch):
    """Several keys are counted, never shown; a service without an address of its own asks for one."""
    monkeypatch.setenv("GROQ_API_KEY", f"{KEY}-1,{KEY}-2")
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", KEY)
    monkeypatch.delenv("AZURE_OPENAI_ENDPOINT", raising=False)
    told = run("models")
    assert "GROQ_API_KEY holds 2 keys" in told.out
    assert "set AZURE_OPENAI_ENDPOINT" in told.out
    assert KEY not in told.out + told.err
    found = {one["provider"]: one for one in run("models", "--json").data["providers"]}
    assert (found["groq"]["ready"], found["groq"]["several"], found["groq"]["form"]) == (True, 2, "openai-chat")
    assert (found["azure"]["ready"], found["azure"]["address_variable"]) == (False, "AZURE_OPENAI_ENDPOINT")
    assert (found["vllm"]["ready"], found["vllm"]["needs_key"], found["anthropic"]["form"]) == (True, False, "anthropic")
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://mine.example")
    assert next(one for one in run("models", "--json").data["providers"] if one["provider"] == "azure")["ready"]


PRICES = '[prices]\n"openai-chat:m-1" = { input = 3, output = 15, cached = 0.3 }\n'


def test_roles_and_prices_of_the_project(run, project, here, monkeypatch):
    """[models] names who does what, [prices] what they cost; what a turn cost is told, and added up."""
    project(f'[models]\nmain = "openai-chat:m-1"\nsummary = "openai-chat:m-0"\n{PRICES}')
    with Provider(Said(text="One."), Said(text="Two.")) as provider:
        reach(monkeypatch, provider)
        told = run("send", "@new", "hello")
        assert (told.code, told.out) == (0, "One.\n")
        assert "$0.0001" in told.err
        result = run("send", "@last", "hello", "--json").data["result"]
        assert (result["cost_nano_usd"], result["price_sources"]) == (11 * 3_000 + 7 * 15_000, ["given"])
        assert [one.json["model"] for one in provider.asked] == ["m-1", "m-1"]
    counted = run("stats", "--json").data["models"]["openai-chat:m-1"]
    assert (counted["cost_nano_usd"], counted["unpriced"], counted["price_sources"]) == (2 * 138_000, 0, ["given"])
    assert "$0.0003" in run("stats").out
    assert "$0.0003" in run("show", "@last").out
    stated = run("config", "show", "--json").data["settings"]
    assert (stated["model"]["value"], stated["models.summary"]["value"], stated["prices.openai-chat:m-1"]["value"]["input"]) == ("openai-chat:m-1", "openai-chat:m-0", 3)
    assert "models.summary" in run("config", "show", "--origin").out
    (here / "mine.toml").write_text('["openai-chat:m-1"]\ninput = 1\noutput = 1\n', encoding="utf-8")
    project('model = "openai-chat:m-1"\nprices = "mine.toml"\n[limits]\nmax_cost_usd_per_turn = 1.0')
    with Provider(Said(text="Three.")) as provider:
        reach(monkeypatch, provider)
        assert run("send", "@last", "hello", "--json").data["result"]["price_sources"] == ["mine.toml"]


def test_an_unknown_price_is_called_unknown(run, project, monkeypatch):
    """In stats, in a session and in a result; within a limit of money nothing is asked, and what to do is said."""
    project('model = "openai-chat:m-1"')
    with Provider(Said(text="One.")) as provider:
        reach(monkeypatch, provider)
        assert run("send", "@new", "hello", "--json").data["result"]["cost_nano_usd"] is None
        assert run("stats", "--json").data["models"]["openai-chat:m-1"]["cost_nano_usd"] is None
        assert "unknown" in run("stats").out
        assert "unknown" in run("show", "@last").out
        project('model = "openai-chat:m-1"\n[limits]\nmax_cost_usd_per_session = 1.0')
        told = run("send", "@new", "hello")
        assert (told.code, len(provider.asked)) == (2, 1)
        assert "error[price_unknown]" in told.err
        assert "openai-chat:m-1" in told.err


@pytest.mark.parametrize(("text", "words"), [
    ('model = "vllm:m"\n[models]\nmain = "vllm:n"', ("models.main and model are the same",)), ('[models]\nmian = "vllm:n"', ("Did you mean models.main?",)),
    ('model = "vllm:m"\n[prices]\n"vllm:m" = { input = 1 }', ("power-agent.toml", "half a price")),
    ('model = "vllm:m"\nprices = "none.toml"', ("power-agent.toml", "cannot be read")),
    ('model = "vllm:m"\n[models]\nsummary = "opnai:x"', ("power-agent.toml", "Did you mean 'openai'?")), ('model = "vllm:m"\n[prices]\n"vllm:m" = 3', ("prices.vllm:m",)),
])  # fmt: skip
def test_what_is_wrong_with_roles_and_prices_is_said(text, words, run, project):
    project(text)
    told = run("send", "@new", "hello")
    assert told.code == 2
    assert all(word in told.err for word in words), told.err


def test_a_chain_of_the_project(run, project, monkeypatch):
    """`model = "a, b"`: the first is not there, the second answers, and the history tells both."""
    project('model = "vllm:m-0, openai-chat:m-1"')
    monkeypatch.setenv("VLLM_BASE_URL", "http://127.0.0.1:9/v1")
    with Provider(Said(text="Hello there.")) as provider:
        reach(monkeypatch, provider)
        assert run("send", "@new", "hello").out == "Hello there.\n"
    events = [one for one in run("history", "@last", "--json").data["events"] if one["kind"] == "model.asked"]
    assert [one["event"]["model"] for one in events] == ["vllm:m-0", "openai-chat:m-1"]


# -- toolboxes and policy ----------------------------------------------------------------------------------------------


def test_reads_run_and_changes_are_asked_about(run, project, here, monkeypatch):
    """The default: what reads runs, what changes waits for a person, from another shell; one's own functions run."""
    project('model = "openai-chat:m"\ntoolboxes = ["files", "todo", "person"]\ntools = ["agent:pay"]')
    (here / "notes.txt").write_text("buy milk\n", encoding="utf-8")
    own = Said(calls=(Call("pay", {"to": "Ada", "euros": 5}, provider_id="p2"), Call("todo", {"items": [{"text": "x"}]}, provider_id="p3")), finish="calls")
    with Provider(read("notes.txt"), own, write("new.txt", "one\ntwo"), Said(text="Written.")) as provider:
        reach(monkeypatch, provider)
        told = run("send", "work", "go", "--new")
        assert told.code == 5, told.err
        assert not (here / "new.txt").exists()
        assert "│ one" in told.err
        assert "power-agent settle work t1r3c1 approve" in told.err
        assert piped("settle", "work", "t1r3c1", "approve", cwd=here).code == 0
        assert run("resume", "work").out == "Written.\n"
    assert (here / "new.txt").read_text(encoding="utf-8") == "one\ntwo"
    kinds = [event["event"]["call"] for event in run("history", "work", "--kind", "call.approval_asked", "--json").data["events"]]
    assert kinds == ["t1r3c1"]
    done = [event["event"]["call"] for event in run("history", "work", "--kind", "call.succeeded", "--json").data["events"]]
    assert done == ["t1r1c1", "t1r2c1", "t1r2c2", "t1r3c1"]


PEEK = """
from power_agent import tool
from power_agent.policy.commands import Nature

@tool(nature=Nature(does="reads", paths=("path",)))
def peek(path: str) -> str:
    'Peek.'
    return "peeked"
"""


def test_what_a_tool_says_of_itself_counts(run, project, here, monkeypatch):
    """Under rules one's own tool that says it reads runs beneath the root, and is asked about outside of it."""
    (here / "eye.py").write_text(PEEK, encoding="utf-8")
    project('model = "openai-chat:m"\ntools = ["eye:peek", "agent:pay"]\n[policy]\nmode = "on-request"')
    places = [str(here / "notes.txt"), "/etc/passwd"]
    calls = [*(Call("peek", {"path": place}, provider_id=place) for place in places), Call("pay", {"to": "Ada", "euros": 5}, provider_id="p")]
    with Provider(Said(calls=tuple(calls), finish="calls")) as provider:
        reach(monkeypatch, provider)
        told = run("send", "work", "go", "--new", "--json")
    assert [call["id"] for call in told.data["result"]["pending"]] == ["t1r1c2", "t1r1c3"]


RULE = '[[policy.rules]]\naction = "allow"\ntools = ["bash"]\ncommand = ["mkdir", "**"]\n'


@pytest.mark.parametrize(("more", "ran"), [("", ["t1r1c1"]), ('toolboxes = ["todo"]\n', ["t1r1c1"]), (RULE, ["t1r1c1", "t1r1c2"])])
def test_a_shell_of_ones_own_is_judged(more, ran, run, project, here, monkeypatch):
    """What only reads runs, what the rules allow by its words too, and all else is asked about, whatever else is described."""
    (here / "shell_bot.py").write_text("from power_agent import shell\nsh = shell('.')\n", encoding="utf-8")
    project(f'model = "openai-chat:m"\ntools = ["shell_bot:sh"]\n{more}')
    calls = tuple(Call("bash", {"command": line}, provider_id=line) for line in ("ls", "mkdir out", "touch made"))
    with Provider(Said(calls=calls, finish="calls")) as provider:
        reach(monkeypatch, provider)
        told = run("send", "work", "go", "--new", "--json")
    assert told.code == 5
    assert sorted(event["event"]["call"] for event in run("history", "work", "--kind", "call.succeeded", "--json").data["events"]) == ran
    assert not (here / "made").exists()


def test_a_question_to_a_person_is_answered_from_a_shell(run, project, monkeypatch):
    """`person`: the question waits in the log; the answer is handed in."""
    project('model = "openai-chat:m"\ntoolboxes = ["person"]')
    asked = Said(calls=(Call("ask_person", {"question": "Which colour?"}, provider_id="p1"),), finish="calls")
    with Provider(asked, Said(text="Blue it is.")) as provider:
        reach(monkeypatch, provider)
        assert run("send", "work", "go", "--new").code == 5
        assert "Which colour?" in run("pending").out
        assert "power-agent settle work t1r1c1 result VALUE" in run("pending").err
        assert run("settle", "work", "t1r1c1", "result", "blue").code == 0
        assert run("resume", "work").out == "Blue it is.\n"


def test_the_web_is_read_and_nothing_inside(run, project, monkeypatch):
    """`web`: a host that the project allows is read without a question, another port of this machine is refused, and the model is told."""
    with Provider() as provider, Provider() as inside:
        provider.answers = [
            Said(calls=(Call("fetch", {"url": f"{one.url}/v1/models"}, provider_id=f"p{number}"),), finish="calls") for number, one in enumerate((inside, provider))
        ]
        provider.answers.append(Said(text="Read."))
        inside.serves = "<title>Inside</title><p>of <b>this</b> machine"
        project(f'model = "openai-chat:m"\n[web]\nallow = ["{inside.url.removeprefix("http://")}"]')
        reach(monkeypatch, provider)
        told = run("send", "work", "go", "--new")
        assert (told.code, told.out) == (0, "Read.\n"), told.err
        assert len(inside.asked) == 1
    outcomes = run("history", "work", "--kind", "call", "--json").data["events"]
    assert "of this machine" in next(event["event"]["output"] for event in outcomes if event["kind"] == "call.succeeded")
    assert next(event["event"]["failure"]["code"] for event in outcomes if event["kind"] == "call.failed") == "url_refused"


def test_many_tools_are_looked_for(run, project, here, monkeypatch):
    """`tool_search`: what is not always shown is found."""
    (here / "many.py").write_text("TOOLS = [type(lambda: 0)((lambda: 'done').__code__, {}, f'tool_{n}') for n in range(30)]", encoding="utf-8")
    project('model = "openai-chat:m"\ntools = ["many:TOOLS"]\n[tool_search]\nabove_tools = 20\nalways = ["tool_7"]')
    look = Said(calls=(Call("search_tools", {"query": "tool_19", "limit": 1}, provider_id="p"),), finish="calls")
    with Provider(look, Said(text="Found.")) as provider:
        reach(monkeypatch, provider)
        assert run("send", "work", "go", "--new").code == 0
        names = [[one["function"]["name"] for one in asked.json["tools"]] for asked in provider.asked]
    assert names == [shown := ["tool_7", "search_tools", "recall_search", "recall_read"], [*shown, "tool_19"]]


POLICY = '[policy]\n[[policy.rules]]\naction = "allow"\ntools = ["write"]\nwhen = { path = { glob = "out/**" } }\n'


@pytest.mark.parametrize("where", ["table", "file"])
def test_a_policy_as_a_table(where, run, project, here, monkeypatch):
    """In the project file or in one of its own: what a rule allows runs, the rest is asked about."""
    (here / "rules.toml").write_text(POLICY, encoding="utf-8")
    project('model = "openai-chat:m"\nfiles = true\n' + (POLICY if where == "table" else 'policy = "rules.toml"\n'))
    (here / "out").mkdir()
    with Provider(write("out/x", "1"), write("y", "2")) as provider:
        reach(monkeypatch, provider)
        told = run("send", "work", "go", "--new", "--json")
        assert told.code == 5
        assert [(call["id"], call["state"]) for call in told.data["result"]["pending"]] == [("t1r2c1", "waiting")]
    assert (here / "out" / "x").exists()
    assert not (here / "y").exists()


def test_read_only_by_a_flag(run, project, here, monkeypatch):
    """The mode alone may be set for one command; what is denied is told to the model."""
    project('model = "openai-chat:m"\nfiles = true')
    with Provider(write("x", "1"), Said(text="I may not.")) as provider:
        reach(monkeypatch, provider)
        assert run("send", "work", "go", "--new", "--set", "policy.mode=read-only").out == "I may not.\n"
    assert not (here / "x").exists()
    assert run("history", "work", "--kind", "call.denied", "--json").data["events"]


WRONG = [
    ('[policy]\nmode = "yolo"', "There are: on-request"),
    ('[policy]\nmdoe = "x"', "Did you mean policy.mode?"),
    ('[[policy.rules]]\naction = "allow"\ntools = ["wriet"]', "Did you mean 'write'?"),
    ('[[policy.rules]]\naction = "alow"', "Did you mean 'allow'?"),
    ('policy = "ruels.toml"', "Did you mean rules.toml?"),
    ('policy = "rules.toml"\n[policy.x]', "TOML"),
    ('policy = "broken.toml"', "broken.toml"),
    ('toolboxes = ["flies"]', "Did you mean files?"),
    ('toolboxes = "files"', "wants a list of texts"),
    ('[files]\nroot = "nowhere"', "cannot be the root"),
    ('[files]\nroto = "x"', "Did you mean files.root?"),
    ('[files]\nignore = "no"', "wants true or false"),
    ('[web]\nallow = ["http://x.example"]', "it is no host"),
    ('[web]\nsearch = "searx"', "begins with http"),
    ("[web]\nalow = []", "Did you mean web.allow?"),
    ('[tool_search]\nabove_tools = "many"', "wants a number"),
    ('policy = "agent:policy"\n', "policy.mode is for rules"),
]


@pytest.mark.parametrize(("text", "hint"), WRONG)
def test_what_is_wrong_is_found_before_anything_runs(text, hint, run, project, here, monkeypatch):
    """A policy is right as a whole or not used: exit code 2, what is wrong, what was meant, and no request is made."""
    (here / "rules.toml").write_text(POLICY, encoding="utf-8")
    (here / "broken.toml").write_text("x = ", encoding="utf-8")
    boxes = "" if "files" in text or "boxes" in text else "files = true\n"
    project(f'model = "openai-chat:m"\n{boxes}{text}')
    with Provider() as provider:
        reach(monkeypatch, provider)
        more = ("--set", "policy.mode=read-only") if "agent:policy" in text else ()
        told = run("send", "work", "go", "--new", *more)
        assert provider.asked == []
    assert told.code == 2
    assert hint in told.err, told.err
    assert "Traceback" not in told.err


def test_a_policy_is_said_once(run, project):
    """Rules and a file contradict each other."""
    project('model = "ollama:m"\npolicy = "rules.toml"')
    told = run("send", "work", "go", "--new", "--set", 'policy.rules=[{action="deny"}]')
    assert told.code == 2
    assert "said twice" in told.err


def test_files_stay_beneath_the_root_and_leave_ours_alone(run, project, here, monkeypatch):
    """The root is where the project file says; the store and the policy cannot be written, whatever a person would approve."""
    project('model = "openai-chat:m"\nstore = "log.db"\npolicy = "rules.toml"\n[files]\nprotect = ["mine.txt"]')
    (here / "rules.toml").write_text('[policy]\nmode = "on-request"\n[[policy.rules]]\naction = "allow"\n', encoding="utf-8")
    names = ["log.db", "log.db-wal", "rules.toml", "power-agent.toml", "mine.txt", "../outside.txt"]
    with Provider(*(write(name, "gotcha") for name in names), Said(text="None.")) as provider:
        reach(monkeypatch, provider)
        told = run("send", "work", "go", "--new")
        assert (told.code, told.out) == (0, "None.\n")
    events = run("history", "work", "--json").data["events"]
    assert [event["kind"] for event in events if event["kind"].startswith("call.")] == ["call.failed"] * len(names)
    assert not (here / "mine.txt").exists()
    assert not (here.parent / "outside.txt").exists()


# -- what a person is shown --------------------------------------------------------------------------------------------


def asks_to_write(run, monkeypatch, project, path: str, text: str) -> None:
    project('model = "openai-chat:m"\nfiles = true')
    with Provider(write(path, text)) as provider:
        reach(monkeypatch, provider)
        assert run("send", "work", "go", "--new").code == 5


def test_a_person_sees_what_would_run(run, project, here, monkeypatch):
    """Invisible characters, look-alikes and the end of a long text are seen, in a pipe, in a narrow terminal, and by programs."""
    asks_to_write(run, monkeypatch, project, "p\u0430y.txt", "safe\u202e\u200b\n" + "x" * 9000 + "\nrm -rf THE-END")
    for told in (run("pending", "work").out, shown(Terminal("pending", "work", cwd=here, columns=50).end().out), run("pending", "work", "--json").data["pending"][0]["shown"]):
        assert "\u202e" not in told
        assert "\\u202e" in told
        assert "look-alike letters" in told
        assert "rm -rf THE-END" in told
        assert "characters are not shown here" in told
    raw = run("pending", "work", "--json").data["pending"][0]["arguments"]["content"]
    assert raw.endswith("THE-END")
    assert "\u202e" in raw


def test_the_same_is_shown_where_it_is_settled(run, project, monkeypatch):
    """`settle` shows what is left to decide in the same way."""
    project('model = "openai-chat:m"\nfiles = true')
    both = Said(calls=(Call("write", {"path": "a", "content": "1"}, provider_id="p1"), Call("write", {"path": "b\u200b", "content": "2"}, provider_id="p2")), finish="calls")
    with Provider(both) as provider:
        reach(monkeypatch, provider)
        assert run("send", "work", "go", "--new").code == 5
    told = run("settle", "work", "t1r1c1", "deny")
    assert "b\\\\u200b" in told.err or "b\\u200b" in told.err
    assert "\u200b" not in told.err
