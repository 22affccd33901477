"""Settings: who wins, who is named, what is refused; and how an agent is found or built from them."""

from __future__ import annotations

import re
import sys

import pytest

from power_agent.cli.config import KINDS, Settings, variable
from power_agent.errors import ConfigError


@pytest.fixture
def project(here):
    """Write the project file."""

    def write(text: str) -> None:
        (here / "power-agent.toml").write_text(text, encoding="utf-8")

    return write


@pytest.fixture
def user(here):
    """Write the user file."""

    def write(text: str) -> None:
        (here / "settings" / "power-agent").mkdir(parents=True, exist_ok=True)
        (here / "settings" / "power-agent" / "config.toml").write_text(text, encoding="utf-8")

    return write


SOURCES = ["default", "user", "project", "environment", "set", "flag"]


@pytest.mark.parametrize("strongest", range(len(SOURCES)))
def test_flag_over_environment_over_project_over_user_over_default(strongest, project, user, monkeypatch):
    """Each source wins over all weaker ones, and `origin` names it."""
    if strongest >= 1:
        user('store = "user.db"')
    if strongest >= 2:
        project('store = "project.db"')
    if strongest >= 3:
        monkeypatch.setenv("POWER_AGENT_STORE", "environment.db")
    found = Settings({"store": "flag.db" if strongest >= 5 else None}, ["store=set.db"] if strongest >= 4 else ()).find("store")
    expected = {"default": ("power-agent.db", "default"), "flag": ("flag.db", "flag --store"), "set": ("set.db", "flag --set")}
    expected |= {"environment": ("environment.db", "environment POWER_AGENT_STORE"), "user": ("user.db", "user file"), "project": ("project.db", "project file")}
    value, origin = expected[SOURCES[strongest]]
    assert found.value == value
    assert found.origin.startswith(origin)


def test_origin_is_shown(run, project, user):
    """`config show --origin` says where each value came from, with the file's path."""
    user('model = "a:b"\nstore = "user.db"')
    project('system = "Be brief."\n[limits]\nmax_rounds_per_turn = 7\n[settings]\ntemperature = 0.5')
    rows = run("config", "show", "--origin", "--set", "durability=normal", "--json").data["settings"]
    assert {key: (one["value"], one["origin"].split(" /")[0]) for key, one in rows.items()} == {
        "model": ("a:b", "user file"),
        "system": ("Be brief.", "project file"),
        "store": ("user.db", "user file"),
        "durability": ("normal", "flag --set"),
        "limits.max_rounds_per_turn": (7, "project file"),
        "settings.temperature": (0.5, "project file"),
    }
    assert "project file" in run("config", "show", "--origin").out
    assert "project file" not in run("config", "show").out
    assert "POWER_AGENT_LIMITS_MAX_TOKENS_PER_TURN" in run("config", "show", "--all").out


@pytest.mark.parametrize(("text", "hint"), [
    ('modle = "x"', "Did you mean model?"),
    ("[limits]\nmax_round_per_turn = 3", "Did you mean limits.max_rounds_per_turn?"),
    ("[limit]\nx = 3", "Did you mean limits.x?|The keys are|Did you mean"),
    ("xyz = 1", "The keys are: agent, model"),
    ("model = 3", "wants a text"),
    ('tools = "x:y"', "wants a list of texts"),
    ('[limits]\nmax_rounds_per_turn = "many"', "wants a number"),
    ('durability = "some"', "full or normal"),
    ("model = ", "is not TOML"),
])  # fmt: skip
def test_what_is_wrong_is_refused(text, hint, run, project):
    """An unknown key, a wrong type, a broken file: exit code 2, the file is named, a suggestion where one is near."""
    project(text)
    told = run("sessions")
    assert told.code == 2
    assert "error[config]" in told.err
    assert "power-agent.toml" in told.err
    assert any(one in told.err for one in hint.split("|"))


@pytest.mark.parametrize("text", ["[limits", "limts = 3", "store = 3"])
def test_what_is_suggested_for_a_broken_file_works(text, run, project):
    """`config show` would read the same file and fail the same way."""
    project(text)
    told = run("sessions")
    assert told.code == 2
    (command,) = re.findall(r"power-agent (.*)$", told.err.splitlines()[-1])
    assert run(*command.split()).code == 0


def test_a_limit_says_how_to_raise_it(run, project, here):
    """Where the agent is described a setting does it, for one command too; where it is code, the code does. Then it goes on."""
    project('model = "python:agent:model"\ntools = ["agent:pay"]\n[limits]\nmax_rounds_per_turn = 1')
    told = run("send", "work", "pay 5", "--new")
    assert told.code == 6
    assert "limits.max_rounds_per_turn" in told.err
    (command,) = re.findall(r"power-agent (resume .*)$", told.err, re.MULTILINE)
    assert run(*command.replace("NUMBER", "5").split()).code == 0
    (here / "bot.py").write_text(
        "from power_agent import *\nbot = StatefulAgentLoop(ScriptedModel([[Call('recall_search', {'query': 'x'})]]), \n"
        "    limits=Limits(max_rounds_per_turn=1), store='power-agent.db')\n",
        encoding="utf-8",
    )
    told = run("send", "other", "pay 5", "--new", "--agent", "bot:bot")
    assert told.code == 6
    assert "Raise limits.max_rounds_per_turn first, where the agent is made: limits=Limits(max_rounds_per_turn=…)." in told.err
    assert "power-agent resume other --agent bot:bot\n" in told.err


def test_unknown_flag_setting_is_refused(run):
    """The same for --set; and it has to be an assignment."""
    assert "Did you mean limits.max_rounds_per_turn?" in run("config", "--set", "limits.max_round_per_turn=3").err
    assert run("config", "--set", "nonsense").code == 2


def test_variables_are_filled_in_when_used(project, monkeypatch):
    """`${VAR}`, `${VAR:-default}`, and `$${VAR}` for the letters themselves."""
    project('system = "${WHO} ${MOOD:-calm} $${WHO}"\ntools = ["${WHO}:x"]')
    settings = Settings()
    with pytest.raises(ConfigError, match="WHO"):
        settings.get("system")
    monkeypatch.setenv("WHO", "Ada")
    assert settings.get("system") == "Ada calm ${WHO}"
    assert settings.get("tools") == ["Ada:x"]


def test_no_secret_is_shown(run, project, monkeypatch):
    """`config show` prints what was written, not what a variable holds; an unset one only matters to whoever uses it."""
    project('[settings]\napi_key = "${BANK_TOKEN}"')
    monkeypatch.setenv("BANK_TOKEN", "tok-secret")
    for words in (("config", "show", "--origin"), ("config", "show", "--json"), ("doctor",), ("paths",)):
        told = run(*words)
        assert "tok-secret" not in told.out + told.err
    monkeypatch.delenv("BANK_TOKEN")
    assert run("sessions").code == 0


def test_paths_start_where_they_were_written(here, project, monkeypatch):
    """The nearest file above counts, and a store in it lies beside it."""
    project('store = "power-agent.db"')
    (here / "deep" / "deeper").mkdir(parents=True)
    monkeypatch.chdir(here / "deep" / "deeper")
    assert Settings().store == str(here / "power-agent.db")
    assert Settings({"store": "own.db"}).store == str(here / "deep" / "deeper" / "own.db")


def test_every_key_has_a_variable(monkeypatch):
    """Each key can be set from the environment, lists by commas, numbers as numbers."""
    assert {variable(key) for key in KINDS} & {"POWER_AGENT_STORM", "POWER_AGENT_FAILPOINT", "POWER_AGENT_HYPOTHESIS", "POWER_AGENT_DEMO_DIES"} == set()
    monkeypatch.setenv("POWER_AGENT_TOOLS", "a:b, c:d")
    monkeypatch.setenv("POWER_AGENT_LIMITS_MAX_TURN_SECONDS", "2.5")
    settings = Settings()
    assert settings.get("tools") == ["a:b", "c:d"]
    assert settings.table("limits") == {"max_turn_seconds": 2.5}
    monkeypatch.setenv("POWER_AGENT_LIMITS_MAX_TURN_SECONDS", "soon")
    with pytest.raises(ConfigError, match="POWER_AGENT_LIMITS_MAX_TURN_SECONDS"):
        Settings()


# -- the agent ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["agent:make", "agent:make_later", "agent.py:make", "agent:there"])
def test_agents_that_are_found(spec, run, here):
    """A function, an async one, a file, or the loop itself."""
    with (here / "agent.py").open("a", encoding="utf-8") as file:
        file.write("\nthere = make('power-agent.db')\n")
    told = run("send", "done", "hello", "--agent", spec)
    assert (told.code, told.out) == (0, "You said: hello\n")


def test_agent_from_the_project_file(run, project, here, monkeypatch):
    """Named in the file, it is found beside the file, from any folder below."""
    project('agent = "agent:make"')
    (here / "below").mkdir()
    monkeypatch.chdir(here / "below")
    told = run("send", "done", "hello", "--store", "../power-agent.db")
    assert (told.code, told.out) == (0, "You said: hello\n")
    told = run("send", "done", "hello")
    assert told.code == 3  # the store is the default one of this folder


def test_described_agent(run, project):
    """Model, system, tools, policy and limits of the file make an agent; what the log says about it is what was written."""
    project(
        'model = "python:agent:model"\nsystem = "Be brief."\ntools = ["agent:tools"]\npolicy = "agent:policy"\n[limits]\nmax_rounds_per_turn = 9\n[settings]\ntemperature = 0.5'
    )
    assert run("send", "mine", "pay 500", "--new").code == 5
    config = run("show", "mine", "--json").data["config"]
    assert (config["system"], [tool["name"] for tool in config["tools"]]) == ("Be brief.", ["pay", "wait"])
    assert (config["limits"]["max_rounds_per_turn"], config["settings"]) == (9, {"temperature": 0.5})
    assert run("send", "other", "hello", "--new", "--system", "Be long.").code == 0
    assert run("show", "other", "--json").data["config"]["system"] == "Be long."


def test_model_without_a_provider(run):
    """A model that nobody knows is a usage error."""
    assert run("send", "done", "hello", "--model", "nobody:knows").code == 2


def test_limits_that_let_nothing_work(run):
    """What no agent may have is refused with where it was written, and what it can be."""
    told = run("send", "done", "hello", "--model", "python:agent:model", "--set", "limits.max_parallel_calls=0")
    assert told.code == 2
    assert "flag --set: limits.max_parallel_calls: max_parallel_calls=0 is not possible." in told.err
    assert "It is a whole number above 0." in told.err


def test_limits_are_checked(run):
    """A limit that cannot be is refused before anything is sent."""
    told = run("send", "done", "hello", "--model", "python:agent:model", "--set", "limits.max_rounds_per_turn=1.5")
    assert told.code == 2
    assert "limits.max_rounds_per_turn" in told.err


@pytest.mark.parametrize("words", [("--model", "a:b"), ("--system", "x"), ("--set", "limits.max_rounds_per_turn=3")])
def test_an_agent_brings_its_own(words, run):
    """What the agent's code decides cannot be told by a flag as well: it would be ignored in silence."""
    told = run("send", "done", "hello", "--agent", "agent:make", *words)
    assert told.code == 2
    assert "is set there, not by --" in told.err


def test_agent_with_a_store_of_its_own(run, here):
    """Its log is used and named in what is suggested; another one by flag is a contradiction."""
    with (here / "agent.py").open("a", encoding="utf-8") as file:
        file.write("\nown = make('own.db')\n")
    told = run("send", "@new", "pay 500", "--agent", "agent:own")
    assert told.code == 5
    assert "--store own.db" in told.err
    told = run("send", "@new", "hello", "--agent", "agent:own", "--store", "other.db")
    assert told.code == 2
    assert "keeps its log in" in told.err
    assert not (here / "other.db").exists()


def test_project_store_and_agent_store_must_agree(run, project, here, monkeypatch):
    """The file says one place, the agent's code (run from another folder) another: refused, else the other verbs would see nothing."""
    with (here / "agent.py").open("a", encoding="utf-8") as file:
        file.write("\nown = make('power-agent.db')\n")
    project('agent = "agent:own"\nstore = "power-agent.db"')
    assert run("send", "done", "hello").code == 0
    (here / "below").mkdir()
    monkeypatch.chdir(here / "below")
    sys.modules.pop("agent")
    told = run("send", "done", "hello")
    assert told.code == 2
    assert "let the agent be a function with a parameter `store`" in told.err
    assert not (here / "below" / "power-agent.db").exists()


def test_looking_imports_no_agent(run, project, here):
    """Code of the agent's runs only when it is sent to: looking into a stranger's folder runs nothing."""
    (here / "trap.py").write_text("open('sprung', 'w').close()\n", encoding="utf-8")
    project('agent = "trap:make"\ntools = ["trap:x"]')
    for words in ((), ("sessions",), ("history", "done"), ("pending",), ("doctor",), ("config", "show"), ("verify",), ("abort", "crashed")):
        assert run(*words).code == 0
    assert not (here / "sprung").exists()
    assert run("send", "done", "x").code == 2
    assert (here / "sprung").exists()
