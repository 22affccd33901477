"""The verbs that look back: `sessions`, `history`, `show`. They need no agent and change nothing."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import typer

from power_agent import events as e
from power_agent.cli import options
from power_agent.cli.advice import DONE, NOT_THERE
from power_agent.cli.agents import reading_loop
from power_agent.cli.branching import graph
from power_agent.cli.config import close as closest
from power_agent.cli.deciding import known, store_of
from power_agent.cli.glance import Seen, looking
from power_agent.cli.glance import sessions as listed
from power_agent.cli.running import run
from power_agent.cli.saying import Part, voice
from power_agent.cli.telling import STANDING, ago, as_data, exactly, holds, in_full, learn_tools, priced, row, said, until, used, when
from power_agent.cli.timeline import show_timeline, spans
from power_agent.clock import SystemClock
from power_agent.errors import InvalidInput, UsageError
from power_agent.events import Envelope
from power_agent.limits import MAX_HISTORY_EVENTS
from power_agent.loop import StatefulAgentLoop
from power_agent.messages import Output

AGES = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}


# -- sessions ----------------------------------------------------------------------------------------------------------


def sessions(
    *,
    stuck: Annotated[bool, typer.Option("--stuck", help="Only those that go on when somebody types something.", show_default=False)] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", metavar="N", min=1, help="At most so many; the one that changed last comes first.")] = 50,
    store: options.Store = None,
    as_json: options.Json = False,
) -> int:
    """List sessions and where each stands."""
    voice.as_json = as_json
    with looking(store_of(store)) as db:
        found = listed(db, -1 if stuck else limit + 1)
    found = [one for one in found if one.stuck or not stuck]
    if as_json:
        voice.data({"sessions": [listing(one) for one in found[:limit]], "more": len(found) > limit})
        return DONE
    voice.table([listing_row(one) for one in found[:limit]])
    if not found:
        voice.note("Nothing is stuck." if stuck else "There is no session yet.")
    if len(found) > limit:
        voice.note(f"There are more; --limit {limit * 10} shows them.")
    return DONE


def listing(one: Seen) -> dict[str, Any]:
    """Return a session of the listing for a program."""
    return {
        "session": one.session,
        "standing": one.standing,
        "why": one.why,
        "events": one.events,
        "opened_at": exactly(one.opened_at),
        "changed_at": exactly(one.changed_at),
        "parent": one.parent,
        "calls": [{"call": call.call, "tool": call.tool, "state": call.state, "expires_at": until(call.deadline)} for call in one.calls],
        "commands": [voice.command(*words) for words in one.commands],
    }


def listing_row(one: Seen) -> list[Part]:
    """Return a session of the listing for a person."""
    return [one.session, (one.standing, STANDING.get(one.standing, "dim")), f"{one.events} events", (ago(one.changed_at, SystemClock().now()), "dim"), one.why]


# -- history -----------------------------------------------------------------------------------------------------------


def history(  # noqa: C901, PLR0913  each filter is an option
    session: options.MaybeSession = None,
    *,
    kind: Annotated[list[str] | None, typer.Option("--kind", metavar="KIND", help="An event (call.started) or a family (call); may be repeated.", show_default=False)] = None,
    tool: Annotated[str | None, typer.Option("--tool", metavar="NAME", help="Only calls of this tool.", show_default=False)] = None,
    since: Annotated[str | None, typer.Option("--since", metavar="WHEN", help="2026-05-01, 2026-05-01T12:00, 12:00, or an age: 90s, 20m, 2h, 3d.", show_default=False)] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="WHEN", help="The same.", show_default=False)] = None,
    text: Annotated[
        str | None, typer.Option("--text", metavar="TEXT", help="Only events in which this was said: texts, and names and values of your own data.", show_default=False)
    ] = None,
    after: Annotated[int, typer.Option("--after", metavar="SEQ", min=0, help="Only events behind this one.", show_default=False)] = 0,
    limit: Annotated[int, typer.Option("--limit", "-n", metavar="N", min=1, help="At most so many.")] = MAX_HISTORY_EVENTS,
    timeline: Annotated[bool, typer.Option("--timeline", help="Model, tools and waits as lanes, a turn at a time.", show_default=False)] = False,
    as_graph: Annotated[bool, typer.Option("--graph", help="The session and its forks as a tree; without SESSION all of them.", show_default=False)] = False,
    store: options.Store = None,
    as_json: options.Json = False,
) -> int:
    """Show what happened, an event per line."""
    voice.as_json = as_json
    path = store_of(store)
    if as_graph:
        return _graph(path, session, alone=not (kind or tool or since or until or text or after or timeline))
    if session is None:
        raise UsageError("History is of one session.", hint="Name it; --graph without a session shows all as a tree.", commands=[("history", "@last"), ("sessions",)])
    kinds = _kinds(kind or [])
    chosen = _chooser(tool, _moment(since), _moment(until), text)
    name = known(path, session)

    async def work() -> tuple[list[Envelope], dict[str, str]]:
        found: list[Envelope] = []
        tools: dict[str, str] = {}
        async with reading_loop(path) as loop:
            async for kept in every(loop, name, 0 if tool or timeline else after):
                learn_tools(tools, kept)
                if kept.seq > after and (kinds is None or kept.kind in kinds) and chosen(kept, tools):
                    found.append(kept)
                    if len(found) > limit and not timeline:
                        break
        return found, tools

    found, tools = run(work())
    if timeline:
        lanes = spans(found, tools)
        voice.data({"session": name, "spans": [as_data(span._asdict()) for span in lanes]}) if as_json else show_timeline(lanes)
        return DONE
    shown, more = found[:limit], len(found) > limit
    if as_json:
        voice.data({"session": name, "events": [in_full(kept) for kept in shown], "more": more})
        return DONE
    for kept in shown:
        voice.line(*row(kept, tools))
    if not shown:
        near = closest(tool, set(tools.values())) if tool is not None and tool not in tools.values() else None
        filtered = kind or tool or since or until or text
        voice.note(f"No call of {tool} is there. Did you mean {near}?" if near else "No event fits." if filtered else "Nothing is behind that event.")
    if more:
        voice.note(f"There are more. Go on with --after {shown[-1].seq}, or show more with --limit.")
    return DONE


def _graph(path: str, session: str | None, *, alone: bool) -> int:
    if not alone:
        raise UsageError("--graph stands alone.", hint="It shows sessions, not events.", commands=[("history", *([session] if session else []), "--graph")])
    return graph(path, session)


async def every(loop: StatefulAgentLoop, name: str, after: int = 0) -> AsyncIterator[Envelope]:
    """Yield all events of a session, a page at a time."""
    while page := await loop.history(name, after=after):
        for kept in page:
            yield kept
        after = page[-1].seq


def _kinds(words: list[str]) -> set[str] | None:
    """Return the kinds that were meant: each by its name or by its family."""
    found: set[str] = set()
    for word in words:
        meant = {kind for kind in e.EVENTS if kind == word or kind.startswith(f"{word.removesuffix('.*').removesuffix('.')}.")}
        if not meant:
            families = sorted({kind.split(".")[0] for kind in e.EVENTS})
            near = closest(word, [*e.EVENTS, *families])
            raise UsageError(f"There is no event {word!r}.", hint=f"Did you mean {near}?" if near else f"Families are: {', '.join(families)}.", commands=[("history", "--help")])
        found |= meant
    return found or None


def _chooser(tool: str | None, since: int | None, until: int | None, text: str | None) -> Callable[[Envelope, dict[str, str]], bool]:
    needle = text.casefold() if text else None

    def chosen(kept: Envelope, tools: dict[str, str]) -> bool:
        if (since is not None and kept.at < since) or (until is not None and kept.at > until):
            return False
        if tool is not None and not _is_of(kept, tool, tools):
            return False
        return needle is None or holds(kept.event, needle)

    return chosen


def _is_of(kept: Envelope, tool: str, tools: dict[str, str]) -> bool:
    if isinstance(kept.event, e.ModelAnswered):
        return any(getattr(part, "name", None) == tool and hasattr(part, "arguments") for part in kept.event.parts)
    call = e.call_of(kept.event) if kept.event is not None else None
    return call is not None and tools.get(call) == tool


def _moment(text: str | None) -> int | None:
    """Read a moment: a date, a time of today, or an age."""
    if text is None:
        return None
    now = SystemClock().now()
    if aged := re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d|w)", text.strip()):
        return now - round(float(aged[1]) * AGES[aged[2]] * 1000)
    try:
        if re.fullmatch(r"\d{1,2}:\d{2}(:\d{2})?", text):
            text = f"{dt.datetime.fromtimestamp(now / 1000).astimezone():%Y-%m-%d} {text:0>5}"
        return round(dt.datetime.fromisoformat(text).astimezone().timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{text!r} is no moment.", hint="Write 2026-05-01, 2026-05-01T12:00, 12:00, or an age like 90s, 20m, 2h, 3d.", commands=[("history", "--help")]) from error


# -- show --------------------------------------------------------------------------------------------------------------


def show(
    session: options.Session,
    *,
    at: Annotated[int | None, typer.Option("--at", metavar="SEQ", min=1, help="As it stood after this event.", show_default=False)] = None,
    event: Annotated[int | None, typer.Option("--event", metavar="SEQ", min=1, help="One event in full.", show_default=False)] = None,
    messages: Annotated[bool, typer.Option("--messages", help="What the model would see.", show_default=False)] = False,
    context: Annotated[bool, typer.Option("--context", help="What fills the context, in tokens.", show_default=False)] = False,
    store: options.Store = None,
    as_json: options.Json = False,
) -> int:
    """Show where a session stands, now or after any event; or one event in full; or what the model would see; or what fills its context."""
    voice.as_json = as_json
    if (event is not None and (messages or context or at is not None)) or (context and (messages or at is not None)):
        raise UsageError("--event and --context stand alone.", hint="Use --at with --messages, or one of the others.", commands=[("show", "--help")])
    path = store_of(store)
    name = known(path, session)
    if event is not None:
        return _show_event(path, name, event)
    if context:
        return _show_context(path, name)
    return _show_messages(path, name, at) if messages else _show_state(path, name, at)


def _show_context(path: str, name: str) -> int:
    """Without the agent its tools and its model's window are not known: they are left out, and that is said."""

    async def work() -> Any:
        async with reading_loop(path) as loop:
            return await loop.context_report(name)

    found = run(work())
    if voice.as_json:
        voice.data(as_data(found))
        return DONE
    rows = [(what, getattr(found, what)) for what in ("system", "summary", "history", "last_exchange")]
    voice.line((f"{found.tokens} tokens", "bold"), f" in all, {'as the provider counted the last request' if found.measured else 'estimated'}; compacted {found.compactions} times")
    for what, tokens in rows:
        voice.text(f"  {what.replace('_', ' '):14} {tokens:>8}")
    if found.bound is not None and found.tokens > found.bound:
        voice.line((f"More than the {found.bound} that are meant", "yellow"), ": it is made smaller with the next request, or nothing does; history tells what was tried.")
    voice.note("Tools and the model's window are the agent's, which is not asked here.")
    return DONE


def _show_event(path: str, name: str, seq: int) -> int:
    async def work() -> list[Envelope]:
        async with reading_loop(path) as loop:
            return await loop.history(name, after=seq - 1, limit=1)

    found = run(work())
    if not found or found[0].seq != seq:
        raise InvalidInput(f"Session {name!r} has no event {seq}.", commands=[("history", name)], exit_code=NOT_THERE)
    document = {"session": name, **in_full(found[0])}
    if voice.as_json:
        voice.data(document)
    else:
        voice.text(json.dumps(document, indent=2, ensure_ascii=False))
    return DONE


def _show_messages(path: str, name: str, at: int | None) -> int:
    async def work() -> Any:
        async with reading_loop(path) as loop:
            return await loop.messages(name, at=at)

    found = run(work())
    if voice.as_json:
        voice.data({"session": name, "at": at, "messages": as_data(found)})
        return DONE
    for message in found:
        voice.line((f"{message.role}:", "bold"))
        for part in message.parts:
            shown = f"{part.call} {'failed: ' if part.failed else '= '}{said(part.content)}" if isinstance(part, Output) else said([part])
            voice.text("\n".join(f"  {line}" for line in shown.splitlines()))
    return DONE


def _show_state(path: str, name: str, at: int | None) -> int:
    async def work() -> Any:
        async with reading_loop(path) as loop:
            return await loop.state(name, at=at)

    state = run(work())
    if at is not None and state.seq != at:
        raise InvalidInput(f"Session {name!r} has no event {at}; its last is {state.seq}.", commands=[("history", name)], exit_code=NOT_THERE)
    last = state.last
    document = {
        "session": name,
        "seq": state.seq,
        "at": exactly(state.at),
        "place": state.place,
        "title": state.title,
        "parent": as_data(state.parent),
        "turns": state.turns,
        "turn": {"number": state.turn.number, "round": state.turn.round, "started_at": exactly(state.turn.started_at), "spent": as_data(state.turn_spent)} if state.turn else None,
        "last": {"number": last.number, "status": last.status, "reason": last.reason, "rounds": last.rounds, "ms": last.ms} if last else None,
        "calls": [{"id": call.call.id, "tool": call.call.name, "state": call.place, "attempt": call.attempt} for call in state.calls.values()],
        "queued": [{"seq": item.seq, "mode": item.mode, "text": said(item.parts)} for item in state.inputs],
        "cancel": as_data(state.cancel),
        "entries": len(state.transcript),
        "spent": as_data(state.spent),
        "config": as_data(state.config),
    }
    if voice.as_json:
        voice.data(document)
    else:
        voice.table(_state_rows(document, state))
    return DONE


def _state_rows(told: dict[str, Any], state: Any) -> list[list[Part]]:
    rows: list[list[Part]] = [["session", told["session"]], ["stands", f"{told['place']} after event {told['seq']}, {when(state.at)}"]]
    if told["title"]:
        rows.append(["title", told["title"]])
    if told["parent"]:
        rows.append(["parent", f"{told['parent']['relation']} of {told['parent']['session']} at {told['parent']['seq']}"])
    rows.append(["model", told["config"]["model"] or ""])
    if told["config"]["system"]:
        rows.append(["system", " ".join(told["config"]["system"].split())])
    rows.append(["tools", ", ".join(tool["name"] for tool in told["config"]["tools"]) or "none"])
    rows.append(["turns", str(told["turns"])])
    if told["turn"]:
        rows.append(["open turn", f"{told['turn']['number']}, round {told['turn']['round']}, since {when(state.turn.started_at)}"])
    if told["last"]:
        rows.append(["last turn", f"{told['last']['number']} {told['last']['status']}" + (f": {told['last']['reason']}" if told["last"]["reason"] else "")])
    rows += [["call", f"{call['id']} {call['tool']}: {call['state']}, attempt {call['attempt']}"] for call in told["calls"]]
    rows += [["queued", f"{item['seq']} [{item['mode']}] {item['text']}"] for item in told["queued"]]
    spent = state.spent
    rows.append(["spent", used(spent.usage)])
    rows.append(["cost", priced(spent.cost_nano_usd if spent.cost_nano_usd or not spent.unpriced else None, spent.unpriced)])
    return [[(str(name), "dim"), value] for name, value in rows]
