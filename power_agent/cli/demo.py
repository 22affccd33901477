"""The demonstration: a process dies between an effect and its record, another one finds out and goes on.

No model and no network: the demo itself says what a model would. Everything else is real: the file, the two processes, the
SIGKILL, the log.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from power_agent import SQLiteStore, Text, process
from power_agent import events as e
from power_agent.chance import SystemChance
from power_agent.clock import SystemClock
from power_agent.context import render
from power_agent.errors import IllegalMove
from power_agent.machine import decide
from power_agent.messages import Call
from power_agent.sink import Sink, opened

SESSION = "transfer-42"
ME = "demo"


def demo() -> int:
    """Tell the story; returns 0 when everything held."""
    with tempfile.TemporaryDirectory(prefix="power-agent-demo-") as folder:
        print(f"A log is born in {folder}/agent.db, and the bank keeps its own book beside it.\n")
        print("1. A first process is told to send 10 euros to Ada. It records that it starts, the bank books, and")
        killed = subprocess.run([sys.executable, "-c", f"from power_agent.cli.demo import first_life; first_life({folder!r})"], check=False)  # noqa: S603  ourselves
        print(f"   it is killed with SIGKILL before it can record the outcome (exit status {killed.returncode}).\n")
        return asyncio.run(_second_life(Path(folder))) if killed.returncode == -signal.SIGKILL else 1


def _sink(store: SQLiteStore) -> Sink:
    return Sink(store, SystemClock(), SystemChance(), process.me(), dead=process.proven_dead)


def first_life(folder: str) -> None:
    """Work until the bank has booked, then die. Runs in a process of its own."""
    asyncio.run(_first_life(Path(folder)))


async def _first_life(folder: Path) -> None:
    async with SQLiteStore(folder / "agent.db") as store:
        sink = _sink(store)
        state = await sink.open(session=SESSION)
        asked = e.ModelAsked(turn=1, round=1, model="demo:none")
        state = await sink.record(state, [e.InputReceived(parts=(Text("Send 10 euros to Ada."),)), e.TurnStarted(turn=1, inputs=(2,)), asked])
        call = Call("transfer", {"to": "Ada", "cents": 1000}, id="t1r1c1")
        state = await sink.record(state, [e.ModelAnswered(round=1, parts=(call,), finish="calls"), e.CallStarted(call=call.id, recovery="ask")])
        with (folder / "bank.txt").open("a", encoding="utf-8") as book:
            book.write("Ada +10.00\n")
        os.kill(os.getpid(), signal.SIGKILL)


async def _second_life(folder: Path) -> int:
    async with SQLiteStore(folder / "agent.db") as store:
        sink = _sink(store)
        state = await sink.claim(SESSION)
        print("2. A second process opens the file. The old owner is proven dead, so it need not wait for the lease:")
        print(f"   epoch {state.epoch}; next step by the log alone: {decide(state, 0)}")
        state = await sink.record(state, [e.CallDoubted(call="t1r1c1", attempt=1, reason="its process died")])
        for call in state.unresolved:
            print(f"   pending: {call.call.id} {call.call.name}({call.call.arguments}) is {call.place}: {call.reason}")
        print(f"   sendable to a model? {render(state).why_not}\n")

        print("3. Running it again, just like that, is refused by the log:")
        try:
            await sink.record(state, [e.CallStarted(call="t1r1c1", attempt=2)])
        except IllegalMove as refused:
            print(f"   error[{refused.code}]: {refused.message}\n")

        booked = (folder / "bank.txt").read_text(encoding="utf-8").strip()
        print(f"4. A person looks into the bank's book ({booked!r}) and hands in the result. The turn goes on:")
        state = await sink.record(state, [e.CallSucceeded(call="t1r1c1", attempt=1, output="booked", by=ME), e.ModelAsked(turn=1, round=2, model="demo:none")])
        answer = e.ModelAnswered(round=2, parts=(Text("Ada has her 10 euros."),))
        state = await sink.record(state, [answer, e.TurnEnded(turn=1)], release=True)
        for message in render(state).messages:
            print(f"   {message.role:>9}: {', '.join(str(part) for part in message.parts)}")

        print("\n5. Everything that happened:")
        for record in await store.read(SESSION):
            print(f"   {record.seq:>3}  epoch {record.epoch}  {record.kind:<16} {record.hash.hex()[:12]}  {((opened(record).event and record.body) or '')[:70]}")
        wrong = [sentence async for sentence in store.verify()]
        payments = booked.count("\n") + 1
        print(f"\nverify: {'; '.join(wrong) or 'every hash and every move is right'}. Payments made: {payments}.")
    return 1 if wrong or payments != 1 else 0
