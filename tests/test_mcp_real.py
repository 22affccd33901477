"""Servers that other people published, as they are installed from the registries, used by an agent with its whole log."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from node_servers import programs
from processes import PATIENCE_SECONDS

from power_agent import Call, ScriptedModel, StatefulAgentLoop
from power_agent import events as e
from power_agent.messages import Attachment, Text
from power_agent.policy import Allow
from power_agent.settling import Approve
from power_agent.tools.mcp import MCPServer, MCPServers

SCRIPTS = Path(sysconfig.get_path("scripts"))
CLIENT = str(Path(__file__).with_name("conforming.py"))


@pytest.fixture(scope="module")
def node() -> Path:
    return programs()


async def used(servers: MCPServers, *calls: tuple[str, dict[str, Any]], policy: Any = lambda _: Allow(), **more: Any) -> tuple[list[e.Event], Any, StatefulAgentLoop]:
    """Let an agent make these calls one after the other; returns the outcomes and the bytes of its attachments."""
    script: list[Any] = [[Call(name, arguments)] for name, arguments in calls]
    blobs: dict[str, bytes] = {}
    async with StatefulAgentLoop(ScriptedModel([*script, "Done."]), tools=[servers], store=":memory:", policy=policy, **more) as loop:
        result = await loop.send("go", "s")
        assert result.status == "completed", result
        outcomes = [one.event for one in await loop.history("s") if one.event.kind in {"call.succeeded", "call.failed"}]
        for one in outcomes:
            for part in getattr(one, "parts", None) or ():
                if isinstance(part, Attachment):
                    blobs[part.blob] = await loop.blob("s", part.blob)
    return outcomes, blobs, loop


def texts(outcome: e.Event) -> str:
    return "\n".join(part.text for part in getattr(outcome, "parts", None) or () if isinstance(part, Text))


async def test_everything(node, monkeypatch):
    """Text, structure, pictures, links, resources of both kinds, progress, and an environment without our keys."""
    monkeypatch.setenv("OPENAI_API_KEY", "a key of ours")
    servers = MCPServers([MCPServer(name="all", command=str(node / "mcp-server-everything"))])
    outcomes, blobs, _ = await used(
        servers,
        ("all__echo", {"message": "hello"}),
        ("all__get-sum", {"a": 2, "b": 40}),
        ("all__get-structured-content", {"location": "Chicago"}),
        ("all__get-tiny-image", {}),
        ("all__get-resource-links", {"count": 2}),
        ("all__get-resource-reference", {"resourceType": "Text", "resourceId": 1}),
        ("all__get-resource-reference", {"resourceType": "Blob", "resourceId": 1}),
        ("all__get-env", {}),
        ("all__trigger-long-running-operation", {"duration": 0.2, "steps": 2}),
        ("all__get-sum", {"a": "two", "b": 40}),
    )
    echo, total, structure, image, links, text, blob, environment, long, wrong = outcomes
    assert (echo.output, "42" in total.output) == ("Echo: hello", True)
    assert set(json.loads(structure.output)) == {"temperature", "conditions", "humidity"}
    (picture,) = [part for part in image.parts if isinstance(part, Attachment)]
    assert (picture.media_type, blobs[picture.blob][:4]) == ("image/png", b"\x89PNG")
    assert links.output.count("[resource ") == 2
    assert "[resource at demo://resource/dynamic/text/1]" in text.output
    (held,) = [part for part in blob.parts if isinstance(part, Attachment)]
    assert blobs[held.blob]
    assert "OPENAI_API_KEY" not in environment.output
    assert "completed" in long.output.lower()
    assert isinstance(wrong, e.CallFailed)
    assert wrong.failure.code == "bad_arguments"


async def test_filesystem(node, tmp_path):
    """It writes after a person agreed, reads by its owner's word, and does not leave its folder; its failure is a failure."""
    root = tmp_path / "root"
    root.mkdir()
    servers = MCPServers([MCPServer(name="files", command=str(node / "mcp-server-filesystem"), args=(str(root),), reads=("read_*", "list_*"))])
    script = [
        [Call("files__write_file", {"path": str(root / "a.txt"), "content": "written"})],
        [Call("files__read_text_file", {"path": str(root / "a.txt")})],
        [Call("files__read_text_file", {"path": "/etc/passwd"})],
        "Done.",
    ]
    async with StatefulAgentLoop(ScriptedModel(script), tools=[servers], store=":memory:") as loop:
        waiting = await loop.send("go", "s")
        assert (waiting.status, waiting.pending[0].tool) == ("waiting", "files__write_file")
        assert not list(root.iterdir())
        await loop.settle("s", waiting.pending[0].id, Approve())
        assert (await loop.resume("s")).status == "completed"
        wrote, read, refused = [one.event for one in await loop.history("s") if one.event.kind in {"call.succeeded", "call.failed"}]
    assert (root / "a.txt").read_text(encoding="utf-8") == "written"
    assert wrote.kind == "call.succeeded"
    assert "written" in str(read.output)
    assert isinstance(refused, e.CallFailed)
    assert "denied" in refused.failure.message.lower()


def git(*words: str) -> str:
    return subprocess.run([str(shutil.which("git")), *words], check=True, capture_output=True, text=True).stdout


async def test_git_and_time(tmp_path):
    """Two at once, in the newer dialect of the protocol: a commit is made, a time is told, a wrong zone is a failure."""
    repository = tmp_path / "repository"
    git("init", "-q", str(repository))
    git("-C", str(repository), "config", "user.email", "a@example.com")
    git("-C", str(repository), "config", "user.name", "A")
    (repository / "new.txt").write_text("new", encoding="utf-8")
    at = {"repo_path": str(repository)}
    servers = MCPServers([MCPServer(name="git", command=str(SCRIPTS / "mcp-server-git")), MCPServer(name="time", command=str(SCRIPTS / "mcp-server-time"))])
    outcomes, _, _ = await used(
        servers,
        ("git__git_status", at),
        ("git__git_add", {**at, "files": ["new.txt"]}),
        ("git__git_commit", {**at, "message": "Add it"}),
        ("git__git_log", at),
        ("time__convert_time", {"source_timezone": "Etc/UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}),
        ("time__get_current_time", {"timezone": "Nowhere/Never"}),
    )
    status, _, _, log, told, wrong = outcomes
    assert "new.txt" in str(status.output)
    assert "Add it" in str(log.output)
    assert "21:00" in str(told.output)
    assert isinstance(wrong, e.CallFailed)
    assert git("-C", str(repository), "log", "--format=%s") == "Add it\n"


def examination(folder: Path) -> tuple[list[str], list[str]]:
    """Return what was found good and what was not; that a busy machine comes back later than it was told to is no fault of the protocol."""
    checks = [check for path in folder.rglob("checks.json") for check in json.loads(path.read_text(encoding="utf-8"))]
    wrong = [check["id"] for check in checks if check["status"] == "FAILURE" and not check.get("details", {}).get("veryLate")]
    return [check["id"] for check in checks if check["status"] == "SUCCESS"], wrong


@pytest.mark.parametrize(("scenario", "good"), [("initialize", "mcp-client-initialization"), ("tools_call", "tool-add-numbers"), ("sse-retry", "client-sse-graceful-reconnect")])
def test_the_protocol_s_own_examination_of_clients(node, scenario, good, tmp_path):
    """What of the conformance suite speaks of clients without OAuth and elicitation, neither of which is offered."""
    command = [str(node / "conformance"), "client", "--command", f"{sys.executable} {CLIENT} client", "--scenario", scenario, "-o", str(tmp_path)]
    told = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    passed, wrong = examination(tmp_path)
    assert wrong == [], told.stdout + told.stderr
    assert good in passed


@pytest.fixture
def examined(here):
    """Our own server over HTTP on loopback, because the examination knows no other way; returns its address."""
    server = subprocess.Popen([sys.executable, CLIENT, "server"], cwd=here, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    yield server.stdout.readline().strip()
    server.terminate()
    server.wait(PATIENCE_SECONDS)
    server.stdout.close()


def test_the_protocol_s_own_examination_of_servers(node, here, examined):
    """What of the conformance suite speaks of a server that offers tools and nothing else."""
    for scenario in ("server-initialize", "ping", "tools-list", "dns-rebinding-protection"):
        command = [str(node / "conformance"), "server", "--url", examined, "--scenario", scenario, "-o", str(here / "out")]
        told = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        assert told.returncode == 0, told.stdout + told.stderr
