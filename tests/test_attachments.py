"""The bytes that a session's messages refer to are handed to the model."""

from hashlib import sha256

from power_agent import Attachment, ScriptedModel, Sink, SQLiteStore, StatefulAgentLoop, process
from power_agent import events as e
from power_agent.chance import SystemChance
from power_agent.clock import SystemClock


async def test_model_gets_the_bytes(tmp_path):
    """A kept blob that an input names is in the request; one that is not kept is not."""
    digest = sha256(b"picture").hexdigest()
    async with SQLiteStore(tmp_path / "log.db") as store:
        sink = Sink(store, SystemClock(), SystemChance(), process.me())
        state = await sink.open(session="s")
        said = e.InputReceived(parts=(Attachment("image/png", blob=digest), Attachment("image/png", blob="0" * 64)))
        await sink.release(await sink.record(state, [said], blobs={digest: b"picture"}))
    model = ScriptedModel(["A picture."])
    async with StatefulAgentLoop(model, store=tmp_path / "log.db") as agent:
        await agent.resume("s")
    assert model.requests[0].attachments == {digest: b"picture"}
