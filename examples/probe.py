"""A payment was sent and its answer is lost: the tool says that nobody knows, and a probe finds out, so that no person has to be asked."""

import asyncio
import os
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

from power_agent import Call, DidNotHappen, Happened, ScriptedModel, StatefulAgentLoop, ToolContext, tool
from power_agent.errors import OutcomeUnknown

PATH = sys.argv[1] if len(sys.argv) > 1 else f"{tempfile.mkdtemp()}/agent.db"
MODEL = os.environ.get("POWER_AGENT_MODEL") or ScriptedModel([[Call("pay", {"to": "Ada"})], "Ada is paid."])
book: dict[str, str] = {}


def look(arguments: Mapping[str, Any], ctx: ToolContext) -> Happened | DidNotHappen:
    """Look into the book."""
    return Happened(f"{arguments['to']} is paid") if ctx.idempotency_key in book else DidNotHappen()


@tool(probe=look)
async def pay(to: str, ctx: ToolContext) -> str:
    """Pay somebody."""
    book[ctx.idempotency_key] = to
    raise OutcomeUnknown("The bank has booked, and its answer is lost.")  # any other error would say that it failed


async def main() -> None:
    async with StatefulAgentLoop(MODEL, tools=[pay], store=PATH) as loop:
        result = await loop.send("Pay Ada.", session_id="bills")
        print(f"{result.status}: {result.pending[0].state}, {result.pending[0].why}")
        result = await loop.resume("bills")
        print(f"{result.status}: {result.calls[0].output}, after {result.calls[0].attempts} attempt")


asyncio.run(main())
