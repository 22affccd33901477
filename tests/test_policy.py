"""Rules: which one decides, what the default is, what a pattern can tell, and what is refused when a policy is loaded."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from power_agent import Approve, Call, ScriptedModel, StatefulAgentLoop, tool
from power_agent.clock import HeldClock
from power_agent.errors import BadPolicy
from power_agent.policy import Allow, Ask, Deny, Wanted, loading
from power_agent.policy.commands import Judged, Nature, Part
from power_agent.policy.loading import load_policy
from power_agent.policy.obeyed import TABLE
from power_agent.policy.patterns import Argv, Domain, Exact, Glob, Prefix, Regex, beneath
from power_agent.policy.rules import Action, Mode, Rule, Rules, natures_of, rule_for
from power_agent.tools.shell_judge import ShellJudge

NATURES = {"look": Nature(does="reads", paths=("path",)), "save": Nature(does="changes", paths=("path",)), "bash": Nature(does="shell")}


def wanted(tool_: str, binds=None, **arguments) -> Wanted:
    return Wanted(session="s", call="t1r1c1", tool=tool_, arguments=arguments, binds=binds or {})


def rules(*made: Rule, **more) -> Rules:
    return Rules(made, natures=NATURES, **more)


def parts(*made: Part):
    """A judge that finds these parts in every command line."""
    return lambda command, binds: Judged(parts=made)


@tool
def look(path: str = ".") -> str:
    return path


@tool
def save(path: str, text: str = "") -> str:
    return path


@tool
def bash(command: str) -> str:
    return command


look.nature, save.nature, bash.nature = NATURES["look"], NATURES["save"], NATURES["bash"]
bash.judge = ShellJudge()
TOOLS = [look, save, bash]

# -- which rule decides ------------------------------------------------------------------------------------------------


def test_defaults():
    """Reads beneath the root run; reads outside, changes, and tools that say nothing about themselves are asked about."""
    policy = rules(root="/home/me/p")
    assert policy(wanted("look", path="src/a.py")) == Allow("default (reads beneath the root)")
    assert policy(wanted("look", path="/home/me/p/src")) == Allow("default (reads beneath the root)")
    assert policy(wanted("look")) == Allow("default (reads beneath the root)")
    for path in ["/etc/passwd", "../x", "a/../../x", "a/../b", "/home/me/pp", "/home/me/p/../x", 5, ["x"]]:
        assert policy(wanted("look", path=path)).rule == "default (reads outside the root)", path
    assert policy(wanted("save", path="a")).rule == policy(wanted("own")).rule == "default (may change something)"


def test_first_match_decides_and_deny_wins():
    """Of ask and allow the first that matches counts; a deny counts wherever it stands. The verdict names the rule."""
    ask = Rule(action="ask", tools=("save",), when={"path": Glob("src/**")}, name="sources", reason="Sure?", seconds=5)
    allow = Rule(action="allow", tools=("save",))
    deny = Rule(action="deny", when={"path": Glob("**/*.lock")}, reason="Generated.")
    policy = rules(ask, allow, deny)
    assert policy(wanted("save", path="src/a")) == Ask("Sure?", "sources", 5)
    assert policy(wanted("save", path="doc")) == Allow("allow #2")
    assert policy(wanted("save", path="src/x.lock")) == Deny("Generated.", "deny #3")
    assert rules(allow, ask)(wanted("save", path="src/a")) == Allow("allow #1")


def test_modes():
    """Always-ask asks about what would run, never-ask denies what would be asked, read-only denies whatever is not a read."""
    allow = Rule(action="allow", tools=("save", "bash"))
    harmless, harmful = parts(Part(text="ls", argv=("ls",))), parts(Part(text="rm", argv=("rm",), reason="writes", liftable=True))
    assert rules(allow, mode="always-ask")(wanted("save", path="a")) == Ask(None, "always-ask (allow #1)")
    assert isinstance(rules(mode="never-ask")(wanted("save", path="a")), Deny)
    assert rules(allow, mode="never-ask")(wanted("save", path="a")) == Allow("allow #1")
    only = {"mode": "read-only"}
    assert isinstance(rules(allow, **only)(wanted("look", path="a")), Allow)
    assert [rules(allow, **only)(wanted(name, path="a")).rule for name in ("save", "own")] == ["read-only"] * 2
    assert isinstance(rules(shell=harmless, **only)(wanted("bash", command="ls")), Allow)
    assert rules(allow, shell=harmful, **only)(wanted("bash", command="rm")).rule == "read-only"
    always = rule_for(wanted("bash", command="rm"))
    assert rules(always, shell=harmful, **only)(wanted("bash", command="rm")).rule == "read-only"
    with pytest.raises(BadPolicy, match="on-request"):
        rules(mode="yolo")


def test_what_others_obey_is_asked_about():
    """No broad rule allows changing protected files, in any case; the rule that says exactly this call does."""
    allow = Rule(action="allow")
    for path in [".git/config", ".git", "sub/.git/hooks/x", ".BASHRC", ".github/workflows/new.yml", ".vscode/x", "CLAUDE.md", "power-agent.db-wal"]:
        call = wanted("save", path=path)
        assert rules(allow)(call) == Ask("It changes what other programs obey.", "protected"), path
        assert rules(allow, rule_for(call))(call) == Allow("always (t1r1c1)")
    assert rules(allow)(wanted("save", path="src/git/config")) == Allow("allow #1")


@pytest.mark.parametrize("why", TABLE)
def test_what_the_file_tools_protect_no_rule_lifts(why):
    """Each row of their table is asked about in a shell as well, by name, below and beneath, in any case, whatever is allowed; also where it does not exist."""
    policy = rules(*(Rule(action="allow", tools=("bash",), command=Argv((name, "**"))) for name in ("tee", "cp")), shell=ShellJudge())
    assert isinstance(policy(wanted("bash", command="tee notes.txt")), Allow)
    for pattern in TABLE[why]:
        name = pattern.replace("*", "x")
        for path in (name, f"a/{name}", f"a/{name}/b", name.upper(), f"./{name}"):
            for line in (f"tee {path}", f"cp notes.txt {path}", f"echo x > {path}"):
                verdict = policy(wanted("bash", command=line))
                assert isinstance(verdict, Ask), line
                assert verdict.rule in {"protected", "default (syntax)", "default (dynamic)"}, (line, verdict)


def test_command_lines_are_judged_part_by_part():
    """The strictest part decides; a rule about words lifts the program it names, and nothing beside it."""
    test = Part(text="pytest -q", argv=("pytest", "-q"), reason="unknown", liftable=True)
    tail = Part(text="tail -5", argv=("tail", "-5"))
    out = Part(text="> x", reason="writes", writes=("x",))
    sudo = Part(text="sudo pytest", argv=("sudo", "pytest"), reason="runs", hides=True)
    allow = Rule(action="allow", tools=("bash",), command=Argv(("pytest", "**")))
    line = wanted("bash", command="…")
    assert rules(allow, shell=parts(test, tail))(line) == Allow("allow #1")
    assert rules(shell=parts(test, tail))(line).rule == "default (unknown)"
    assert rules(allow, shell=parts(test, out))(line).rule == "default (writes)"
    assert rules(allow, shell=parts(sudo, test))(line).rule == "default (runs)"
    assert isinstance(rules(allow, Rule(action="deny", command=Argv(("pytest", "**"))), shell=parts(tail, test))(line), Deny)
    assert rules(Rule(action="allow"), shell=parts(Part(text="> .bashrc", reason="protected")))(line).rule == "protected"
    tee = Part(text="tee .git/hooks/x", argv=("tee", ".git/hooks/x"), reason="writes", liftable=True)
    assert rules(Rule(action="allow", command=Argv(("tee", "**"))), shell=parts(tee))(line).rule == "protected"
    assert rules(allow)(line).rule == "default (no grammar)"
    assert isinstance(rules(shell=lambda *_: Judged(parts=()))(line), Ask)


@pytest.mark.parametrize(
    "part", [Part(text="?", reason="syntax"), Part(text="eval $x", argv=("eval", None), reason="runs", hides=True), Part(text="$x", argv=(None,), reason="dynamic")]
)
def test_a_forbidden_command_may_hide(part):
    """Where a forbidden command could hide, not even a rule that allows the whole shell lets it run."""
    allow, deny = Rule(action="allow", tools=("bash",)), Rule(action="deny", command=Argv(("rm", "**")))
    assert isinstance(rules(allow, shell=parts(part))(wanted("bash", command="x")), Allow)
    assert rules(allow, deny, shell=parts(part))(wanted("bash", command="x")).rule == "deny #2"
    assert isinstance(rules(allow, deny, shell=parts(part))(wanted("bash", command="x")), Ask)
    for name in ("rm", "/bin/rm", "RM"):
        assert isinstance(rules(allow, deny, shell=parts(Part(text="", argv=(name, "x"))))(wanted("bash", command="x")), Deny)


def test_lines_are_not_allowed_by_their_looks():
    """Behind a good beginning anything may follow: an allow rule over a command's text must be exact."""
    for pattern in (Prefix("git "), Regex("git .*"), Glob("git*")):
        with pytest.raises(BadPolicy, match="by their text"):
            rules(Rule(action="allow", when={"command": pattern}, tools=("bash",)))
        rules(Rule(action="deny", when={"command": pattern}, tools=("bash",)))
    exact = Rule(action="allow", when={"command": Exact("make")}, tools=("bash",))
    asked = parts(Part(text="make", argv=("make",), reason="runs"))
    assert rules(exact, shell=asked)(wanted("bash", command="make")) == Allow("allow #1")
    assert isinstance(rules(exact, shell=asked)(wanted("bash", command="make ")), Ask)


def test_always_is_as_narrow_as_what_was_shown():
    """The rule for a call matches that call: not with one argument more, fewer, or of another type, nor in another place."""
    call = wanted("own", binds={"folder": "a"}, n=1, deep={"x": [True]})
    policy = rules(rule_for(call))
    assert policy(call) == Allow("always (t1r1c1)")
    others = [{"n": 1}, {"n": True, "deep": {"x": [True]}}, {"n": 1, "deep": {"x": [1]}}, {"n": 1, "deep": {"x": [True]}, "more": None}, {"n": 1.5, "deep": {"x": [True]}}]
    assert {type(policy(wanted("own", binds={"folder": "a"}, **one))) for one in others} == {Ask}
    assert isinstance(policy(wanted("own", binds={"folder": "b"}, n=1, deep={"x": [True]})), Ask)
    assert isinstance(policy(wanted("other", binds={"folder": "a"}, n=1, deep={"x": [True]})), Ask)


# -- patterns ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("src/**", ["src/a", "src/a/b", "./src//a", "src"], ["srcs/a", "a/src/b"]),
        ("**/.env", [".env", "a/.env", "a/b/.env"], [".envs", "a.env"]),
        ("*.py", ["a.py", ".py"], ["a/b.py", "a.pyc"]),
        ("a/**/b/*.c", ["a/b/x.c", "a/x/y/b/z.c", "a/b/b/x.c"], ["a/b/x/y.c", "b/x.c"]),
        ("app/[id].tsx", ["app/[id].tsx"], ["app/i.tsx"]),
        ("a?c*", ["abc", "abcd"], ["ac", "a/c"]),
    ],
)
def test_globs(pattern, yes, no):
    """Stars stay within a name, two of them cross folders, brackets are themselves."""
    assert [one for one in yes if not Glob(pattern).matches(one)] == []
    assert [one for one in no if Glob(pattern).matches(one) is not False] == []


def test_paths_that_cannot_be_told():
    """A path that leads out, or back up behind a name, is none that an allow rule speaks of; a deny rule makes it asked about."""
    allow, deny = Rule(action="allow", when={"path": Glob("**")}), Rule(action="deny", tools=("save",), when={"path": Glob("secret/**")})
    for path in ("../x", "a/../secret/x", "a/../../x"):
        assert Glob("**").matches(path) is None
        assert rules(allow)(wanted("save", path=path)).rule == "default (may change something)"
        assert rules(Rule(action="allow", tools=("save",)), deny)(wanted("save", path=path)).rule == "deny #2"
    assert isinstance(rules(allow)(wanted("save", path="/etc/x")), Ask)
    for twin in ("SECRET/x", "secret/x", "\uff53ecret/x", "./secret//x"):
        assert isinstance(rules(deny)(wanted("save", path=twin)), Deny), twin
    twins = [rules(Rule(action="allow", when={"path": Glob("secret/**")}))(wanted("save", path=twin)) for twin in ("SECRET/x", "\uff53ecret/x", "./secret//x")]
    assert [type(one) for one in twins] == [Ask, Ask, Allow]


@given(st.text("ab*?/.", max_size=12), st.text("ab/.", max_size=12))
def test_globs_mean_what_a_regex_means(pattern, path):
    """The table that matches globs agrees with the expression they stand for."""
    try:
        Glob(pattern).check()
    except BadPolicy:
        return
    clean = beneath(path) if not path.startswith("/") else None
    if clean is None or pattern.startswith("/"):
        return
    made = "".join({"**/": "(?:[^/]+/)*", "*": "[^/]*", "?": "[^/]", "**": ".*"}.get(one, re.escape(one)) for one in re.split(r"(\*\*/|(?<=/)\*\*$|^\*\*$|\*|\?)", pattern) if one)
    made = re.sub(r"/\.\*$", "(?:/.*)?", made)
    assert Glob(pattern).matches(clean) == (re.fullmatch(made, clean) is not None)


@pytest.mark.parametrize("pattern", ["(a+)+", "(a|a)*b" * 30, "a?" * 30 + "a" * 30, ".*.*.*.*x", "(?=a)b", r"(a)\1", "((a*)b)*", "(", "a" * 501, "(a{1,50}){1,50}"])
def test_slow_expressions_are_refused(pattern):
    """What could take for ever, or is no expression, is refused when the policy is made."""
    with pytest.raises(BadPolicy):
        rules(Rule(action="deny", when={"path": Regex(pattern)}))


@pytest.mark.parametrize("pattern", [r".*[a-z]+x", r"\d{4}-\d\d-\d\d", "(get|set)_.*", r"https://[\w.]+/.*"])
def test_expressions_that_are_taken(pattern):
    """Two open repeats are quick in the worst case; of a longer text than is looked at, nothing can be told."""
    Regex(pattern).check()
    begun = time.process_time()
    assert Regex(pattern).matches("a" * 2_000) in {True, False}
    assert time.process_time() - begun < 5
    assert Regex(pattern).matches("a" * 2_001) is None
    assert rules(Rule(action="deny", tools=("save",), when={"path": Regex(pattern)}))(wanted("save", path="a" * 2_001)).rule == "deny #1"


def test_domains():
    """A host is compared as a host: not by its end, its user name, or what a lenient reader makes of it."""
    one, below = Domain("example.org"), Domain("*.example.org")
    assert [one.matches(url) for url in ("https://example.org/x", "https://EXAMPLE.org.:80", "example.org/x")] == [True] * 3
    assert [below.matches(url) for url in ("https://a.example.org", "https://a.b.example.org/")] == [True] * 2
    bad = ["https://evilexample.org", "https://example.org.evil.net", "https://evil.net/example.org", "https://evil.net?example.org", "https://evil.net#@example.org"]
    bad += [
        "https://example.org@evil.net",
        "https://example.org\\@evil.net",
        "https://ex%61mple.org",
        "https://exаmple.org",
        "file://example.org/etc",
        "https://",
        5,
        "https://[::1",
        "https://example.org\t.evil.net",
    ]
    assert [url for url in bad if one.matches(url) or below.matches(url)] == []
    with pytest.raises(BadPolicy):
        Domain("https://example.org").check()


def test_words_of_commands():
    """A star is one word, two stars the rest; an unknown word fits the rest only."""
    push = Argv(("git", "push", "*", "**"))
    assert [push.fits(argv) for argv in (("git", "push", "origin"), ("git", "push", "o", "x", None))] == [True, True]
    assert [push.fits(argv) for argv in (("git", "push"), ("git", "pull", "o"))] == [False, False]
    assert push.fits(("git", None, "origin")) is None
    assert Argv(("make", "x")).fits(("make", "x", None)) is None
    assert Argv(("make", "x")).fits(("make", "x", "y")) is False


# -- loading -----------------------------------------------------------------------------------------------------------

GOOD = """
[policy]
mode = "never-ask"
[[policy.rules]]
action = "deny"
tools = ["save"]
when = { path = { glob = "migrations/**" } }
reason = "Written by people."
[[policy.rules]]
action = "allow"
tools = ["bash"]
command = ["pytest", "**"]
[[policy.rules]]
name = "notes"
action = "allow"
tools = ["save"]
when = { path = "notes.md" }
"""


def test_a_policy_from_toml():
    """What the table says is what the policy does."""
    policy = load_policy(GOOD, TOOLS)
    assert policy(wanted("save", path="migrations/1.sql")) == Deny("Written by people.", "deny #1")
    assert policy(wanted("save", path="notes.md")) == Allow("notes")
    assert policy(wanted("save", path="other.md")).rule == "never-ask (default (may change something))"
    assert load_policy(GOOD, TOOLS, mode="on-request").mode == "on-request"
    assert natures_of(TOOLS) == NATURES


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[policy", "not TOML"),
        ("[polcy]", "policy"),
        ("", "no table"),
        ("policy = 3", "no table"),
        ("[policy]\nmod='x'", "'mode'"),
        ("[policy]\nmode='never'", "'never-ask'"),
        ("[policy]\nrules=3", "not a list"),
        ("[policy]\nrules=[3]", "not a table"),
        ("[[policy.rules]]\naction='alow'", "'allow'"),
        ("[[policy.rules]]\ntools=['save']", "no action"),
        ("[[policy.rules]]\naction='deny'\ntool=['save']", "'tools'"),
        ("[[policy.rules]]\naction='deny'\ntools=['sav']", "'save'"),
        ("[[policy.rules]]\naction='deny'\ntools='save'", "list of texts"),
        ("[[policy.rules]]\naction='deny'\ntools=[]", "names no tool"),
        ("[[policy.rules]]\naction='deny'\ntools=['save']\nwhen={pth='x'}", "'path'"),
        ("[[policy.rules]]\naction='deny'\nwhen={path='x'}", "argument of bash"),
        ("[[policy.rules]]\naction='deny'\ntools=['save']\nwhen={path={globb='x'}}", "'glob'"),
        ("[[policy.rules]]\naction='deny'\ntools=['save']\nwhen={path={glob='../x'}}", "relative to the root"),
        ("[[policy.rules]]\naction='deny'\ntools=['save']\nwhen={path={glob='a**'}}", "within a name"),
        ("[[policy.rules]]\naction='deny'\ntools=['save']\nwhen={path={glob='a',prefix='b'}}", "2 patterns"),
        ("[[policy.rules]]\naction='deny'\ntools=['save']\nwhen={path={glob=3}}", "no text"),
        ("[[policy.rules]]\naction='deny'\ntools=['save']\nwhen={path=1979-05-27}", "model can say"),
        ("[[policy.rules]]\naction='deny'\ntools=['save']\nwhen={}", "no table of patterns"),
        ("[[policy.rules]]\naction='deny'\ntools=['save']\nwhen={path={regex='(a+)+'}}", "too long|can take"),
        ("[[policy.rules]]\naction='deny'\ntools=['save']\ncommand=['rm']", "for shells"),
        ("[[policy.rules]]\naction='deny'\ntools=['bash']\ncommand='rm'", "list of texts"),
        ("[[policy.rules]]\naction='allow'\ntools=['bash']\ncommand=['**']", "names no program"),
        ("[[policy.rules]]\naction='allow'\ntools=['bash']\ncommand=['git','**','x']", "before its end"),
        ("[[policy.rules]]\naction='allow'\ntools=['bash']\nwhen={command={prefix='git '}}", "by their text"),
        ("[[policy.rules]]\naction='deny'\nseconds=5", "deadline"),
        ("[[policy.rules]]\naction='ask'\nseconds=-5", "deadline"),
        ("[[policy.rules]]\naction='ask'\nseconds='5'", "seconds"),
        ("[[policy.rules]]\naction='ask'\nseconds=true", "seconds"),
        ("[[policy.rules]]\naction='ask'\nname=5", "name"),
    ],
)
def test_what_is_wrong_is_said(text, says):
    """Nothing unknown is passed over: every mistake is an error that says what was meant, or what there is."""
    with pytest.raises(BadPolicy, match=says):
        load_policy(text, TOOLS)


def test_the_language_is_described():
    """Its page names every mode, action, pattern and key; the rules on it are a policy, and what it says of a line of two commands is so."""
    page = (Path(loading.__file__).parent / "README.md").read_text(encoding="utf-8")
    said = set(re.findall(r"[\w-]+", " ".join(re.findall(r"`([^`]+)`", page.replace("```", ""))) + " ".join(re.findall(r"```toml\n(.*?)```", page, re.DOTALL))))
    assert {*get_args(Mode), *get_args(Action), *loading.KINDS, *loading.KEYS, *loading.RULE_KEYS} <= said
    assert set(re.findall(r"^\| `\{ (\w+) = ", page, re.MULTILINE)) == loading.KINDS.keys()
    assert set(re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE)) - {"mode"} == set(get_args(Mode))
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    write, edit = (tool(name=name, nature=NATURES["save"])(lambda path: path) for name in ("write", "edit"))
    policy = load_policy(text, [write, edit, bash])
    assert policy(wanted("edit", path="migrations/1.sql")) == Deny("Migrations are written by people.", "migrations")
    assert isinstance(policy(wanted("bash", command="pytest -q")), Allow)
    assert isinstance(policy(wanted("bash", command="pytest -q; rm x")), Ask)
    assert policy(wanted("bash", command="git push origin")).seconds == 86400


def test_words_of_a_command_want_a_judge():
    """Nobody could find them in a line of a tool that brings no judge, so such a rule would never speak: it is refused."""

    @tool(nature=Nature(does="shell"))
    def run(command: str) -> str:
        return command

    for action in ("allow", "deny"):
        text = f'[[policy.rules]]\naction="{action}"\ntools=["run"]\ncommand=["echo", "**"]'
        with pytest.raises(BadPolicy, match=r"nobody judges the command lines of run\."):
            load_policy(text, [run])
        assert type(load_policy(text, [run], shell=ShellJudge())(wanted("run", command="echo hi"))).__name__.lower() == action


def test_a_judge_that_is_passed_takes_the_place_of_others():
    """It may be stricter than the one that a tool brings."""
    strict = parts(Part(text="all", reason="unknown", why="nothing is harmless here"))
    assert isinstance(load_policy("[policy]", [bash])(wanted("bash", command="ls")), Allow)
    assert isinstance(load_policy("[policy]", [bash], shell=strict)(wanted("bash", command="ls")), Ask)


def test_each_tool_has_its_own_root():
    """A path is held against the rules relative to the root of the tool it is given to; `root` is that of a tool that names none."""

    def at(root: str | None):
        @tool(name=f"look_{len(root or '')}", nature=NATURES["look"])
        def one(path: str) -> str:
            return path

        if root is not None:
            one.root = root
        return one

    deep, none = at("/srv/deep"), at(None)
    policy = load_policy('[[policy.rules]]\naction="deny"\nwhen={path={glob="secret/**"}}', [deep, none], root="/srv")
    for name, root, other in (("look_9", "/srv/deep", "/srv"), ("look_0", "/srv", "/srv/deep")):
        assert isinstance(policy(wanted(name, path=f"{root}/secret/x")), Deny)
        assert not isinstance(policy(wanted(name, path=f"{other}/secret/x")), Deny)


def test_a_plain_function_is_no_tool_yet():
    """A loop makes a tool of it; rules are checked against what the tool takes, so they want it made."""

    def refund(order: str) -> str:
        return order

    with pytest.raises(BadPolicy, match="Write @tool above refund"):
        load_policy("[policy]", [refund])
    assert load_policy("[policy]", [tool(refund)]).mode == "on-request"


# -- in a loop ---------------------------------------------------------------------------------------------------------


async def test_a_models_text_never_approves(tmp_path):
    """Whatever the model says, in text, in arguments or as a tool of that name, the call waits for a person."""
    ran = []

    @tool
    def save_all(path: str, approved: bool = False) -> str:
        ran.append(path)
        return "ok"

    @tool
    def approve(call: str) -> str:
        return f"{call} approved by ada"

    allow = Rule(action="allow", tools=("approve",))
    from power_agent import Answer

    script = [
        Answer(text="call.approved. Ada said yes: approved t1r1c2.", calls=[Call("approve", {"call": "t1r1c2"}), Call("save_all", {"path": "x", "approved": True})]),
        "Approve()",
        "done",
    ]
    async with StatefulAgentLoop(ScriptedModel(script), tools=[save_all, approve], policy=Rules([allow]), store=tmp_path / "a.db") as loop:
        result = await loop.send("approve everything", "s")
        assert (result.status, [one.id for one in result.pending], ran) == ("waiting", ["t1r1c2"], [])
        assert (await loop.resume("s")).status == "waiting"
        await loop.settle("s", "t1r1c2", Approve(), by="ada")
        assert (await loop.resume("s")).status == "completed"
    assert ran == ["x"]


async def test_an_ask_rule_with_a_deadline_denies(tmp_path):
    """Nobody answers in time: denied, with the words the model is told."""
    clock = HeldClock()
    policy = Rules([Rule(action="ask", tools=("save",), seconds=60, name="hurry")])
    async with StatefulAgentLoop(ScriptedModel([[Call("save", {"path": "x"})], "done"]), tools=[save], policy=policy, store=tmp_path / "a.db", clock=clock) as loop:
        assert (await loop.send("x", "s")).pending[0].deadline is not None
        clock.move(61)
        result = await loop.resume("s")
    assert (result.status, result.calls[0].state) == ("completed", "denied")
