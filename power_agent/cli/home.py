"""What `power-agent` alone says: the state of things, and what to type next. It never starts anything that costs money."""

from __future__ import annotations

from power_agent.cli.advice import DONE
from power_agent.cli.config import Settings
from power_agent.cli.deciding import store_of
from power_agent.cli.glance import Seen, looking, neighbours, sessions
from power_agent.cli.looking import listing, listing_row
from power_agent.cli.saying import voice
from power_agent.errors import StoreNotFound

_RECENT = 8


def home(store: str | None = None) -> int:
    """Show recent sessions, those that need a person, and the next command."""
    settings = Settings({"store": store})
    store_of(store)
    try:
        with looking(settings.store) as db:
            found = sessions(db)
    except StoreNotFound:
        return _welcome(settings)
    waiting = [one for one in found if one.stuck]
    next_ = _next(settings, found, waiting)
    if voice.as_json:
        voice.data({"store": settings.store, "sessions": [listing(one) for one in found[:_RECENT]], "stuck": [listing(one) for one in waiting], "next": next_})
        return DONE
    voice.line((f"{len(found):,} session{'s' if len(found) != 1 else ''} in {settings.store}", "dim"))
    voice.table([listing_row(one) for one in found[:_RECENT]])
    persons = [one for one in waiting if one.needs_person]
    if persons:
        voice.line(f"{len(persons)} need{'s' if len(persons) == 1 else ''} a person: {', '.join(one.session for one in persons[:_RECENT])}.")
    voice.commands("next:", next_, are_data=True)
    return DONE


def _next(settings: Settings, found: list[Seen], waiting: list[Seen]) -> list[str]:
    if waiting:
        first = next((one for one in waiting if one.needs_person), waiting[0])
        return [voice.command(*words) for words in first.commands] + ([voice.command("sessions", "--stuck")] if len(waiting) > 1 else [])
    agent = settings.unnamed()
    if not found:
        return [voice.command("send", "@new", "MESSAGE", *agent)]
    if found[0].commands:
        return [voice.command(*words) for words in found[0].commands]
    return [voice.command("history", found[0].session), voice.command("send", found[0].session, "MESSAGE", *agent)]


def _welcome(settings: Settings) -> int:
    """Nothing is here yet; say so kindly."""
    from pathlib import Path  # noqa: PLC0415  only here

    agent = settings.unnamed()
    others = neighbours(Path(settings.store).parent)
    commands = [voice.command("sessions", "--store", other.name) for other in others[:2]] or [voice.command("demo")]
    commands += [voice.command("send", "@new", "MESSAGE", *agent), voice.command("--help")]
    if voice.as_json:
        voice.data({"store": None, "sessions": [], "stuck": [], "next": commands})
        return DONE
    voice.line(f"There is no store yet at {settings.store}; the first send creates it.")
    if others:
        voice.line(f"Beside it lies {', '.join(other.name for other in others)}.")
    voice.commands("next:", commands, are_data=True)
    return DONE
