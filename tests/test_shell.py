"""bash end to end: a loop, a scripted model, and real processes."""

import asyncio
import os
import re
import signal
import sys

import pytest
from processes import LEAVERS, alive, gone, noted

from power_agent import Call, Limits, ScriptedModel, StatefulAgentLoop, shell
from power_agent.errors import BadArguments, InvalidInput
from power_agent.limits import MAX_COMMAND_OUTPUT_BYTES
from power_agent.policy import allow_all
from power_agent.tools.shell.gathering import Gathered, Live, text_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a reaper needs Linux: elsewhere only a process group can be ended")


@pytest.fixture
def root(tmp_path):
    place = tmp_path / "root"
    (place / "src").mkdir(parents=True)
    return place


def bash(command, **more):
    return Call("bash", {"command": command, **more})


async def told(root, *rounds, progress=None, store=":memory:", **options):
    """Run each round of commands as one message; return what the calls said, in their order."""
    script = [[one if isinstance(one, Call) else bash(one) for one in ([each] if isinstance(each, str | Call) else each)] for each in rounds]
    async with StatefulAgentLoop(ScriptedModel([*script, "done"]), tools=shell(root, **options), store=store, policy=allow_all) as loop:
        if progress is not None:
            loop.look_on(progress.append)
        assert (await loop.send("go", "s")).status == "completed"
        return await said(loop)


async def said(loop, session="s"):
    """What the shell's calls came to, by call."""
    ended = [kept.event for kept in await loop.history(session) if kept.kind in {"call.succeeded", "call.failed"}]
    by_call = {one.call: one.failure.message if one.kind == "call.failed" else one.output if one.cut is None else one.cut.tail for one in ended}
    return [by_call[name] for name in sorted(by_call, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])]


def each_time(*calls):
    """A model that makes these calls once in each turn."""
    return ScriptedModel(lambda request: "done" if request.messages[-1].role == "tool" else list(calls))


# -- a command -----------------------------------------------------------------------------------------------------------


async def test_output_status_and_folder_are_told(root):
    """Both streams in their order, how it ended, and where the next one begins."""
    assert await told(root, "echo out; echo err >&2; echo more", "exit 3", "printf unfinished", "kill -9 $$") == [
        "out\nerr\nmore\n[exit 0]\n[in .]",
        "[exit 3]\n[in .]",
        "unfinished\n[exit 0]\n[in .]",
        "[killed by SIGKILL]\n[in .]",
    ]


async def test_the_command_runs_as_it_was_written(root):
    """Nothing around it shows: no arguments, no variable, line 1 is line 1."""
    lines = [
        'echo "$#:$*"',
        "echo $LINENO",
        "cat <<X\n$((1 + 1)) 'q' \"q\"\nX",
        "# only a comment",
        "false; echo $?",
        "set -e; false; echo never",
    ]
    assert [one.rpartition("\n[in")[0] for one in await told(root, *lines)] == [
        "0:\n[exit 0]",
        "1\n[exit 0]",
        "2 'q' \"q\"\n[exit 0]",
        "[exit 0]",
        "1\n[exit 0]",
        "[exit 1]",
    ]


async def test_there_is_no_input(root):
    """What waits for a person finds the end of the input at once."""
    assert await told(root, "cat; read x; echo $?") == ["1\n[exit 0]\n[in .]"]


async def test_the_environment_is_clean(root, monkeypatch):
    """No keys, no start-up files, no path of the project; what git could be made to run is off."""
    (root / "bin").mkdir()
    start = root / "start.sh"
    start.write_text("echo started")
    for name, value in {"OPENAI_API_KEY": "sk-1", "BASH_ENV": str(start), "RIPGREP_CONFIG_PATH": "x", "LD_PRELOAD": "", "PYTHONPATH": "x", "POWER_AGENT_FAILPOINT": "x"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{root}/bin:{root}/bin/../bin:.:relative::{os.environ['PATH']}")
    (seen,) = await told(root, "env", env={"MINE": "yes"})
    variables = dict(line.partition("=")[::2] for line in seen.splitlines() if "=" in line)
    assert variables.keys() <= {"HOME", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "LOGNAME", "TMPDIR", "TZ", "USER", "TERM", "PAGER", "PATH", "PWD", "SHLVL", "_", "MINE"} | {
        "OLDPWD",
        "POWER_AGENT_CALL",
        *(name for name in variables if name.startswith("GIT_")),
    }
    assert variables["MINE"] == "yes"
    assert variables["TERM"] == "dumb"
    assert variables["GIT_OPTIONAL_LOCKS"] == "0"
    assert not [one for one in variables["PATH"].split(":") if not one.startswith("/") or str(root) in one]
    (seen,) = await told(root, "git config core.fsmonitor; git config safe.bareRepository")
    assert seen == "false\nexplicit\n[exit 0]\n[in .]"
    with pytest.raises(InvalidInput, match="BASH_ENV"):
        shell(root, env={"BASH_ENV": "x"})


async def test_what_cannot_be_a_command_is_refused(root):
    """Before anything starts."""
    (tool,) = [one for one in shell(root) if one.spec.name == "bash"]
    for arguments in ({"command": ""}, {"command": "ls", "timeout": 0}, {"command": "ls", "timeout": 10**9}, {}):
        with pytest.raises(BadArguments):
            tool.check(arguments)
    assert await told(root, "echo a\0b") == ["A command line cannot hold a NUL character."]
    with pytest.raises(InvalidInput, match="cannot be the root"):
        shell(root / "missing")


# -- where it stands -----------------------------------------------------------------------------------------------------


async def test_the_folder_persists_and_is_read_from_the_log(root, tmp_path):
    """Another process with nothing but the log goes on where the session stands; two sessions stand apart."""
    store = tmp_path / "agent.db"
    assert (await told(root, "mkdir -p src/a && cd src/a", "pwd", store=store))[1].startswith(str(root / "src" / "a"))
    async with StatefulAgentLoop(each_time(bash("pwd; cd ..")), tools=shell(root), store=store, policy=allow_all) as loop:
        await loop.send("go on", "s")
        assert (await said(loop))[-1] == f"{root}/src/a\n[exit 0]\n[in src]"
        fork = await loop.fork("s")
        await loop.send("where", fork)
        assert (await said(loop, fork))[-1] == f"{root}/src\n[exit 0]\n[in .]"
    async with StatefulAgentLoop(ScriptedModel([[bash("pwd")], "done"]), tools=shell(root), store=store, policy=allow_all) as loop:
        await loop.send("hello", "other")
        assert await said(loop, "other") == [f"{root}\n[exit 0]\n[in .]"]


@pytest.mark.parametrize("name", ["a b", "a · b]", "new\nline", 'quo"te', "[in x]", "ünï", " lead"])
async def test_folders_of_any_name_are_kept(root, name):
    """What the last line says is read back as it was meant."""
    (root / name).mkdir()
    outs = await told(root, f"cd $'{name.replace(chr(10), chr(92) + 'n')}'", "pwd")
    assert outs[1].startswith(f"{root / name}\n")


async def test_folders_that_lead_out_or_are_gone_are_not_kept(root):
    """Outside the root nothing begins, also not through a link; a folder that is gone means the root."""
    (root / "out").symlink_to("/usr")
    outs = await told(root, "cd src", "cd /", "pwd", "cd ../out", "pwd", "rmdir ../src", "pwd")
    assert outs[1] == "[exit 0 · It ended outside the root; the next command begins where this one began.]\n[in src]"
    assert outs[3].endswith("[in src]")
    assert [outs[at].partition("\n")[0] for at in (2, 4, 6)] == [f"{root}/src", f"{root}/src", str(root)]


async def test_commands_side_by_side_begin_in_the_same_folder(root):
    """Two calls of one message run at the same time, in the folder where the message found the session; the last one's counts then."""
    meet = "touch {0}; while [ ! -e {1} ]; do sleep 0.01; done; pwd; cd {2}"
    outs = await told(root, [bash(meet.format("a", "b", "src")), bash(meet.format("b", "a", "."))], "pwd")
    assert [one.partition("\n")[0] for one in outs] == [str(root)] * 3
    assert outs[0].endswith("[in src]")


# -- output --------------------------------------------------------------------------------------------------------------


async def test_a_hundred_megabytes_without_a_line_take_no_memory(root):
    """Head and tail stay, the number of bytes between them is told, and memory does not grow with it."""
    script = "head -c 100000000 /dev/zero | tr '\\0' x; echo end"
    (tail,) = await told(root, script)
    assert tail.endswith("xend\n[exit 0]\n[in .]")
    gathered = Gathered(MAX_COMMAND_OUTPUT_BYTES)
    for _ in range(1_600):
        gathered.take(b"y" * 65_536)
    assert sum(map(len, gathered._tail)) <= MAX_COMMAND_OUTPUT_BYTES // 2 + 65_536
    assert f"[… {1_600 * 65_536 - MAX_COMMAND_OUTPUT_BYTES} bytes are left out here …]" in gathered.text


@pytest.mark.parametrize("sizes", [[1], [10], [11], [5, 5, 1], [3] * 7, [100], [4, 100, 4]])
def test_head_and_tail_are_exact(sizes):
    """Whatever pieces it comes in, the same bytes are kept, and those left out are counted."""
    whole = b"".join(bytes([65 + at]) * size for at, size in enumerate(sizes))
    gathered = Gathered(10)
    for at, size in enumerate(sizes):
        gathered.take(bytes([65 + at]) * size)
    text = whole.decode()
    assert gathered.text == (text if len(text) <= 10 else f"{text[:5]}\n[… {len(text) - 10} bytes are left out here …]\n{text[-5:]}")


def test_no_character_moves_the_cursor():
    """Bytes that are no text, and characters that move or turn what stands around them, are written as escapes."""
    assert text_of(b"a\xff\x1b[2J\r\nb\rc\t\x00\x7f" + "\u202e\x9b é 漢".encode()) == "a\\xff\\x1b[2J\nb\\x0dc\t\\x00\\x7f\\u202e\\x9b é 漢"


async def test_bytes_that_are_no_text_are_told(root):
    """And kept."""
    assert await told(root, r"printf '\377\000\033[31m'") == ["\\xff\\x00\\x1b[31m\n[exit 0]\n[in .]"]


async def test_output_is_seen_live(root):
    """What a command says is a glimpse before its call has an outcome."""
    seen: list = []
    await told(root, "echo first; while [ ! -e go ]; do sleep 0.01; done; echo second", progress=_Answering(seen, root / "go"))
    assert "".join(seen) == "first\nsecond\n"


class _Answering(list):
    """Lets a command go on once its first words were seen."""

    def __init__(self, seen, go):
        self.seen, self.go = seen, go

    def append(self, glimpsed):
        if glimpsed.kind == "progress":
            self.seen.append(glimpsed.text)
            self.go.touch()


def test_glimpses_are_bounded():
    """However fast it comes, who looks on gets the newest, ten times a second."""
    shown, now = [], 0.0
    live = Live(shown.append, lambda: now)
    for at in range(1_000):
        now = at * 0.001
        live.take(b"%04d" % at * 16_384)
    live.flush()
    assert len(shown) <= 12
    assert max(map(len, shown)) <= 4_096
    assert shown[-1].endswith("0999")


# -- nothing survives ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", LEAVERS)
async def test_nothing_survives_the_end_of_a_command(root, way):
    """When it has answered, what it left behind is dead; also when that holds the pipe open, and the model is told."""
    (seen,) = await told(root, LEAVERS[way])
    assert "1 of its processes still ran and were ended" in seen or way == "deaf"
    assert alive(*noted(root, ["one"])) == []


@pytest.mark.parametrize("way", LEAVERS)
async def test_nothing_survives_a_time_out(root, way):
    """The tool answers for itself: what was said until then, and that its time is over."""
    (seen,) = await told(root, bash(f"echo before; {LEAVERS[way]}; sleep 1000", timeout=2))
    assert seen == "before\n[Timed out after 2 s; it and everything it had started were ended.]\n[in .]"
    assert alive(*noted(root, ["one"])) == []


async def test_who_asks_nicely_may_clean_up(root):
    """Before it is killed a command hears SIGTERM."""
    (seen,) = await told(root, bash("trap 'echo cleaning; exit 0' TERM; while :; do :; done", timeout=0.5))
    assert seen.startswith("cleaning\n[Timed out")


@pytest.mark.parametrize(("attack", "means"), {"kill -9 $PPID; sleep 1000": "It killed the process", "kill 0; sleep 1000": "killed by SIGTERM"}.items())
async def test_a_command_that_attacks_its_reaper_dies_with_it(root, attack, means):
    """It is out of the reaper's group; and when it kills the reaper, what carries the mark is found."""
    (seen,) = await told(root, f"setsid sh -c 'echo $$ > one; exec sleep 1000' & while [ ! -s one ]; do sleep 0.01; done; {attack}")
    assert means in seen
    assert gone(*noted(root, ["one"]))


async def test_a_reaper_that_was_stopped_is_not_waited_for(root):
    """It is killed itself some seconds after its command's time is over."""
    (seen,) = await told(root, bash("sh -c 'echo $$ > one; exec sleep 1000' & while [ ! -s one ]; do sleep 0.01; done; kill -STOP $PPID; sleep 1000", timeout=0.5))
    assert "It killed the process that watches over it. Everything it had started was ended." in seen
    assert alive(*noted(root, ["one"])) == []


async def test_a_cancelled_turn_stops_the_command_and_keeps_what_it_said(root):
    """Cancel gives a moment to clean up; the call has an outcome, and nothing runs."""
    async with StatefulAgentLoop(ScriptedModel([[bash(f"echo before; {LEAVERS['setsid']}; sleep 1000")], "done"]), tools=shell(root), store=":memory:", policy=allow_all) as loop:
        turn = asyncio.create_task(loop.send("go", "s"))
        pids = await asyncio.to_thread(noted, root, ["one"])
        assert alive(*pids) == pids
        assert await loop.cancel("s")
        assert (await turn).status == "cancelled"
        assert await said(loop) == ["before\n[Stopped, because the turn was cancelled; everything it had started was ended.]\n[in .]"]
        assert alive(*pids) == []


async def test_an_interrupt_ends_the_command_and_leaves_the_turn_open(root):
    """Ctrl-C: everything is dead, what was said is kept, and the turn goes on with it later."""
    async with StatefulAgentLoop(ScriptedModel([[bash(f"echo before; {LEAVERS['deaf']}; sleep 1000")], "done"]), tools=shell(root), store=":memory:", policy=allow_all) as loop:
        turn = asyncio.create_task(loop.send("go", "s"))
        pids = await asyncio.to_thread(noted, root, ["one"])
        turn.cancel()
        with pytest.raises(asyncio.CancelledError):
            await turn
        assert alive(*pids) == []
        assert await said(loop) == ["before\n[Interrupted; it and everything it had started were ended. What it did until then stays done.]\n[in .]"]
        assert (await loop.resume("s")).status == "completed"


async def test_a_lost_lease_ends_the_command(root, tmp_path):
    """Who finds that another one owns the session now stops what runs, and writes nothing more."""
    async with StatefulAgentLoop(ScriptedModel([[bash(f"{LEAVERS['setsid']}; sleep 1000")], "done"]), tools=shell(root), store=tmp_path / "agent.db", policy=allow_all) as loop:
        turn = asyncio.create_task(loop.send("go", "s"))
        pids = await asyncio.to_thread(noted, root, ["one"])
        row = await loop.store.find("s")
        await loop.store.release("s", row.epoch)
        async with StatefulAgentLoop(ScriptedModel(["done"]), tools=shell(root), store=tmp_path / "agent.db", policy=allow_all) as other:
            result = await other.resume("s")
            assert result.status == "waiting"
            assert [call.state for call in result.pending] == ["doubted"]
            assert gone(*pids)
            doubted = [kept.event.reason for kept in await other.history("s") if kept.kind == "call.doubted"]
            assert len(doubted) == 1
            assert doubted[0].startswith("It was found started, and its outcome was not recorded. ")  # and perhaps its task is still at its end
            assert doubted[0].endswith("Nothing that it started is running here any more, as far as this user can see.")
        await asyncio.wait([turn])
        assert turn.exception() is not None


async def test_siblings_are_ended_apart(root):
    """The end of one command is not the end of the one beside it."""
    first = "sleep 1000 & exit 0"
    second = "while [ ! -e go ]; do sleep 0.01; done; echo alive"
    outs = await told(root, [bash(first), bash(second), bash("sleep 0.2; touch go")])
    assert outs[1] == "alive\n[exit 0]\n[in .]"


@pytest.mark.parametrize("places", [1, 8])
async def test_commands_of_one_message_begin_where_it_found_the_session(root, places):
    """However many run at a time, so that what a person approves does not depend on it; the last one says where the next begins."""
    script = [[bash("cd src"), bash("pwd")], [bash("pwd; cd src"), bash("cd src")], [bash("pwd")], "done"]
    async with StatefulAgentLoop(ScriptedModel(script), tools=shell(root), store=":memory:", policy=allow_all, limits=Limits(max_parallel_calls=places)) as loop:
        await loop.send("go", "s")
        outs = await said(loop)
    assert [outs[at].partition("\n")[0] for at in (1, 2, 4)] == [str(root), str(root), str(root / "src")]


async def test_calls_beyond_the_places_wait(root):
    """Eight commands with two places: all have their own answer."""
    calls = [bash(f"echo {at}") for at in range(8)]
    model = ScriptedModel([calls, "done"])
    async with StatefulAgentLoop(model, tools=shell(root), store=":memory:", policy=allow_all, limits=Limits(max_parallel_calls=2)) as loop:
        await loop.send("go", "s")
        assert await said(loop) == [f"{at}\n[exit 0]\n[in .]" for at in range(8)]


async def test_signals_are_as_a_person_has_them(root):
    """A command inherits no signal that is ignored, and is no member of our process group."""
    (seen,) = await told(root, "grep SigIgn /proc/self/status; ps -o pgid= -p $$ | xargs")
    ignored, group = seen.splitlines()[:2]
    assert int(ignored.split()[1], 16) & (1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGINT - 1) | 1 << (signal.SIGHUP - 1)) == 0
    assert int(group) != os.getpgid(0)
