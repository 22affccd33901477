"""A policy as a table: read from TOML, checked as a whole, and refused with a suggestion where anything in it is not known.

    [policy]
    mode = "on-request"

    [[policy.rules]]
    action = "deny"
    tools = ["write", "edit"]
    when = { path = { glob = "migrations/**" } }
    reason = "Migrations are written by people."

    [[policy.rules]]
    action = "allow"
    tools = ["bash"]
    command = ["pytest", "**"]

    [[policy.rules]]
    action = "ask"
    tools = ["post"]
    when = "tainted"          # or tainted = true beside a table of patterns: once the model has read what anybody may have written

`README.md` beside this file describes the language. The text is read by whoever has a disk; here it is only understood.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, get_args

from power_agent.errors import BadPolicy
from power_agent.policy.commands import CommandReader, Nature
from power_agent.policy.patterns import Argv, Domain, Exact, Glob, Pattern, Prefix, Regex
from power_agent.policy.rules import Action, Mode, Rule, Rules, judges_of, natures_of
from power_agent.ports import Tool

LOOKS = ("recall_search", "recall_read", "search_tools")
"""The loop's own tools. They look into the session's own log, and at which tools there are."""
KINDS: dict[str, Callable[[Any], Pattern]] = {"exact": Exact, "prefix": Prefix, "regex": Regex, "glob": Glob, "domain": Domain}
KEYS = ("mode", "rules")
RULE_KEYS = ("action", "tools", "when", "command", "name", "reason", "seconds", "only", "binds", "tainted")
TAINTED = "tainted"


def load_policy(source: str | Mapping[str, Any], tools: Iterable[Tool], *, shell: CommandReader | None = None, root: str | None = None, mode: Mode | None = None) -> Rules:
    """Make a policy for these tools from the text of a TOML file or from its table; `mode` overrides the one written there.

    The tools say what they do, beneath which root, and who judges their command
    lines; `shell` judges in place of those, `root` is that of tools that name none. Raises `BadPolicy` for every tool, argument,
    action, pattern and key that does not exist, and for words of a command that nobody could find in a line.
    """
    table = _table(source)
    known = {_made(tool).spec.name: tool for tool in tools}
    looks = {name: Nature(does="reads") for name in LOOKS if name not in known}
    natures = natures_of(known.values())
    judged = natures.keys() if shell is not None else judges_of(known.values()).keys()
    _keys(table, KEYS, "the policy")
    chosen = table.get("mode", "on-request") if mode is None else mode
    _one_of(chosen, get_args(Mode), "mode", "the policy")
    written = table.get("rules", [])
    if not isinstance(written, list):
        raise BadPolicy("The rules are not a list.", hint="Begin each rule with [[policy.rules]].")
    rules = [_rule(one, f"rule {number}", known, natures, judged) for number, one in enumerate(written, 1)]
    return Rules(rules, mode=chosen, tools=known.values(), natures=looks, shell=shell, root=root)


def _made(tool: Tool) -> Tool:
    """Return a tool; a plain function, which a loop would make one, has no description yet that rules could be checked against."""
    if not hasattr(tool, "spec"):
        name = getattr(tool, "__name__", repr(tool))
        raise BadPolicy(f"{name} is no tool.", hint=f"Write @tool above {name}, and pass what that makes to the policy and to the loop.")
    return tool


def _table(source: str | Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what stands under `policy`; a file without it is no policy, and is not taken for an empty one."""
    if isinstance(source, str):
        try:
            source = tomllib.loads(source)
        except tomllib.TOMLDecodeError as error:
            raise BadPolicy(f"The policy is not TOML: {error}", hint="Mend the line it names.") from error
    table = source.get("policy")
    if not isinstance(table, Mapping):
        raise BadPolicy("There is no table [policy].", hint=_hint("policy", source.keys()) or "Begin it with [policy].")
    return table


def _rule(written: object, where: str, tools: Mapping[str, Tool], natures: Mapping[str, Nature], judged: Collection[str]) -> Rule:
    if not isinstance(written, Mapping):
        raise BadPolicy(f"{where} is not a table.", hint="Begin it with [[policy.rules]].")
    _keys(written, RULE_KEYS, where)
    if "action" not in written:
        raise BadPolicy(f"{where} has no action.", hint=f"Say one of: {', '.join(get_args(Action))}.")
    _one_of(written["action"], get_args(Action), "action", where)
    named = _texts(written.get("tools", []), "tools", where)
    for name in named:
        _one_of(name, tools, "tool", where)
    if "tools" in written and not named:
        raise BadPolicy(f"{where} names no tool.", hint="Leave tools out to mean all of them.")
    meant = named or tuple(tools)
    written = _spelled(written)
    when = written.get("when", {})
    if not isinstance(when, Mapping) or ("when" in written and not when):
        raise BadPolicy(f"In {where}, when is no table of patterns.", hint='Write when = { path = { glob = "src/**" } }, or when = "tainted".')
    for argument in when:
        for name in meant:
            _one_of(argument, _arguments(tools[name]), f"argument of {name}", where)
    command = _command(written["command"], where, meant, natures, judged) if "command" in written else None
    _typed(written, where)
    more = {name: written[name] for name in ("name", "reason", "seconds", "only", "binds", "tainted") if name in written}
    return Rule(action=written["action"], tools=named, when={name: _pattern(one, f"{where}, {name}") for name, one in when.items()}, command=command, **more)


def _command(written: object, where: str, meant: Collection[str], natures: Mapping[str, Nature], judged: Collection[str]) -> Argv:
    """Return the words of a command; every tool that is meant must be a shell whose lines somebody can take apart."""
    shells = [name for name in meant if name in natures and natures[name].does == "shell"]
    if len(shells) < len(meant):
        raise BadPolicy(f"In {where}, command is for shells.", hint=f"Name the shell: tools = {shells or ['bash']}.")
    for name in shells:
        if name not in judged:
            raise BadPolicy(f"In {where}, nobody judges the command lines of {name}.", hint="Take the tools of shell(), or pass a judge: load_policy(…, shell=ShellJudge()).")
    return Argv(_texts(written, "command", where))


def _spelled(written: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a rule whose `when` is a table of patterns, if it has one."""
    if written.get("when") != TAINTED:
        return written
    return {name: value for name, value in written.items() if name != "when"} | {"tainted": True}


def _typed(written: Mapping[str, Any], where: str) -> None:
    kinds: dict[str, tuple[type, ...]] = {"name": (str,), "reason": (str,), "seconds": (int, float), "only": (bool,), "tainted": (bool,), "binds": (Mapping,)}
    for name, kind in kinds.items():
        if name in written and (not isinstance(written[name], kind) or (name == "seconds" and isinstance(written[name], bool))):
            raise BadPolicy(f"In {where}, {name} is {written[name]!r}.", hint=f"It is a {kind[-1].__name__}.")


def _pattern(written: object, where: str) -> Pattern:
    """Make the one pattern that a table names; a plain value means exactly that value."""
    if not isinstance(written, Mapping):
        return _exact(written, where)
    if len(written) != 1:
        raise BadPolicy(f"{where} has {len(written)} patterns.", hint=f"Write one of: {', '.join(KINDS)}.")
    ((kind, value),) = written.items()
    _one_of(kind, KINDS, "pattern", where)
    if kind != "exact" and not isinstance(value, str):
        raise BadPolicy(f"{where}: {kind} is {value!r}, which is no text.", hint="Put it in quotes.")
    return _exact(value, where) if kind == "exact" else KINDS[kind](value)


def _exact(value: Any, where: str) -> Exact:
    try:
        json.dumps(value)
    except TypeError as error:
        raise BadPolicy(f"{where}: {value!r} is nothing that a model can say.", hint="Put it in quotes.") from error
    return Exact(value)


def _arguments(tool: Tool) -> Collection[str]:
    properties = tool.spec.parameters.get("properties", {})
    return properties.keys() if isinstance(properties, Mapping) else ()


def _texts(written: object, what: str, where: str) -> tuple[str, ...]:
    if not isinstance(written, list) or not all(isinstance(one, str) for one in written):
        raise BadPolicy(f"In {where}, {what} is no list of texts.", hint=f'Write {what} = ["…"].')
    return tuple(written)


def _keys(table: Mapping[str, Any], known: Collection[str], where: str) -> None:
    for key in table:
        _one_of(key, known, "key", where)


def _one_of(name: object, known: Iterable[str], what: str, where: str) -> None:
    names = list(known)
    if name not in names:
        raise BadPolicy(f"In {where} there is no {what} {name!r}.", hint=_hint(str(name), names) or f"There are: {', '.join(names) or 'none'}.")


def _hint(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {close[0]!r}?" if close else ""
