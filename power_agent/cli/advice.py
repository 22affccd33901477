"""What an error means to somebody at a shell: its exit code, and what to type next.

The library's own hints speak of Python (`resume()`); here the same advice is given in commands. `{session}`, `{call}`, `{path}`
stand for the error's own fields. An error without a row here is a failure of the general kind.
"""

from __future__ import annotations

import shlex
import sys
from typing import NamedTuple

from power_agent.cli.saying import safe, voice
from power_agent.errors import PowerAgentError, holder

DONE, FAILED, USAGE, NOT_THERE, DAMAGED, PERSON, LIMIT, BUSY, STORE, INTERRUPTED = 0, 1, 2, 3, 4, 5, 6, 7, 8, 130
OF_STATUS = {"completed": DONE, "cancelled": FAILED, "failed": FAILED, "waiting": PERSON, "limit": LIMIT}


class Advice(NamedTuple):
    """An exit code, why it came so (else the error's own hint says it), and commands that help."""

    code: int = FAILED
    why: str = ""
    commands: tuple[str, ...] = ()


_LOOK, _RESUME, _PENDING, _DOCTOR = "history {session}", "resume {session}", "pending {session}", "doctor"
_AGAIN = "Somebody else wrote at the same moment. What was kept is safe; try again."
_DISK = "What was acknowledged before is kept."

ADVICE: dict[str, Advice] = {
    "power_agent": Advice(commands=(_DOCTOR,)),
    "invalid_input": Advice(USAGE, commands=("--help",)),
    "invalid_session_id": Advice(USAGE, commands=("sessions",)),
    "key_needs_session": Advice(USAGE, "A key only means something inside a session.", ("send SESSION MESSAGE --key KEY",)),
    "key_conflict": Advice(USAGE, "The same key is the same input. Use a new key for new content.", (_LOOK,)),
    "input_refused": Advice(commands=(_LOOK,)),
    "import_refused": Advice(USAGE, "Every byte of an export is checked, and nothing of this one was let in. Export it once more.", ("import --help", "sessions")),
    "export_redacted": Advice(USAGE, "It shows what happened, not what was said. Export it there without --redacted.", ("export SESSION FILE",)),
    "attachment_refused": Advice(USAGE, commands=("models", "send --help")),
    "event_too_large": Advice(USAGE, commands=("config show",)),
    "usage": Advice(USAGE, commands=("--help",)),
    "bad_policy": Advice(USAGE, "Nothing was run: a policy is right as a whole or not used.", ("config show --origin",)),
    "config": Advice(USAGE, commands=("config show --origin",)),
    "price_unknown": Advice(
        USAGE,
        "Nothing was asked. Install the extra `prices`, say the price under [prices] in the project file, or leave the limit of money out.",
        ("models", "config show --origin"),
    ),
    "agent_not_found": Advice(USAGE, commands=("config show --origin",)),
    "session": Advice(commands=(_LOOK,)),
    "session_not_found": Advice(NOT_THERE, commands=("sessions",)),
    "session_exists": Advice(commands=(_LOOK,)),
    "session_busy": Advice(
        BUSY, "A process works on it, or died in another container less than a lease (30 s) ago. Watch it, or ask it to stop.", ("tail {session}", "cancel {session}")
    ),
    "session_pending": Advice(PERSON, "What is open comes first: look at it, go on with it, or end it.", (_PENDING, _RESUME, "abort {session}")),
    "session_closed": Advice(why="It can be read, not continued.", commands=(_LOOK, "send @new MESSAGE")),
    "session_erased": Advice(why="Its contents were destroyed; only the chain of hashes is left.", commands=("verify {session}",)),
    "nothing_to_resume": Advice(NOT_THERE, "Nothing was ever asked of it, or it is closed.", (_LOOK, "send {session} MESSAGE")),
    "has_forks": Advice(why="Other sessions share its past.", commands=("history {session} --graph", "erase {session} --forks")),
    "call_not_found": Advice(commands=(_PENDING,)),
    "settle_not_allowed": Advice(commands=(_PENDING,)),
    "already_settled": Advice(why="The first decision stands.", commands=("history {session} --kind call",)),
    "log": Advice(commands=("verify {session}",)),
    "illegal_move": Advice(commands=(_LOOK, "verify {session}")),
    "head_moved": Advice(why=_AGAIN, commands=(_LOOK,)),
    "ownership_lost": Advice(BUSY, "Another process took the session over. What was not recorded by then is doubted.", ("tail {session}", _PENDING)),
    "tool": Advice(commands=("history @last --kind call",)),
    "path_refused": Advice(commands=("history @last --kind call",)),
    "file_protected": Advice(commands=("history @last --kind call",)),
    "url_refused": Advice(commands=("history @last --kind call",)),
    "web_failed": Advice(commands=("history @last --kind call",)),
    "file_changed": Advice(commands=("history @last --kind call",)),
    "edit_refused": Advice(commands=("history @last --kind call",)),
    "search_failed": Advice(commands=("history @last --kind call",)),
    "outcome_unknown": Advice(commands=("pending {session}", "history {session} --kind call")),
    "bad_arguments": Advice(commands=("history @last --kind call",)),
    "output_invalid": Advice(why="The answer is kept as it came; asked again, it may come right.", commands=("history {session}", "resume {session}")),
    "context_too_long": Advice(commands=("history @last --kind model",)),
    "replay_diverged": Advice(commands=("history @last --kind model",)),
    "wire": Advice(commands=("doctor",)),
    "model": Advice(commands=("history @last --kind model",)),
    "store": Advice(STORE, commands=(_DOCTOR,)),
    "store_not_found": Advice(STORE, commands=("demo", "send @new MESSAGE --agent module:name")),
    "store_foreign": Advice(STORE, "It was not touched. Choose another path.", ("paths",)),
    "store_newer": Advice(STORE, "Nothing was written. Upgrade power_agent.", ("doctor",)),
    "store_changed": Advice(STORE, "Another process brought the file to a newer schema, or put another one in its place. Look at it, then run the command again.", (_DOCTOR,)),
    "store_damaged": Advice(STORE, "Restore the last backup into a new path, or save what can be saved.", ("verify", "salvage {path} NEW.db")),
    "store_on_network": Advice(STORE, "Put the store on a local disk.", ("paths",)),
    "store_read_only": Advice(STORE, "Check the owner and the mode of the file and of its directory.", ("paths", _DOCTOR)),
    "store_full": Advice(STORE, f"{_DISK} Free some space, then resume.", (_DOCTOR,)),
    "store_busy": Advice(STORE, "Another process keeps the file locked. Try again when it is done.", (_DOCTOR,)),
    "store_failed": Advice(STORE, f"{_DISK} Check the disk, then resume.", (_DOCTOR, "verify")),
    "store_closed": Advice(STORE, commands=(_DOCTOR,)),
    "store_forked": Advice(STORE, commands=(_DOCTOR,)),
}


def advice(error: PowerAgentError) -> Advice:
    """Return the advice for an error: of its own code, else of the nearest kind above it."""
    return next((ADVICE[kind.code] for kind in type(error).__mro__ if issubclass(kind, PowerAgentError) and kind.code in ADVICE), Advice())


def suggested(error: PowerAgentError) -> list[str]:
    """Spell the commands that help."""
    if "commands" in error.fields:
        return [voice.command(*words) for words in error.fields["commands"]]
    fields = {name: str(value) for name, value in error.fields.items()} | {"session": str(error.fields.get("session", "@last"))}
    return [voice.command(*(fields.get(word[1:-1], word) if word[0] == "{" else word for word in shlex.split(line))) for line in advice(error).commands]


def pid(owner: str) -> str:
    """Return the process number in an owner's name."""
    return holder(owner).removeprefix("process ")


def complain(error: PowerAgentError) -> int:
    """Say what went wrong, why, and what to type; returns the exit code."""
    told = advice(error)
    hint = error.hint if error.hint != type(error).default_hint or not told.why else told.why
    code = int(error.fields.get("exit_code", told.code))
    commands = suggested(error)
    if voice.as_json:
        fields = {name: value for name, value in error.as_dict().items() if name not in {"commands", "exit_code"}}
        voice.data({"error": {**fields, "hint": hint, "exit_code": code, "commands": commands}})
    voice.note((f"error[{error.code}]", "bold red"), f": {error.message}")
    if hint:
        voice.note(f"  {hint}")
    voice.commands("try:", commands)
    if voice.debug:
        import traceback  # noqa: PLC0415  rarely asked for

        print(safe("".join(traceback.format_exception(error)), keep="\n"), file=sys.stderr)
    return code
