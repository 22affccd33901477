"""A system prompt put together from slots, and from the instructions that a project keeps beside its code (`AGENTS.md`)."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from pathlib import Path

from power_agent.errors import InvalidInput
from power_agent.limits import MAX_PROJECT_BYTES

INSTRUCTIONS = "AGENTS.md"


def system_prompt(
    *,
    role: str = "",
    guidelines: str | Iterable[str] = (),
    style: str = "",
    extra: str = "",
    project: str | PathLike[str] | None = None,
) -> str:
    """Return a system prompt: who it is, how it works, how it writes, what the project says, and what else there is.

    Args:
        role: Who the agent is and what it is for; stands first, without a heading.
        guidelines: Rules it works by, one text or one line each.
        style: How it writes.
        extra: Anything else; stands last.
        project: A directory; the AGENTS.md of it and of the directories above it, up to the one with the repository in it, are included.
    """
    rules = guidelines if isinstance(guidelines, str) else "\n".join(f"- {rule}" for rule in guidelines)
    slots = (("", role), ("Guidelines", rules), ("Style", style), ("Project instructions", project_instructions(project) if project is not None else ""), ("", extra))
    return "\n\n".join(f"# {name}\n\n{text.strip()}" if name else text.strip() for name, text in slots if text.strip())


def project_instructions(directory: str | PathLike[str]) -> str:
    """Return what the AGENTS.md files of a project say, outermost first, so that the nearest has the last word."""
    here = Path(directory).resolve()
    if not here.is_dir():
        raise InvalidInput(f"There is no directory {str(directory)!r}.", hint="Pass the directory that the agent works in.")
    found = []
    for folder in _upwards(here):
        file = folder / INSTRUCTIONS
        if file.is_file():
            found.append(f"From {file}:\n\n{_text(file).strip()}")
    return "\n\n".join(reversed(found))


def _upwards(here: Path) -> list[Path]:
    """Return a directory and those above it, up to the repository's; outside of one only itself."""
    folders = [here, *here.parents]
    for place, folder in enumerate(folders):
        if (folder / ".git").exists():
            return folders[: place + 1]
    return [here]


def _text(file: Path) -> str:
    with file.open("rb") as opened:
        content = opened.read(MAX_PROJECT_BYTES + 1)
    text = content[:MAX_PROJECT_BYTES].decode(errors="replace")
    return text if len(content) <= MAX_PROJECT_BYTES else f"{text}\n[… the rest was left out: more than {MAX_PROJECT_BYTES} bytes …]"
