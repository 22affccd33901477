"""An agent behind HTTP: `POWER_AGENT_STORE=agent.db uvicorn fastapi_handler:app --timeout-graceful-shutdown 5`. A key runs once; what was killed goes on."""

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Response
from fastapi.testclient import TestClient

from power_agent import ScriptedModel, StatefulAgentLoop

PATH = sys.argv[1] if __name__ == "__main__" and len(sys.argv) > 1 else os.environ.get("POWER_AGENT_STORE") or f"{tempfile.mkdtemp()}/agent.db"
CODES = {"completed": 200, "waiting": 202, "limit": 409, "cancelled": 409, "failed": 502}  # only a completed turn has the answer


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:  # one agent for all sessions; leaving it interrupts what runs
    async with StatefulAgentLoop(os.environ.get("POWER_AGENT_MODEL") or ScriptedModel(lambda asked: f"Answer {asked.replies + 1}."), store=PATH) as app.state.agent:
        app.state.resuming = asyncio.create_task(app.state.agent.resume_all(every_seconds=30))  # what a killed process left, in another container, too
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/sessions/{session}")
async def say(session: str, message: str, key: str, response: Response) -> dict[str, object]:
    done = await app.state.agent.send(message, session, key=key, when_busy="queue")
    response.status_code = CODES[done.status]
    return {"status": done.status, "text": done.text, "waits_for": [call.id for call in done.pending], "why": done.failure.message if done.failure else done.reason}


if __name__ == "__main__":
    with TestClient(app) as client:
        for key in ("message-1", "message-1", "message-2"):
            print(key, client.post("/sessions/ada", params={"message": "Hello.", "key": key}).json()["text"])
