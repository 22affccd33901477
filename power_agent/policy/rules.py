"""Ordered rules: the first that matches decides, a deny anywhere wins, and the verdict names the rule.

    deny          any deny rule that matches, wherever it stands
    tainted       an ask rule for sessions that saw what anybody may have written: no "always" from before counts any more
    exact         an allow rule that says this very call, as "always" makes it
    protected     what others obey is asked about
    rules         the first ask or allow rule that matches
    default       reads beneath the root are allowed, everything else is asked

A command line is judged part by part, and the strictest part is the verdict. What a pattern cannot tell never lets a call
run: an allow rule does not match then, and a deny or ask rule makes the call be asked about.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import field
from typing import Any, Literal, get_args

from pydantic import JsonValue

from power_agent.errors import BadPolicy
from power_agent.policy.commands import HIDING, CommandReader, Judged, Nature, Part
from power_agent.policy.obeyed import PROTECTED
from power_agent.policy.patterns import Argv, Exact, Glob, Guard, Pattern, beneath
from power_agent.policy.verdicts import Allow, Ask, Deny, Verdict, Wanted
from power_agent.word import Word, word

Action = Literal["allow", "ask", "deny"]
Mode = Literal["on-request", "always-ask", "never-ask", "read-only"]
"""on-request: as the rules say. always-ask: what would run is asked about. never-ask: what would be asked is denied.
read-only: whatever is not a read is denied."""


@word(kw_only=True)
class Rule(Word):
    """One rule. It matches when the tool is one of `tools` (none named: any) and every pattern in `when` matches.

    `command` is for shells: the words of a command, of which a line may run several. `only`: there are no other arguments.
    `binds`: the call depends on exactly this beside its arguments. An ask rule may say for how many `seconds` it is asked.
    `tainted`: it speaks of calls only once the model has seen words that anybody may have written.
    """

    action: Action
    tools: tuple[str, ...] = ()
    when: Mapping[str, Pattern] = field(default_factory=dict)
    command: Argv | None = None
    name: str | None = None
    reason: str | None = None
    seconds: float | None = None
    only: bool = False
    binds: Mapping[str, JsonValue] | None = None
    tainted: bool = False

    @property
    def exact(self) -> bool:
        """Whether it says one call and no other."""
        return self.only and bool(self.tools) and all(isinstance(one, Exact) for one in self.when.values())


def rule_for(wanted: Wanted) -> Rule:
    """Return the rule that "always" means: allow exactly what was shown, with nothing else beside it, in the same place."""
    when: dict[str, Pattern] = {name: Exact(value) for name, value in wanted.arguments.items()}
    return Rule(action="allow", tools=(wanted.tool,), when=when, name=f"always ({wanted.call})", only=True, binds=dict(wanted.binds))


class Rules:
    """A policy made of rules. `tools` say what they do (`nature`), beneath which `root`, and bring a `judge` of command lines.

    `natures` says it of others, `shell` judges in place of every judge that is brought, `root` is that of tools that name none. A tool
    without a nature changes the world. A command line that nobody judges is asked about.
    """

    def __init__(
        self,
        rules: Iterable[Rule] = (),
        *,
        mode: Mode = "on-request",
        tools: Iterable[object] = (),
        natures: Mapping[str, Nature] | None = None,
        shell: CommandReader | None = None,
        root: str | None = None,
        protected: Collection[str] = PROTECTED,
    ) -> None:
        if mode not in get_args(Mode):
            raise BadPolicy(f"There is no mode {mode!r}.", hint=f"The modes are: {', '.join(get_args(Mode))}.")
        self.rules = tuple(_named(rules))
        self.mode: Mode = mode
        tools = list(tools)
        self._natures = {**natures_of(tools), **(natures or {})}
        for rule in self.rules:
            self._whole_lines(rule)
        self._shell, self._judges = shell, judges_of(tools)
        self._root, self._roots = root, {name: str(place) for name, place in _brought(tools, "root")}
        self._protected = Guard(protected)

    def __repr__(self) -> str:
        return f"Rules({len(self.rules)} rules, mode={self.mode!r})"

    def __call__(self, wanted: Wanted) -> Verdict:
        """Judge a call."""
        nature = self._natures.get(wanted.tool)
        shell = nature is not None and nature.does == "shell"
        return self._in_mode(self._of_shell(wanted, nature) if shell and nature else self._of_call(wanted, nature))

    # -- a call --------------------------------------------------------------------------------------------------------

    def _of_call(self, wanted: Wanted, nature: Nature | None) -> Verdict:
        reads = nature is not None and nature.does == "reads"
        if self.mode == "read-only" and not reads:
            return self._first(wanted, "deny") or Deny(f"{wanted.tool} may change something, and this session only reads.", "read-only")
        if decided := self._first(wanted, "deny") or self._first(wanted, "ask", tainted=True) or self._exactly(wanted):
            return decided
        paths = [self._path(wanted.tool, wanted.arguments.get(name)) for name in nature.paths] if nature is not None else []
        if not reads and any(self.guarded(path) for path in paths if path is not None):
            return Ask("It changes what other programs obey.", "protected")
        if decided := self._first(wanted, "ask", "allow"):
            return decided
        if reads and None not in paths:
            return Allow("default (reads beneath the root)")
        return Ask(None, "default (reads outside the root)" if reads else "default (may change something)")

    def _whole_lines(self, rule: Rule) -> None:
        """Refuse to allow command lines by how they look: behind a good beginning anything may follow."""
        for tool, nature in self._natures.items():
            pattern = rule.when.get(nature.command)
            if rule.action == "allow" and nature.does == "shell" and (not rule.tools or tool in rule.tools) and not isinstance(pattern, Exact | None):
                raise BadPolicy(f"Rule {rule.name!r} allows command lines by their text.", hint='Name the words of a command instead: command = ["git", "push", "**"].')

    def _path(self, tool: str, value: JsonValue) -> str | None:
        """Return a path relative to the tool's root; no path means the root itself."""
        if value is None:
            return "."
        return beneath(self._relative(tool, value)) if isinstance(value, str) else None

    def _relative(self, tool: str, value: str) -> str:
        root = self._roots.get(tool) or self._root
        within = None if root is None else root.rstrip("/") + "/"
        return value[len(within) :] or "." if within is not None and f"{value}/".startswith(within) else value

    def guarded(self, path: str) -> bool:
        """Whether a path is one that others obey."""
        return self._protected.holds(path)

    # -- a command line ------------------------------------------------------------------------------------------------

    def _of_shell(self, wanted: Wanted, nature: Nature) -> Verdict:
        said = wanted.arguments.get(nature.command)
        reader = self._shell or self._judges.get(wanted.tool)
        if reader is None or not isinstance(said, str):
            judged = Judged(parts=(Part(text=str(said), reason="no grammar", why="no judge of commands was given"),))
        else:
            judged = reader(said, wanted.binds)
        plain = [self._first(wanted, "deny", command=False), *(self._denied(wanted, part) for part in judged.parts)]
        denied = next((one for one in plain if isinstance(one, Deny)), None)
        if denied:
            return denied
        if self.mode == "read-only" and not judged.harmless:
            part = next((one for one in judged.parts if one.reason is not None), None)
            return Deny(f"This session only reads, and {_because(part)}", "read-only")
        if tainted := self._asked_when_tainted(wanted, judged):
            return tainted
        if decided := self._exactly(wanted):
            return decided
        doubted = next((one for one in plain if one is not None), None)
        if doubted:
            return doubted
        verdicts = [self._of_part(wanted, part, judged.hint) for part in judged.parts]
        asked = next((one for one in verdicts if isinstance(one, Ask)), None)
        return asked or (verdicts[0] if verdicts else Ask("Nothing was found in it.", "default (syntax)"))

    def _asked_when_tainted(self, wanted: Wanted, judged: Judged) -> Verdict | None:
        if wanted.tainted is None:
            return None
        return next((found for part in judged.parts or (None,) if (found := self._first(wanted, "ask", part=part, command=None, tainted=True))), None)

    def _denied(self, wanted: Wanted, part: Part) -> Verdict | None:
        return self._first(wanted, "deny", part=part)

    def _of_part(self, wanted: Wanted, part: Part, hint: str) -> Verdict:
        question = f"{_because(part)} {hint}".rstrip() if part.reason else None
        if part.reason == "protected" or any(self.guarded(one) for one in (*part.writes, *_paths(part)) if part.reason):
            return Ask(question, "protected")
        if decided := self._first(wanted, "ask", "allow", part=part, command=None):
            return Ask(decided.question or question, decided.rule, decided.seconds) if isinstance(decided, Ask) else decided
        return Allow("default (reads beneath the root)") if part.reason is None else Ask(question, f"default ({part.reason})")

    # -- rules ---------------------------------------------------------------------------------------------------------

    def _exactly(self, wanted: Wanted) -> Verdict | None:
        return next((Allow(one.name or "always") for one in self.rules if one.action == "allow" and one.exact and self._matches(one, wanted)), None)

    def _first(self, wanted: Wanted, *actions: Action, part: Part | None = None, command: bool | None = None, tainted: bool = False) -> Verdict | None:
        """Return what the first rule of these actions says; `command` False looks at rules without one, None at all; `tainted` only
        at rules about sessions that are.
        """
        doubt: Verdict | None = None
        for rule in self.rules:
            if rule.action not in actions or (command is False and rule.command is not None) or (tainted and not rule.tainted):
                continue
            matches = self._matches(rule, wanted, part)
            if matches:
                return doubt if rule.action == "allow" and doubt is not None else _verdict(rule, wanted)
            if matches is None and rule.action != "allow" and doubt is None:
                doubt = Ask(f"It cannot be told whether rule {rule.name!r} speaks of this.", rule.name or rule.action, rule.seconds)
                if "deny" not in actions:
                    return doubt
        return doubt

    def _matches(self, rule: Rule, wanted: Wanted, part: Part | None = None) -> bool | None:
        """Say whether a rule speaks of this call, or of this part of its command line; None: it cannot be told."""
        if (rule.tools and wanted.tool not in rule.tools) or (rule.tainted and wanted.tainted is None):
            return False
        if rule.only and (rule.when.keys() != wanted.arguments.keys() or (rule.binds is not None and not Exact(dict(rule.binds)).matches(dict(wanted.binds)))):
            return False
        loosely = rule.action != "allow"
        answers: list[bool | None] = [self._holds(pattern, wanted.tool, wanted.arguments.get(name), loosely=loosely) for name, pattern in rule.when.items()]
        if rule.command is not None:
            answers.append(_runs(rule.command, part, loosely=loosely))
        if False in answers:
            return False
        return None if None in answers else True

    def _holds(self, pattern: Pattern, tool: str, value: JsonValue, *, loosely: bool) -> bool | None:
        if isinstance(pattern, Glob) and isinstance(value, str):
            value = self._relative(tool, value)
        if isinstance(value, list) and not isinstance(pattern, Exact):
            answers = [self._holds(pattern, tool, one, loosely=loosely) for one in value]
            if loosely:
                return True if True in answers else (None if None in answers else False)
            return bool(answers) and all(answers)
        return pattern.matches(value, loosely=loosely)

    def _in_mode(self, verdict: Verdict) -> Verdict:
        if self.mode == "always-ask" and isinstance(verdict, Allow):
            return Ask(None, f"always-ask ({verdict.rule})")
        if self.mode == "never-ask" and isinstance(verdict, Ask):
            return Deny(f"It would have to be asked about, and nobody is asked here. {verdict.question or ''}".rstrip(), f"never-ask ({verdict.rule})")
        return verdict


def natures_of(tools: Iterable[object]) -> dict[str, Nature]:
    """Collect what the tools say about themselves."""
    found = {}
    for one in tools:
        nature, spec = getattr(one, "nature", None), getattr(one, "spec", None)
        if isinstance(nature, Nature) and spec is not None:
            found[str(spec.name)] = nature
    return found


def judges_of(tools: Iterable[object]) -> dict[str, CommandReader]:
    """Collect who judges the command lines of those that are shells."""
    tools = list(tools)
    shells = {name for name, nature in natures_of(tools).items() if nature.does == "shell"}
    return {name: judge for name, judge in _brought(tools, "judge") if name in shells}


def _brought(tools: Iterable[object], what: str) -> Iterator[tuple[str, Any]]:
    """Yield what tools bring beside their nature."""
    for one in tools:
        for name in natures_of([one]):
            if (found := getattr(one, what, None)) is not None:
                yield name, found


def _named(rules: Iterable[Rule]) -> Iterator[Rule]:
    """Give each rule a name, and refuse those that could never do what they say."""
    for number, rule in enumerate(rules, 1):
        if rule.action not in get_args(Action):
            raise BadPolicy(f"Rule {number} has no action {rule.action!r}.", hint=f"The actions are: {', '.join(get_args(Action))}.")
        if rule.seconds is not None and (rule.action != "ask" or not 0 < rule.seconds < float("inf")):
            raise BadPolicy(f"Rule {number} has a deadline it cannot have.", hint="seconds is more than 0, and for ask rules only.")
        if rule.tainted and rule.action == "allow":
            raise BadPolicy(f"Rule {number} allows what it calls tainted.", hint="Ask or deny then; what is allowed otherwise needs no word about it.")
        for pattern in (*rule.when.values(), *([rule.command] if rule.command else [])):
            check: Callable[[], None] | None = getattr(pattern, "check", None)
            if check is not None:
                check()
        values = {name: getattr(rule, name) for name in ("action", "tools", "when", "command", "reason", "seconds", "only", "binds", "tainted")}
        yield Rule(**values, name=rule.name or f"{rule.action} #{number}")


def _runs(wanted: Argv, part: Part | None, *, loosely: bool) -> bool | None:
    """Say whether a part runs such a command. A rule that allows lifts only what nothing but the program is in question of."""
    if part is None:
        return False
    if not loosely:
        return bool(part.argv) and (part.liftable or part.reason is None) and wanted.fits(part.argv)
    fits = wanted.fits(part.argv, loosely=True) if part.argv else False
    return None if fits is False and (part.hides or part.reason in HIDING) else fits


def _paths(part: Part) -> Iterator[str]:
    """Yield what may be a path among the words of a command."""
    for one in part.argv[1:]:
        if one:
            for piece in one.replace("=", ":").split(":"):
                yield beneath(piece) or piece


def _because(part: Part | None) -> str:
    return "nothing was found in it." if part is None else f"{part.text!r}: {part.why or part.reason}."


def _verdict(rule: Rule, wanted: Wanted) -> Verdict:
    name = rule.name or rule.action
    since = f"The model has read what anybody may have written: {wanted.tainted}." if rule.tainted else ""
    if rule.action == "deny":
        return Deny(rule.reason or since or f"Rule {name!r} forbids it.", name)
    return Ask(" ".join(filter(None, (rule.reason, since))) or None, name, rule.seconds) if rule.action == "ask" else Allow(name)
