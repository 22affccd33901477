"""The file tools as a model uses them: what they answer, what they refuse, what is on the disk afterwards."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from needs import needs

from power_agent import Call, ScriptedModel, StatefulAgentLoop, files, tool
from power_agent.errors import InvalidInput
from power_agent.limits import MAX_FOUND, MAX_SHOWN_BYTES, Limits
from power_agent.policy import allow_all
from power_agent.tools.files import CHANGING, READING
from power_agent.tools.files.content import version_of
from power_agent.tools.files.names import meant
from power_agent.tools.files.narrowing import must_hold, narrowed

BOUNDLESS = Limits(max_rounds_per_turn=None, max_rounds_without_progress=None)


@pytest.fixture
def root(tmp_path) -> Path:
    place = tmp_path / "root"
    place.mkdir()
    return place


def made(root: Path, tree: dict[str, str | bytes]) -> None:
    for name, content in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.fixture
def call(root):
    """Return a function that lets a model make calls, one per round, and returns what it was told: (failed, text)."""

    async def calls(*wanted: Call, **options):
        model = ScriptedModel([*([one] for one in wanted), "done"])
        async with StatefulAgentLoop(model, tools=files(root, **options), store=root.parent / "agent.db", limits=BOUNDLESS, policy=allow_all) as loop:
            result = await loop.send("go")
            assert result.status == "completed", result
            messages = await loop.messages(result.session_id)
        return [(part.failed, part.content[0].text) for message in messages if message.role == "tool" for part in message.parts]

    return calls


def v(content: str | bytes) -> str:
    return version_of(content.encode() if isinstance(content, str) else content)


async def test_they_stand_beside_other_tools(root):
    """`[*files("."), my_tool]`: what looks may be repeated, what writes can be probed, and each has a schema without its context."""

    @tool
    def mine() -> str:
        """Mine."""
        return "mine"

    made(root, {"a.txt": "x\n"})
    model = ScriptedModel([[Call("read", {"path": "a.txt"}), Call("mine")], "done"])
    async with StatefulAgentLoop(model, tools=[*files(root), mine], store=root.parent / "agent.db", policy=allow_all) as loop:
        assert (await loop.send("go")).status == "completed"
    made_tools = {one.spec.name: one for one in files(root)}
    assert {name: one.recovery for name, one in made_tools.items()} == dict.fromkeys(READING, "rerun") | dict.fromkeys(CHANGING, "probe")
    for one in made_tools.values():
        assert one.spec.description
        assert "context" not in one.spec.parameters["properties"] or one.spec.name == "grep"
        assert all("description" in shape for shape in one.spec.parameters["properties"].values()), one.spec


# -- reading -------------------------------------------------------------------------------------------------------------


OPEN, WINDOWS, MIXED, BOM = "a\nb", "a\r\nb\r\n", "a\r\nb\n", b"\xef\xbb\xbfx\n"


async def test_read(root, call):
    """Lines are numbered; the first line says which they are and the version of the whole file."""
    text = "".join(f"line {number}\n" for number in range(1, 6))
    made(root, {"a.txt": text, "empty": "", "open": OPEN, "windows": WINDOWS, "mixed": MIXED, "bom": BOM})
    told = await call(
        Call("read", {"path": "a.txt"}),
        Call("read", {"path": "a.txt", "start": 2, "lines": 2}),
        Call("read", {"path": "a.txt", "start": 9}),
        *(Call("read", {"path": name}) for name in ("empty", "open", "windows", "mixed", "bom")),
    )
    assert [text for _, text in told] == [
        f"a.txt · lines 1-5 of 5 · version {v(text)}\n1\tline 1\n2\tline 2\n3\tline 3\n4\tline 4\n5\tline 5",
        f"a.txt · lines 2-3 of 5 · version {v(text)}\n2\tline 2\n3\tline 3\n[… go on with start=4]",
        f"a.txt · no line 9 of 5 · version {v(text)}",
        f"empty · empty · version {v('')}",
        f"open · lines 1-2 of 2 · version {v(OPEN)} · no newline at the end\n1\ta\n2\tb",
        f"windows · lines 1-2 of 2 · version {v(WINDOWS)} · CRLF\n1\ta\n2\tb",
        f"mixed · lines 1-2 of 2 · version {v(MIXED)} · CRLF and LF mixed\n1\ta\\x0d\n2\tb",
        f"bom · lines 1-1 of 1 · version {v(BOM)} · byte order mark\n1\tx",
    ]


async def test_a_long_file_is_read_in_parts(root, call):
    """An answer holds so much and no more, and says where to go on; together the parts are the file."""
    made(root, {"long.txt": "".join(f"{number} {'y' * 100}\n" for number in range(1, 2_001))})
    seen, start = [], 1
    while True:
        ((failed, text),) = await call(Call("read", {"path": "long.txt", "start": start}))
        assert not failed
        assert len(text.encode()) < MAX_SHOWN_BYTES + 200
        first, *lines = text.splitlines()
        more = lines.pop() if lines[-1].startswith("[…") else ""
        seen += [line.split("\t", 1)[1] for line in lines]
        if not more:
            break
        start = int(more.split("=")[1].rstrip("]"))
        assert first.startswith("long.txt · lines ")
    assert "\n".join(seen) + "\n" == (root / "long.txt").read_text()


# -- writing -------------------------------------------------------------------------------------------------------------


async def test_write(root, call):
    """A new file is made with its directories; one that is there is replaced only by who knows it, and keeps its mode."""
    made(root, {"script.sh": "old\n"})
    (root / "script.sh").chmod(0o750)
    told = await call(
        Call("write", {"path": "a/b/c.txt", "content": "hello\n"}),
        Call("write", {"path": "a/b/c.txt", "content": "again\n"}),
        Call("write", {"path": "a/b/c.txt", "content": "again\n", "version": "0" * 16}),
        Call("write", {"path": "a/b/c.txt", "content": "again\n", "version": v("hello\n")}),
        Call("write", {"path": "missing.txt", "content": "x", "version": v("x")}),
        Call("write", {"path": "script.sh", "content": "new\n", "version": v("old\n")}),
        Call("write", {"path": "bytes", "content": "caf\udce9"}),
        Call("write", {"path": "half", "content": "\ud83d"}),
    )
    assert [failed for failed, _ in told] == [False, True, True, False, True, False, False, True]
    assert told[0][1] == f"a/b/c.txt · 6 bytes · version {v('hello' + chr(10))}"
    assert "is there already. Nothing was written." in told[1][1]
    assert "is not at version" in told[2][1]
    assert "is not there any more" in told[4][1]
    assert (root / "a/b/c.txt").read_text() == "again\n"
    assert (root / "script.sh").stat().st_mode & 0o777 == 0o750
    assert (root / "bytes").read_bytes() == b"caf\xe9"
    assert sorted(path.name for path in root.iterdir()) == ["a", "bytes", "script.sh"]


async def test_a_new_file_has_the_mode_a_new_file_has(root, call):
    """The system's habit (umask) decides, as for any other program; a program that runs as its owner does not do so once rewritten."""
    made(root, {"suid": "x"})
    (root / "suid").chmod(0o4755)
    before = os.umask(0o027)
    try:
        await call(Call("write", {"path": "new.txt", "content": "x"}), Call("write", {"path": "suid", "content": "y", "version": v("x")}))
    finally:
        os.umask(before)
    assert (root / "new.txt").stat().st_mode & 0o7777 == 0o640
    assert (root / "suid").stat().st_mode & 0o7777 == 0o755


# -- editing -------------------------------------------------------------------------------------------------------------


async def test_edit(root, call):
    """One place is replaced, and the answer holds the version for the next edit."""
    made(root, {"a.txt": "one two three\n"})
    after = "one 2 three\n"
    told = await call(
        Call("edit", {"path": "a.txt", "old": "two", "new": "2", "version": v("one two three\n")}),
        Call("edit", {"path": "a.txt", "old": "three", "new": "3", "version": v(after)}),
    )
    assert told[0] == (False, f"a.txt · 12 bytes · version {v(after)}")
    assert (root / "a.txt").read_text() == "one 2 3\n"


REFUSED = {
    "ambiguous": ({"old": "a", "new": "b"}, "stands more than once"),
    "ambiguous by overlapping": ({"old": "xx", "new": "y"}, "stands more than once"),
    "absent": ({"old": "zebra", "new": "b"}, "does not stand in a.txt"),
    "empty": ({"old": "", "new": "b"}, "old is empty"),
    "nothing changes": ({"old": "once", "new": "once"}, "leaves a.txt as it is"),
    "changed since it was read": ({"old": "once", "new": "b", "version": "0" * 16}, "is not at version 0000000000000000"),
    "with a line number": ({"old": "1\ta a", "new": "b"}, "does not stand in a.txt"),
    "not there": ({"path": "b.txt", "old": "once", "new": "b"}, "There is no file b.txt"),
}


@pytest.mark.parametrize("why", REFUSED)
async def test_edits_that_are_refused(root, call, why):
    """What is not exact does not happen, and the model is told why."""
    arguments, words = REFUSED[why]
    before = "a a\nxxx\nonce\n"
    made(root, {"a.txt": before})
    ((failed, text),) = await call(Call("edit", {"path": "a.txt", "version": v(before), **arguments}))
    assert failed
    assert words in text
    assert (root / "a.txt").read_text() == before


async def test_edit_in_a_file_of_windows(root, call):
    """A model that sees lines writes lines: where all end the Windows way, old and new do, too."""
    before = b"one\r\ntwo\r\nthree\r\n"
    made(root, {"a.txt": before})
    await call(Call("edit", {"path": "a.txt", "old": "one\ntwo\n", "new": "1\n2\n", "version": v(before)}))
    assert (root / "a.txt").read_bytes() == b"1\r\n2\r\nthree\r\n"


async def test_multi_edit(root, call):
    """Each edit sees what the ones before it made; one that fails undoes all."""
    before = "alpha beta gamma gamma\n"
    made(root, {"a.txt": before})
    bad = [{"old": "alpha", "new": "A"}, {"old": "delta", "new": "D"}]
    good = [{"old": "alpha", "new": "beta2"}, {"old": "beta2 beta", "new": "B"}, {"old": "gamma", "new": "G", "everywhere": True}]
    told = await call(Call("multi_edit", {"path": "a.txt", "version": v(before), "edits": bad}), Call("multi_edit", {"path": "a.txt", "version": v(before), "edits": good}))
    assert "Edit 2 of 2: the old text does not stand in a.txt. Nothing was changed." in told[0][1]
    assert not told[1][0]
    assert (root / "a.txt").read_text() == "B G G\n"


# -- patches -------------------------------------------------------------------------------------------------------------


def git(root: Path, *words: str) -> str:
    """Let git do something, whatever its owner has configured."""
    program = needs("git", "apt-get install git")
    quiet = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    return subprocess.run([program, *words], cwd=root, check=True, capture_output=True, text=True, env=quiet).stdout


def git_diff(root: Path, after: dict[str, str | None]) -> str:
    """Return what git says of a change, and leave everything as it was before."""
    git(root, "init", "-q")
    git(root, "add", "-A")
    before = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file() and ".git" not in path.parts}
    made(root, {name: content for name, content in after.items() if content is not None})
    for name, content in after.items():
        if content is None:
            (root / name).unlink()
    git(root, "add", "-N", "--ignore-removal", ".")
    told = git(root, "diff", "--no-renames", "--no-color")
    shutil.rmtree(root / ".git")
    for name in after:
        (root / name).unlink(missing_ok=True)
    made(root, before)
    return told


async def test_a_patch_of_git(root, call):
    """What git prints is applied to the byte: changes in several places, new files, deleted files, missing newlines, odd names."""
    lines = [f"line {number}\n" for number in range(100)]
    made(root, {"a.txt": "".join(lines), "b": "no newline", "gone": "x\ny\n", "caf\u00e9 au lait.txt": "1\n", "dir/c": "same\n" * 20})
    after = {
        "a.txt": "".join(["first\n", *lines[:10], *lines[12:50], "new\n", *lines[50:99], "last"]),
        "b": "newline\n",
        "gone": None,
        "new/d.txt": "d\ne",
        "caf\u00e9 au lait.txt": "2\n",
        "dir/c": "same\n" * 10 + "other\n" + "same\n" * 10,
    }
    patch = git_diff(root, after)
    ((failed, text),) = await call(Call("apply_patch", {"patch": patch}))
    assert not failed, text
    assert {name: (root / name).read_text() if (root / name).exists() else None for name in after} == after
    assert len(text.splitlines()) == len(after)


async def test_a_patch_is_all_or_nothing(root, call):
    """When one hunk of one file does not fit, no file is touched."""
    made(root, {"a.txt": "a\n", "b.txt": "b\n"})
    patch = "--- a/a.txt\n+++ b/a.txt\n@@ -1 +1 @@\n-a\n+A\n--- /dev/null\n+++ b/c.txt\n@@ -0,0 +1 @@\n+c\n--- a/b.txt\n+++ b/b.txt\n@@ -1 +1 @@\n-x\n+B\n"
    ((failed, text),) = await call(Call("apply_patch", {"patch": patch}))
    assert failed
    assert "Hunk 1 of b.txt does not fit" in text
    assert {path.name: path.read_text() for path in root.iterdir()} == {"a.txt": "a\n", "b.txt": "b\n"}


async def test_what_fails_on_the_way_is_put_back(root, call):
    """The last file of a patch turns out to be in the way of a directory: what was written before is as it was."""
    made(root, {"a.txt": "a\n", "gone": "gone\n"})
    new = "--- /dev/null\n+++ b/{}\n@@ -0,0 +1 @@\n+x\n"
    patch = "--- a/a.txt\n+++ b/a.txt\n@@ -1 +1 @@\n-a\n+A\n--- a/gone\n+++ /dev/null\n@@ -1 +0,0 @@\n-gone\n" + new.format("c") + new.format("place/x") + new.format("place")
    ((failed, text),) = await call(Call("apply_patch", {"patch": patch}))
    assert failed
    assert "Nothing was changed." in text, text
    assert {path.name: path.read_text() for path in root.rglob("*") if path.is_file()} == {"a.txt": "a\n", "gone": "gone\n"}


PLACES = {
    "where it says": ("@@ -3 +3 @@\n-x\n+y\n", "x\na\ny\nx\n"),
    "elsewhere, in one place": ("@@ -1,2 +1,2 @@\n a\n-x\n+y\n", "x\na\ny\nx\n"),
    "elsewhere, in several": ("@@ -2 +2 @@\n-x\n+y\n", None),
    "nowhere": ("@@ -2 +2 @@\n-z\n+y\n", None),
    "between lines": ("@@ -2,0 +3 @@\n+y\n", "x\na\ny\nx\nx\n"),
    "behind the end": ("@@ -9,0 +9 @@\n+y\n", None),
    "out of order": ("@@ -3 +3 @@\n-x\n+y\n@@ -2 +2 @@\n-a\n+b\n", None),
    "old and new miscounted": ("@@ -3,2 +3 @@\n-x\n+y\n", None),
    "a mark that is none": ("@@ -3 +3 @@\n*x\n+y\n", None),
    "no hunk": ("", None),
}


@pytest.mark.parametrize("where", PLACES)
async def test_where_a_hunk_goes(root, call, where):
    """Where it says, else in the only place there is; never in one of several."""
    hunks, after = PLACES[where]
    made(root, {"a.txt": "x\na\nx\nx\n"})
    ((failed, text),) = await call(Call("apply_patch", {"patch": f"--- a/a.txt\n+++ b/a.txt\n{hunks}"}))
    assert (failed, (root / "a.txt").read_text()) == (after is None, after or "x\na\nx\nx\n"), text


@pytest.mark.parametrize(
    "patch",
    [
        *("", "hello", "--- a/x\n", "rename from a\nrename to b\n", "old mode 100644\n", "GIT binary patch\n"),
        *("--- /dev/null\n+++ /dev/null\n@@ -1 +1 @@\n-x\n+y\n", "--- a/x\n+++ b/y\n@@ -1 +1 @@\n-x\n+y\n", "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-x\n+y\n" * 2),
        *("--- a/../x\n+++ b/../x\n@@ -1 +1 @@\n-x\n+y\n", "--- a/.git/x\n+++ b/.git/x\n@@ -1 +1 @@\n-x\n+y\n"),
    ],
)
async def test_what_is_no_patch_is_refused_before_it_starts(root, call, patch):
    """A patch that cannot be meant, or that names what is protected, is not even started."""
    made(root, {"x": "x\n"})
    ((failed, text),) = await call(Call("apply_patch", {"patch": patch}))
    assert failed
    assert "may have taken effect" not in text
    assert (root / "x").read_text() == "x\n"


# -- looking around ------------------------------------------------------------------------------------------------------

TREE = {
    "README.md": "hello needle\n",
    "src/main.py": "def needle():\n    pass\n",
    "src/deep/er/util.py": "needle = 1\n",
    "src/.hidden.py": "needle\n",
    "build/out.py": "needle\n",
    "debug.log": "needle\n",
    "keep.log": "needle\n",
    "sub/.gitignore": "*.tmp\n!debug.log\n/only-here\n",
    "sub/x.tmp": "needle\n",
    "sub/debug.log": "needle\n",
    "sub/only-here": "needle\n",
    "sub/deep/only-here": "needle\n",
    ".gitignore": "build/\n*.log\n!keep.log\n# comment\n",
    ".git/config": "needle\n",
    ".env": "needle\n",
    "data.bin": b"\0needle\n",
}


async def test_list(root, call):
    """Directories end with a slash, links say where they point, what is ignored is counted; on demand it is shown."""
    made(root, TREE)
    (root / "link").symlink_to("src")
    told = await call(
        Call("list"), Call("list", {"path": "sub"}), Call("list", {"path": "sub", "ignored": True}), Call("list", {"path": "nope"}), Call("list", {"path": "src/deep/"})
    )
    assert told[0][1].splitlines() == [".env", ".git/", ".gitignore", "README.md", "data.bin", "keep.log", "link -> src", "src/", "sub/", "[2 ignored, not shown]"]
    assert told[1][1].splitlines() == [".gitignore", "debug.log", "deep/", "[2 ignored, not shown]"]
    assert told[2][1].splitlines() == [".gitignore", "debug.log", "deep/", "only-here", "x.tmp"]
    assert told[3] == (True, "FileNotFoundError: There is no directory nope.")
    assert told[4][1] == "er/"


async def test_glob(root, call):
    """Stars stop at slashes, two stars do not; braces mean either; a name without a slash is looked for everywhere."""
    made(root, TREE)
    patterns = ["*.py", "src/*.py", "src/**/*.py", "**/er/*", "{README,keep}.*", "src/[!m]*", "????.log", "nothing", "sub/**"]
    told = await call(*(Call("glob", {"pattern": one}) for one in patterns), Call("glob", {"pattern": "*.py", "path": "src/deep"}), Call("glob", {"pattern": "../*"}))
    found = [text.splitlines() for _, text in told]
    assert found[:9] == [
        ["src/.hidden.py", "src/deep/er/util.py", "src/main.py"],
        ["src/.hidden.py", "src/main.py"],
        ["src/.hidden.py", "src/deep/er/util.py", "src/main.py"],
        ["src/deep/er/util.py"],
        ["README.md", "keep.log"],
        ["src/.hidden.py"],
        ["keep.log"],
        ["No file is called so."],
        ["sub/.gitignore", "sub/debug.log", "sub/deep/only-here"],
    ]
    assert found[9] == ["src/deep/er/util.py"]
    assert told[10][0]


async def test_ignore_files_mean_what_git_means(root, call):
    """What is found is what git would add, secrets and all names included."""
    made(root, {name: content for name, content in TREE.items() if not name.startswith(".git/")})
    git(root, "init", "-q")
    listed = git(root, "ls-files", "-co", "--exclude-standard").split()
    ((_, text),) = await call(Call("glob", {"pattern": "**"}))
    assert text.splitlines() == sorted(listed, key=lambda name: name.split("/"))
    ((_, all_of_it),) = await call(Call("glob", {"pattern": "*.log"}), ignore=False)
    assert all_of_it.splitlines() == ["debug.log", "keep.log", "sub/debug.log"]


async def test_grep(root, call):
    """Lines are named by path and number; ignored files, secrets, binaries and version control are passed over."""
    made(root, TREE)
    told = await call(
        Call("grep", {"pattern": "needle"}),
        Call("grep", {"pattern": "^NEEDLE", "ignore_case": True, "path": "src"}),
        Call("grep", {"pattern": "needle", "files": "*.md"}),
        Call("grep", {"pattern": "pass", "context": 1}),
        Call("grep", {"pattern": "needle", "path": "debug.log"}),
        Call("grep", {"pattern": "needle", "path": ".env"}),
        Call("grep", {"pattern": "needle", "path": "nowhere"}),
        Call("grep", {"pattern": "unheard of"}),
    )
    assert told[0][1].splitlines() == [
        "README.md:1:hello needle",
        "keep.log:1:needle",
        "src/.hidden.py:1:needle",
        "src/deep/er/util.py:1:needle = 1",
        "src/main.py:1:def needle():",
        "sub/debug.log:1:needle",
        "sub/deep/only-here:1:needle",
    ]
    assert told[1][1].splitlines() == ["src/.hidden.py:1:needle", "src/deep/er/util.py:1:needle = 1"]
    assert told[2][1] == "README.md:1:hello needle"
    assert told[3][1].splitlines() == ["src/main.py-1-def needle():", "src/main.py:2:    pass"]
    assert told[4][1] == "debug.log:1:needle", "who names a file means it"
    assert "is protected" in told[5][1]
    assert told[6][0]
    assert told[7] == (False, "Nothing matches.")


async def test_answers_are_bounded(root, call):
    """However much is found, an answer holds so much and says that there is more."""
    made(root, {f"d/{number:05}.txt": "needle\n" * 3 for number in range(1_200)})
    told = await call(Call("list", {"path": "d"}), Call("glob", {"pattern": "*.txt"}), Call("grep", {"pattern": "needle"}))
    for failed, text in told:
        assert not failed
        assert len(text.splitlines()) == MAX_FOUND + 1
        assert len(text.encode()) < MAX_SHOWN_BYTES + 200
        assert "left out: ask more narrowly]" in text


def test_without_pathspec(root):
    """Without the extra, tools that respect ignore files are not made, and it is said what to install; without ignore files they are."""
    script = """
import sys
sys.modules["pathspec"] = None
import importlib.util
importlib.util.find_spec = lambda name: None
from power_agent import files
from power_agent.errors import InvalidInput

try:
    files(sys.argv[1])
except InvalidInput as error:
    print(error.hint)
print(len(files(sys.argv[1], ignore=False)))
"""
    told = subprocess.run([sys.executable, "-c", script, str(root)], check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])})
    assert told.stdout == "pip install 'power-agent[files]', or files(root, ignore=False).\n8\n"
    with pytest.raises(InvalidInput):
        files(root / "missing")


# -- with ripgrep and without --------------------------------------------------------------------------------------------

PATTERNS = [
    *(
        "needle",
        "need.e",
        "^needle$",
        r"\bneedle\b",
        "(needle|haystack)",
        "needle.*needle",
        "nee(d)le",
        "(?i)needle",
        "(?i:NEE)dle",
        "na\u00efve",
        "[n]eedle",
        "needle?",
        "needl{1}e",
    ),
    *(
        "(?=needle)n",
        "(?!x)needle",
        r"n\S+e",
        "",
        "x*",
        "a.b",
        r"\$needle",
        "needle\\$",
        "caf\u00e9",
        "\U0001f600",
        r"\x6eeedle",
        "(?x) n e e d l e",
        "line\\.end",
        "\\\\xe9",
        "-needle",
    ),
    *("needle\\t", "[^a]needle", "(?:nee)+dle", "needle|", "(needle)?", "Kelvin", "stra\u00dfe", "\u017fharp", "..\\.\\.", "\\Aneedle", "needle\\Z", "\u2028", "--", "e$", "^$"),
]


@pytest.fixture(scope="module")
def forest(tmp_path_factory):
    """A tree in which patterns, names and contents are as strange as can be."""
    place = tmp_path_factory.mktemp("forest")
    words = [
        "needle",
        "Needle",
        "NEEDLE",
        "need le",
        "na\u00efve",
        "caf\u00e9",
        "stra\u00dfe",
        "\u017fharp",
        "\U0001f600 needle",
        "$needle$",
        "a.b",
        "axb",
        "line.end",
        "-needle",
        "needle\t",
        "\u212aelvin",
        "Kelvin",
    ]
    tree: dict[str, str | bytes] = {f"d{number % 7}/f{number}.txt": "\n".join(words[number % 5 :: 1 + number % 4]) + "\n" * (number % 3) for number in range(60)}
    tree |= {
        "-needle": "-needle\n",
        "sp ace": "needle",
        "new\nline": "needle\n",
        "--files": "--\n",
        "\u00fc.txt": "needle\r\nneedle\r\n",
        ".hidden": "needle\n",
        "empty": "",
        "bin": b"needle\0\n",
        "late-nul": b"x" * 9_000 + b"\0\nneedle\n",
        "latin": b"caf\xe9 needle\n\xe9\n",
        "utf16": "needle\n".encode("utf-16"),
        "bom": b"\xef\xbb\xbfneedle\n",
        "long": "x" * 100_000 + "needle" + "y" * 100_000,
        "crlf": "needle\r\n\r\ne\r\n",
        "ls": "a\u2028b\n",
        "sub/.gitignore": "ignored\n",
        "sub/ignored": "needle\n",
        "sub/.ignore": "also\n",
        "sub/also": "needle\n",
        "sub/.rgignore": "rg\n",
        "sub/rg": "needle\n",
        ".env": "needle\n",
        "x.db": "needle\n",
        "m.txt": "a\nneedle\nb\nneedle\nc\n",
        "vertical": "a\x0bneedle\x0c\n",
    }
    made(place, tree)
    (place / os.fsdecode(b"caf\xe9")).write_text("needle\n")
    (place / "link").symlink_to("sp ace")
    return place


def plainly(place: Path, pattern: str, *, ignore_case: bool) -> list[str]:
    """Search the simplest way there is: every line of every file that may be searched; return path:number."""
    regex = re.compile(pattern, re.IGNORECASE if ignore_case else 0)
    names = {one.spec.name: one for one in files(place)}["glob"](pattern="**").splitlines()
    found = []
    for shown_name in names:
        raw = (place / Path(*meant(shown_name))).read_bytes()
        if b"\0" in raw[:8_192] or shown_name in {".env", "x.db"} or not raw:
            continue
        lines = raw.decode(errors="surrogateescape").removesuffix("\n").split("\n")
        found += [f"{shown_name}:{number}:" for number, line in enumerate(lines, 1) if regex.search(line.removesuffix("\r"))]
    return found


@pytest.mark.parametrize("ignore_case", [False, True])
def test_ripgrep_changes_nothing(forest, monkeypatch, ignore_case):
    """Every pattern finds the same lines with ripgrep and without, and they are those that the simplest search finds."""
    program = needs("rg", "apt-get install ripgrep")
    grep = {one.spec.name: one for one in files(forest)}["grep"]

    def answers() -> dict[str, str]:
        return {pattern: grep(pattern=pattern, ignore_case=ignore_case) for pattern in PATTERNS[:: 4 if ignore_case else 1]}

    used = []
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **rest: (used.append(command[0]), run(command, **rest))[1])
    with_it = answers()
    assert (set(used) == {program}) == (not ignore_case), "it is used where it can help, and only there"
    calls = len(used)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    without = answers()
    assert len(used) == calls
    assert with_it == without
    for pattern, text in without.items():
        wanted = plainly(forest, pattern, ignore_case=ignore_case)
        lines = [] if text == "Nothing matches." else [line for line in text.splitlines() if not line.startswith("[…")]
        assert len(lines) == len(wanted) or "left out" in text, pattern
        assert all(line.startswith(place) for line, place in zip(lines, wanted, strict=False)), pattern
    assert sum(text != "Nothing matches." for text in without.values()) > len(without) / 2


def test_ripgrep_only_leaves_out_what_cannot_match(forest, monkeypatch):
    """When it fails, or cannot be run, no file is left out."""
    paths = [("sp ace",), ("empty",), ("-needle",), ("new\nline",), ("--files",)]
    needs("rg", "apt-get install ripgrep")
    assert narrowed(str(forest), paths, "needle") == [("sp ace",), ("-needle",), ("new\nline",)]
    assert narrowed(str(forest), [*paths, ("missing",)], "needle") == [*paths, ("missing",)], "it said that it could not read everything"
    monkeypatch.setattr(shutil, "which", lambda _: "/nowhere/rg")
    assert narrowed(str(forest), paths, "needle") == paths


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        *(("needle", "needle"), ("a|needle", None), ("(need)le", "needle"), ("ne+dle", "dle"), ("(?i)needle", None), ("(?i:nee)dle", "dle"), ("needle?", "needl")),
        *(("(?=needle)", None), ("(?:needle)*", None), ("x{2}abc", "abc"), ("ab", None), (r"a\.bcd", "a.bcd"), ("(", None), ("abc[d]", "abcd"), ("", None)),
        ("(?<!abc)def", "def"),
    ],
)
def test_what_every_match_must_hold(pattern, text):
    """Only what follows one another in every match is looked for; where that is not known, nothing is."""
    assert must_hold(pattern, ignore_case=False) == text
    assert must_hold(pattern, ignore_case=True) is None
