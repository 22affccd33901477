"""What is set, and who set it: flag > environment > project file > user file > default.

The project file is the nearest `power-agent.toml` at or above the working directory; paths in it start at its folder. A key nobody
knows is an error, because a misspelt limit is no limit. `${VAR}` is filled in when a value is used and never when it is shown, so that
`config show` holds no secret.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from power_agent.errors import ConfigError
from power_agent.limits import Limits

FILE = "power-agent.toml"
KINDS: dict[str, str] = {
    "agent": "text",
    "model": "text",
    "models.main": "text",
    "models.summary": "text",
    "prices": "text",
    "system": "text",
    "tools": "texts",
    "toolboxes": "texts",
    "files": "switch",
    "files.root": "text",
    "files.protect": "texts",
    "files.ignore": "switch",
    "web.allow": "texts",
    "web.refuse": "texts",
    "web.search": "text",
    "tool_search.always": "texts",
    "tool_search.above_tools": "number",
    "tool_search.above_tokens": "number",
    "policy": "text",
    "policy.mode": "text",
    "policy.rules": "tables",
    "mcp.file": "text",
    "mcp.servers": "tables",
    "store": "text",
    "durability": "text",
    "secret_patterns": "switch",
    **{f"limits.{field.name}": "number" for field in fields(Limits)},
}
TABLES = ("limits", "settings", "policy", "files", "models", "prices", "web", "tool_search", "mcp", "secrets")
ALIASES = {"models.main": "model"}
DEFAULTS = {"store": "power-agent.db", "durability": "full"}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VARIABLE = re.compile(r"\$(\$)?\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


class Setting(NamedTuple):
    """A value as it was written, who wrote it, and the folder that paths in it start from."""

    value: Any
    origin: str
    folder: Path


class Settings:
    """All settings of one command, the strongest source of each."""

    def __init__(self, flags: Mapping[str, Any] | None = None, assignments: Sequence[str] = ()) -> None:
        here = Path.cwd()
        self.project = find_project(here)
        self.user = user_file()
        self._found: dict[str, Setting] = {key: Setting(value, "default", here) for key, value in DEFAULTS.items()}
        try:
            for path, origin in ((self.user, "user file"), (self.project, "project file")):
                if path is not None and path.is_file():
                    self._take(read_file(path), f"{origin} {path}", path.parent)
            self._take(_of_environment(), "", here)
        except ConfigError as error:
            error.fields.setdefault("commands", [("errors", error.code)])  # what shows the settings would read the same, and fail the same way
            raise
        self._take(dict(map(_assigned, assignments)), "flag --set", here)
        for key, value in (flags or {}).items():
            if value is not None:
                self._found[key] = Setting(value, f"flag --{key}", here)

    def _take(self, values: Mapping[str, Any], origin: str, folder: Path) -> None:
        for said, value in values.items():
            where = origin or f"environment {variable(said)}"
            key = ALIASES.get(said, said)
            if key != said and key in values:
                raise ConfigError(f"{where}: {said} and {key} are the same.", hint="Leave one of them out.", key=said)
            self._found[key] = Setting(_checked(key, value, where), where, folder)

    def items(self) -> list[tuple[str, Setting]]:
        """Return what is set, in the order of the keys."""
        order = list(KINDS)
        return sorted(self._found.items(), key=lambda item: (order.index(item[0]) if item[0] in order else len(order), item[0]))

    def find(self, key: str) -> Setting | None:
        """Return a setting as it was written."""
        return self._found.get(key)

    def get(self, key: str) -> Any:
        """Return a value ready for use, or None."""
        found = self._found.get(key)
        return None if found is None else _filled(found.value, key, found.origin)

    def table(self, name: str) -> dict[str, Any]:
        """Return all values below a name."""
        return {key.removeprefix(f"{name}."): self.get(key) for key in self._found if key.startswith(f"{name}.")}

    def secrets(self, *, all_of_them: bool = True) -> dict[str, str]:
        """Return the secrets that the settings name, from the environment; where all of them are needed, one that is missing is an error."""
        found = {}
        for key in [key for key in self._found if key.startswith("secrets.")]:
            stated = self._found[key]
            value = os.environ.get(stated.value)
            if value:
                found[key.removeprefix("secrets.")] = value
            elif all_of_them:
                raise ConfigError(f"{stated.origin}: {key} names the variable {stated.value}, which is not set.", hint=f"Set it: export {stated.value}=…", key=key)
        return found

    def unnamed(self) -> tuple[str, ...]:
        """Return what has to be added to a command that needs an agent, as long as the settings know none."""
        return () if self.find("agent") or self.find("model") else ("--agent", "MODULE:NAME")

    def folder(self, key: str) -> Path:
        """Return where paths and modules in a setting start."""
        found = self._found.get(key)
        return found.folder if found is not None else Path.cwd()

    @property
    def store(self) -> str:
        """Where the store is; relative to the file that says so."""
        value = str(self.get("store"))
        return value if value == ":memory:" else str((self._found["store"].folder / Path(value).expanduser()).absolute())


def variable(key: str) -> str:
    """Return the name of the environment variable that sets a key."""
    return f"POWER_AGENT_{key.upper().replace('.', '_')}"


def find_project(folder: Path) -> Path | None:
    """Return the nearest project file at or above a folder."""
    return next((place / FILE for place in (folder, *folder.parents) if (place / FILE).is_file()), None)


def user_file() -> Path:
    """Return where a person's own settings are, whether they are there or not."""
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "power-agent" / "config.toml"


def read_file(path: Path) -> dict[str, Any]:
    """Read a file into flat keys."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}.", hint="Mend the line that it names.", path=str(path)) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.", hint="Check its owner and mode.", path=str(path)) from error
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if key in TABLES and isinstance(value, dict):
            flat |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            flat[key] = value
    return flat


def _of_environment() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, kind in KINDS.items():
        text = os.environ.get(variable(key))
        if text:
            found[key] = _parsed(text, kind)
    return found


def _assigned(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set wants KEY=VALUE, not {text!r}.", hint="For example: --set limits.max_rounds_per_turn=20")
    return key.strip(), _parsed(value.strip(), KINDS.get(key.strip(), "any"))


def _parsed(text: str, kind: str) -> Any:
    if kind == "texts" and not text.startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    if kind == "text":
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _checked(key: str, value: Any, origin: str) -> Any:
    """Return the value if the key is known and may have it."""
    kind = KINDS.get(key)
    if kind is None and (key.startswith("settings.") or (key.startswith("prices.") and isinstance(value, dict))):
        return value
    if kind is None and key.startswith("secrets."):
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            raise ConfigError(
                f"{origin}: {key} wants the name of a variable of the environment.", hint='For example: github = "GITHUB_TOKEN". A secret itself has no place in a file.', key=key
            )
        return value
    if kind is None:
        near = close(key, [*KINDS, "settings"])
        hint = f"Did you mean {near}?" if near else f"The keys are: {', '.join(one for one in KINDS if '.' not in one)}, limits, settings."
        raise ConfigError(f"{origin}: there is no setting {key!r}.", hint=hint, key=key)
    fits = {
        "text": isinstance(value, str),
        "texts": isinstance(value, list) and all(isinstance(item, str) for item in value),
        "number": isinstance(value, int | float) and not isinstance(value, bool),
        "switch": isinstance(value, bool),
        "tables": isinstance(value, list) and all(isinstance(item, dict) for item in value),
    }[kind]
    if not fits:
        wanted = {"text": "a text", "texts": "a list of texts", "number": "a number", "switch": "true or false", "tables": "a list of tables"}[kind]
        raise ConfigError(f"{origin}: {key} wants {wanted}, not {value!r}.", hint="Mend it there, or set it with --set.", key=key)
    if key == "durability" and "$" not in value and value not in {"full", "normal"}:
        raise ConfigError(f"{origin}: durability is full or normal, not {value!r}.", hint="full survives power loss, normal only the death of the process.", key=key)
    return value


def _filled(value: Any, key: str, origin: str) -> Any:
    """Put variables of the environment in their places."""
    if isinstance(value, list):
        return [_filled(item, key, origin) for item in value]
    if isinstance(value, dict):
        return {name: _filled(item, key, origin) for name, item in value.items()}
    if not isinstance(value, str):
        return value

    def fill(found: re.Match[str]) -> str:
        if found[1]:
            return found[0][1:]
        content = os.environ.get(found[2], found[3])
        if content is None:
            raise ConfigError(f"{origin}: {key} needs ${{{found[2]}}}, which is not set.", hint=f"Set it: export {found[2]}=…, or write ${{{found[2]}:-a default}}.", key=key)
        return content

    return _VARIABLE.sub(fill, value)


def close(word: str, known: Iterable[str]) -> str | None:
    """Return what somebody may have meant."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return found[0] if found else None
