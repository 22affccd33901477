"""Without a policy: your own functions run, what only reads beneath the root runs, and what changes the world is asked about."""

import pytest

from power_agent import Approve, Call, Deny, ScriptedModel, StatefulAgentLoop, files, shell, tool
from power_agent.policy import Allow, Ask, Wanted, allow_all, own_rules
from power_agent.policy.commands import Nature
from power_agent.policy.loading import load_policy
from power_agent.tools import Toolbox

READS = [
    Call("read", {"path": "a.txt"}),
    Call("list", {}),
    Call("glob", {"pattern": "**"}),
    Call("grep", {"pattern": "x", "path": "."}),
    Call("bash", {"command": "cat a.txt | wc -l && git status"}),
    Call("mine", {}),
]
CHANGES = [
    Call("write", {"path": "new.txt", "content": "x"}),
    Call("edit", {"path": "a.txt", "old": "a", "new": "b", "version": "0" * 16}),
    Call("apply_patch", {"patch": "--- /dev/null\n+++ b/new.txt\n@@ -0,0 +1 @@\n+x\n"}),
    Call("bash", {"command": "touch made"}),
    Call("bash", {"command": "cat a.txt; touch made"}),
    Call("bash", {"command": "cat /etc/passwd"}),
    Call("bash", {"command": "python3 run.py"}),
]


@pytest.fixture
def root(tmp_path):
    place = tmp_path / "root"
    place.mkdir()
    (place / "a.txt").write_text("a\n")
    return place


def mine() -> str:
    """A function of the user's own."""
    return "mine"


async def played(root, call, **options):
    loop = StatefulAgentLoop(ScriptedModel([[call], "done"]), tools=[*files(root), *shell(root), mine], store=":memory:", **options)
    async with loop:
        result = await loop.send("go", "s")
        return result, [kept.event for kept in await loop.history("s")]


@pytest.mark.parametrize("call", READS, ids=str)
async def test_reads_and_the_users_own_functions_run(root, call):
    """Nobody is asked about them."""
    result, events = await played(root, call)
    assert result.status == "completed"
    assert not [one for one in events if one.kind == "call.approval_asked"]


@pytest.mark.parametrize("call", CHANGES, ids=str)
async def test_what_changes_the_world_is_asked_about(root, call):
    """It waits in the log and has not begun."""
    result, events = await played(root, call)
    assert (result.status, [one.state for one in result.pending]) == ("waiting", ["waiting"])
    assert "call.started" not in [one.kind for one in events]
    assert sorted(path.name for path in root.iterdir()) == ["a.txt"]


@pytest.mark.parametrize("call", CHANGES[:1], ids=str)
async def test_a_policy_of_ones_own_takes_their_place(root, call):
    """What it allows runs."""
    assert (await played(root, call, policy=allow_all))[0].status == "completed"
    assert (root / "new.txt").exists()


async def test_rules_of_a_file_keep_the_shells_own_judge(root):
    """What a rule allows by its words runs, and what only reads runs as without a policy; the rest is asked about."""
    text = '[[policy.rules]]\naction = "allow"\ntools = ["bash"]\ncommand = ["mkdir", "**"]\n'
    for line, status in (("mkdir out", "completed"), ("ls && git status", "completed"), (f"cat {root}/a.txt", "completed"), ("touch made", "waiting")):
        policy = load_policy(text, tools=[*files(root), *shell(root)])
        result, _ = await played(root, Call("bash", {"command": line}), policy=policy)
        assert (line, result.status) == (line, status)
    assert (root / "out").is_dir()


async def test_nobody_is_asked_where_nobody_is(root):
    """The same rules can deny what they would ask; functions without a nature run all the same."""
    policy = own_rules([*shell(root), mine], mode="never-ask")
    denied = policy(Wanted(session="s", call="c", tool="bash", arguments={"command": "touch x"}))
    assert denied.rule.startswith("never-ask")
    assert isinstance(policy(Wanted(session="s", call="c", tool="mine", arguments={})), Allow)


async def test_a_nature_that_is_known_later_counts(root):
    """What a tool says of itself is asked when it is called: a toolbox may know only once it is connected."""
    late = tool(name="late")(mine)
    policy, wanted = own_rules(Toolbox([*shell(root), late])), Wanted(session="s", call="c", tool="late", arguments={})
    assert isinstance(policy(wanted), Allow)
    late.nature = Nature(does="changes")
    assert isinstance(policy(wanted), Ask)


async def test_each_toolbox_is_judged_by_its_own_root(root, tmp_path):
    """An absolute path beneath the root reads beneath it; another root's path does not."""
    policy = own_rules(shell(root))
    ask = [type(policy(Wanted(session="s", call="c", tool="bash", arguments={"command": f"cat {path}"}))).__name__ for path in (root / "a.txt", tmp_path)]
    assert ask == ["Allow", "Ask"]


async def test_an_approval_is_for_the_folder_and_the_script_it_was_given_for(root):
    """Changed before the start, the script is asked about anew; unchanged, it runs in the folder that was shown."""
    (root / "sub").mkdir()
    (root / "sub" / "run.sh").write_text("echo one\n")
    script = [[Call("bash", {"command": "cd sub"})], [Call("bash", {"command": "bash run.sh"})], "done"]
    async with StatefulAgentLoop(ScriptedModel(script), tools=shell(root), store=":memory:") as loop:
        (call,) = (await loop.send("go", "s")).pending
        await loop.settle("s", call.id, Approve())
        (root / "sub" / "run.sh").write_text("echo two\n")
        again = await loop.resume("s")
        assert [one.state for one in again.pending] == ["waiting"]
        assert "call.started" not in [kept.kind for kept in (await loop.history("s"))[-3:]]
        await loop.settle("s", again.pending[0].id, Approve())
        assert (await loop.resume("s")).status == "completed"
        outputs = [kept.event.output for kept in await loop.history("s") if kept.kind == "call.succeeded"]
        assert outputs == ["[exit 0]\n[in sub]", "two\n[exit 0]\n[in sub]"]


async def test_a_denied_command_does_not_run(root):
    """And the model is told."""
    async with StatefulAgentLoop(ScriptedModel([[Call("bash", {"command": "touch made"})], "done"]), tools=shell(root), store=":memory:") as loop:
        (call,) = (await loop.send("go", "s")).pending
        await loop.settle("s", call.id, Deny("not today"))
        assert (await loop.resume("s")).status == "completed"
        assert not (root / "made").exists()


@pytest.mark.parametrize("path", ["/srv/x.txt", "srv/x.txt"])
def test_the_root_of_all(path):
    """Beneath `/` is everything."""
    policy = own_rules(files(root="/"))
    assert isinstance(policy(Wanted(session="s", call="c", tool="read", arguments={"path": path})), Allow)
