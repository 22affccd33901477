"""An agent that nobody wrote code for: made from what `power-agent.toml` says of its model, tools, policy and limits.

    toolboxes = ["files", "web", "todo", "person"]
                                                what this package brings; [files] says beneath which root, and what more to protect; [web]
                                                which hosts inside may be visited, and what searches; [tool_search] what of many is shown
    tools = ["bot:refund"]                      functions of one's own
    policy = "policy.toml" | "bot:policy"       or a table [policy] with mode and rules
    [secrets]                                   github = "GITHUB_TOKEN": the variable that holds it; hidden wherever it appears
    secret_patterns = false                     hide nothing that only looks like a secret

Without a policy the toolboxes' reads run and their changes are asked about; one's own functions run. With one it judges every tool,
and a tool of which it knows nothing is asked about.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from power_agent.cli.code import load
from power_agent.cli.config import Settings, close
from power_agent.errors import BadPolicy, ConfigError, InvalidInput, ModelError
from power_agent.finding import ToolSearch
from power_agent.limits import Limits, possible
from power_agent.loop import StatefulAgentLoop
from power_agent.policy import Policy, own_rules
from power_agent.policy.rules import natures_of
from power_agent.ports import Glimpse, Model, ModelReply, ModelRequest, Tool
from power_agent.secrets import Secrets
from power_agent.tools import Toolbox

if TYPE_CHECKING:
    from power_agent.tools.mcp import MCPServers

OURS = "python:"
TOOLBOXES = ("files", "web", "todo", "person")


class Nameplate:
    """A model of which only the name matters: whoever replays asks none, and needs no key."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def ask(self, request: ModelRequest, glimpse: Glimpse) -> ModelReply:  # noqa: ARG002  a model's signature
        """Refuse."""
        raise ModelError("This command asks no model.")


def described(settings: Settings, servers: MCPServers | None = None, *, asks: bool = True) -> StatefulAgentLoop:
    """Build an agent from its description, of which a model is the least; `servers` are open."""
    own: list[Any] = []
    for spec in settings.get("tools") or ():
        found = load(spec, settings.folder("tools"))
        own += found if isinstance(found, list | tuple) else [found]
    brought = _toolboxes(settings)
    prices = _prices(settings)
    summary = settings.get("models.summary")
    return StatefulAgentLoop(
        _model("model", settings, prices, asks=asks),
        models=None if summary is None else {"summary": _model("models.summary", settings, prices, asks=asks)},
        tools=[*brought, *own, *([servers] if servers is not None else [])],
        store=settings.store,
        system=settings.get("system"),
        limits=_limits(settings),
        policy=_policy(settings, brought, list(Toolbox(own)), servers),
        tool_search=_tool_search(settings),
        settings=settings.table("settings"),
        durability=settings.get("durability"),
        secrets=Secrets(settings.secrets(all_of_them=asks), patterns=settings.get("secret_patterns") is not False),
    )


def _model(key: str, settings: Settings, prices: Any, *, asks: bool) -> Model:
    name = settings.get(key)
    if name.startswith(OURS):
        return load(name.removeprefix(OURS), settings.folder(key))  # type: ignore[no-any-return]
    if not asks:
        return Nameplate(name)
    from power_agent.models.named import model  # noqa: PLC0415  only who asks one needs the wire

    try:
        return model(name, prices=prices)
    except InvalidInput as error:
        stated = settings.find(key)
        raise ConfigError(f"{stated.origin if stated else key}: {error.message}", hint=error.hint, key=key, commands=[("models",)]) from error


def _prices(settings: Settings) -> Any:
    """Return what models cost and hold: from the file that `prices` names, with what the table [prices] says of single ones over it."""
    from power_agent.models.prices import entries  # noqa: PLC0415  only an agent that is described has prices here

    named, table = settings.get("prices"), settings.table("prices")
    said: dict[str, Any] = {}
    for key, source in (("prices", None if named is None else settings.folder("prices") / Path(named).expanduser()), (next(iter(table), ""), table or None)):
        try:
            said |= entries(source)
        except InvalidInput as error:
            stated = settings.find(key) or settings.find(f"prices.{key}")
            raise ConfigError(f"{stated.origin if stated else 'prices'}: {error.message}", hint=error.hint, key="prices") from error
    return said or None


# -- what it may call --------------------------------------------------------------------------------------------------


def _toolboxes(settings: Settings) -> list[Tool]:
    """Return the tools of this package that were asked for."""
    named = list(settings.get("toolboxes") or ())
    for name in named:
        if name not in TOOLBOXES:
            near, stated = close(name, TOOLBOXES), settings.find("toolboxes")
            hint = f"Did you mean {near}?" if near else f"There are: {', '.join(TOOLBOXES)}."
            raise ConfigError(f"{stated.origin if stated else 'toolboxes'}: there is no toolbox {name!r}.", hint=hint, key="toolboxes")
    switch, table = settings.find("files"), settings.table("files")
    if switch is not None and not settings.get("files"):
        named = [name for name in named if name != "files"]
    elif switch is not None or table:
        named.append("files")
    if settings.table("web"):
        named.append("web")
    tools: list[Tool] = []
    for name in dict.fromkeys(named):
        if name == "files":
            tools += _files(settings, table)
        elif name == "web":
            tools += _web(settings)
        elif name == "todo":
            from power_agent.tools.todo import todo  # noqa: PLC0415  only who wants it

            tools.append(todo)
        else:
            from power_agent.tools.person import ask_person  # noqa: PLC0415  the same

            tools.append(ask_person)
    return tools


def _files(settings: Settings, table: dict[str, Any]) -> list[Tool]:
    """Return the file tools. What the agent remembers and obeys is not theirs to write, whatever it is called."""
    from power_agent.tools.files import files  # noqa: PLC0415  only who wants them

    store, policy = Path(settings.store).name, str(settings.get("policy") or "")
    ours = [store, f"{store}-*", *([Path(policy).name] if policy.endswith(".toml") else [])]
    try:
        return list(files(root(settings), protect=[*ours, *table.get("protect", ())], ignore=table.get("ignore", True)))
    except InvalidInput as error:
        stated = settings.find("files.root")
        raise ConfigError(f"{stated.origin if stated else 'files'}: {error.message}", hint=error.hint, key="files.root") from error


def _web(settings: Settings) -> list[Tool]:
    from power_agent.tools.web import web  # noqa: PLC0415  only who wants it

    table = settings.table("web")
    try:
        return list(web(allow=table.get("allow", ()), refuse=table.get("refuse", ()), search=table.get("search")))
    except InvalidInput as error:
        origins = [stated.origin for key, stated in settings.items() if key.startswith("web.")]
        raise ConfigError(f"{origins[0] if origins else 'web'}: {error.message}", hint=error.hint, key="web") from error


def _tool_search(settings: Settings) -> ToolSearch:
    table, usual = settings.table("tool_search"), ToolSearch()
    above = {name: int(table.get(name, getattr(usual, name))) for name in ("above_tools", "above_tokens")}
    return ToolSearch(always=tuple(table.get("always", ())), **above)


def root(settings: Settings) -> str:
    """Return the directory beneath which file tools work: the one that is named, else the project's, else this one."""
    project = settings.project.parent if settings.project is not None else Path.cwd()
    named = settings.get("files.root")
    return str(settings.folder("files.root") / Path(named).expanduser() if named else project)


# -- what it may do ----------------------------------------------------------------------------------------------------


def _policy(settings: Settings, brought: list[Tool], own: list[Tool], servers: MCPServers | None) -> Policy | None:
    """Return the policy; with servers of others a wary one, which asks about tools that are not what they were."""
    if servers is None:
        return _stated(settings, brought, own)
    stated = _stated(settings, [*brought, *servers.tools], own)
    return servers.wary(own_rules(Toolbox([*brought, *own, servers])) if stated is None else stated)


def _stated(settings: Settings, brought: list[Tool], own: list[Tool]) -> Policy | None:
    said, rules = settings.find("policy"), settings.find("policy.rules")
    if said is not None and rules is not None:
        raise ConfigError(f"The policy is said twice: {said.origin} and {rules.origin}.", hint="Leave one of them out.", key="policy")
    named, mode = settings.get("policy"), settings.get("policy.mode")
    if named is not None and not named.endswith(".toml"):
        if mode is not None:
            raise ConfigError("policy.mode is for rules; this policy is code.", hint="Leave it out, or write the policy as rules.", key="policy.mode")
        return load(named, settings.folder("policy"))  # type: ignore[no-any-return]
    if named is None and rules is None and mode is None and not brought:
        return None
    from power_agent.policy.loading import load_policy  # noqa: PLC0415  only who has one

    source: Any = {"policy": {"rules": settings.get("policy.rules") if rules is not None else _allowed(own) if mode is None else []}}
    where = rules.origin if rules is not None else "policy"
    if named is not None:
        path = settings.folder("policy") / Path(named).expanduser()
        source, where = _text(path), str(path)
    try:
        return load_policy(source, [*brought, *own], root=str(Path(root(settings)).resolve()), mode=mode)
    except BadPolicy as error:
        raise BadPolicy(f"{where}: {error.message}", hint=error.hint) from error


def _allowed(own: list[Tool]) -> list[dict[str, Any]]:
    """Return the rule that lets one's own functions run where nothing else was said; those that say what they do are judged by it."""
    names = [tool.spec.name for tool in own if tool.spec.name not in natures_of([tool])]
    return [{"action": "allow", "tools": names, "name": "own functions"}] if names else []


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        near = close(path.name, [one.name for one in path.parent.glob("*.toml")]) if path.parent.is_dir() else None
        raise ConfigError(f"The policy {path} cannot be read: {error.strerror}.", hint=f"Did you mean {near}?" if near else "Check the path.", key="policy") from error
    except UnicodeDecodeError as error:
        raise BadPolicy(f"{path} is not UTF-8 text.", hint="Save it as UTF-8.") from error


def _limits(settings: Settings) -> Limits:
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415  only an agent that is described has limits here

    values = settings.table("limits")
    try:
        return possible(TypeAdapter(Limits).validate_python(values))
    except ValidationError as error:
        wrong = error.errors()[0]
        raise _no_limit(settings, wrong["loc"][0] if wrong["loc"] else "", f"{wrong['msg']}.", "Mend it there, or set it with --set.") from error
    except InvalidInput as error:
        raise _no_limit(settings, error.fields["limit"], error.message, error.hint) from error


def _no_limit(settings: Settings, name: object, wrong: str, hint: str) -> ConfigError:
    found = settings.find(f"limits.{name}")
    return ConfigError(f"{found.origin if found else 'limits'}: limits.{name}: {wrong}", hint=hint, key=f"limits.{name}")
