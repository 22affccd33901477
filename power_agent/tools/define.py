"""A Python function as a tool: `@tool`, or just the function.

The schema comes from the type hints, the descriptions from the docstring (`Args:` or `:param x:`). A parameter annotated with
`ToolContext` is filled in and not shown to the model. Async functions run in the event loop; others in a daemon thread of
their own, because a thread cannot be killed and must not keep the process from ending.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Annotated, Any, TypeVar, cast, get_type_hints, overload
from weakref import WeakValueDictionary

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, create_model

from power_agent.errors import BadArguments, InvalidInput
from power_agent.events import Recovery
from power_agent.givens import is_number, listed, name_of, yields
from power_agent.messages import restored
from power_agent.policy.commands import Nature
from power_agent.ports import DidNotHappen, Happened, ProbeAnswer, ToolContext, ToolSpec, Unknown

__all__ = ["DidNotHappen", "FunctionTool", "Happened", "Probe", "Unknown", "tool"]

Probe = Callable[[Mapping[str, Any], ToolContext], "ProbeAnswer | Awaitable[ProbeAnswer]"]
"""Finds out whether a call that may have run did: asked with the arguments and the context of the doubted attempt."""

LEGAL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
RECOVERIES = ("rerun", "keyed", "ask")
PREFIX = "arg_"
"""Set before the names of parameters in the model, so that a parameter may be called `json` or `_x`."""
LIVING: WeakValueDictionary[str, threading.Thread] = WeakValueDictionary()
"""The threads of calls by idempotency key, so that what was left behind is not begun a second time beside itself."""
F = TypeVar("F", bound=Callable[..., Any])


class FunctionTool:
    """A function and what was promised about it. `nature` says what its calls do to the world; a kind of tool may say it for all."""

    nature: Nature | None = None
    reads_untrusted: bool | Callable[[Mapping[str, JsonValue]], bool] = False
    """Whether what its calls return, or what one with these arguments does, may have been written by anybody."""
    foreign = False
    """Whether strangers wrote its name and description."""

    def __init__(  # noqa: PLR0913  what may be promised
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        description: str | None = None,
        recovery: Recovery = "ask",
        probe: Probe | None = None,
        seconds: float | None = None,
        external: bool = False,
        nature: Nature | None = None,
        secrets: Iterable[str] = (),
        reads_untrusted: bool | Callable[[Mapping[str, JsonValue]], bool] = False,
    ) -> None:
        _check_promises(description, probe, seconds, nature)
        self.secrets = _names(secrets)
        if reads_untrusted:
            self.reads_untrusted = reads_untrusted
        self.function = function
        if nature is not None:
            self.nature = nature
        self.seconds = seconds
        self.external = external
        self.probe = probe
        if recovery not in RECOVERIES or (probe is not None and recovery != "ask"):
            raise InvalidInput(f"recovery={recovery!r} is not possible here.", hint=f"Use one of {', '.join(RECOVERIES)}, or probe=function alone.")
        self.recovery: Recovery = "probe" if probe is not None else recovery
        if not callable(function):
            raise InvalidInput(f"{function!r} is no tool.", hint="Pass functions, what @tool makes of them, or toolboxes.")
        if yields(function):
            raise InvalidInput(f"{name_of(function)} yields its answer piece by piece; a tool returns it.", hint="Return a list; ctx.progress(text) tells how far it is.")
        self.threaded = not inspect.iscoroutinefunction(function)
        called = name or str(getattr(function, "__name__", ""))
        if not LEGAL_NAME.fullmatch(called):
            raise InvalidInput(f"{called!r} cannot be the name of a tool.", hint="Use 1 to 64 letters, digits, _ and -; pass name=… for a lambda.")
        text, described = _docstring(function)
        self._context, self._model = _parameters(function, called, described)
        self._fields = tuple((name.removeprefix(PREFIX), name) for name in self._model.model_fields)
        schema = self._model.model_json_schema()
        schema.pop("title", None)
        for prop in schema.get("properties", {}).values():
            prop.pop("title", None)
        self.spec = ToolSpec(name=called, description=description or text, parameters=schema)

    def __repr__(self) -> str:
        return f"FunctionTool({self.spec.name!r}, recovery={self.recovery!r})"

    def __call__(self, *args: Any, **values: Any) -> Any:
        """Call the function itself: a tool stays a function for its author and their tests."""
        return self.function(*args, **values)

    def runs(self, idempotency_key: str) -> bool:
        """Whether a thread of that call, left behind, is still alive in this process."""
        thread = LIVING.get(idempotency_key)
        return thread is not None and thread.is_alive()

    def check(self, arguments: Mapping[str, JsonValue]) -> dict[str, Any]:
        """Return the arguments as the function wants them, or raise `BadArguments` with what was wrong and what was expected."""
        try:
            model = self._model.model_validate(restored(dict(arguments)))
        except ValidationError as error:
            raise BadArguments(_what_was_wrong(self.spec, error), tool=self.spec.name) from None
        return {called: getattr(model, name) for called, name in self._fields}

    async def run(self, arguments: Mapping[str, Any], context: ToolContext) -> Any:
        """Call the function with checked arguments."""
        values = dict(arguments)
        if self._context is not None:
            values[self._context] = context
        if not self.threaded:
            return await self.function(**values)
        answer = await in_thread(lambda: self.function(**values), f"power-agent-tool-{self.spec.name}", context)
        return await answer if inspect.isawaitable(answer) else answer

    async def ask_probe(self, arguments: Mapping[str, Any], context: ToolContext) -> ProbeAnswer:
        """Ask whether the call happened."""
        probe = cast("Probe", self.probe)
        if inspect.iscoroutinefunction(probe):
            return cast("ProbeAnswer", await probe(arguments, context))
        answer = await in_thread(lambda: probe(arguments, context), f"power-agent-probe-{self.spec.name}")
        return cast("ProbeAnswer", await answer if inspect.isawaitable(answer) else answer)


def _check_promises(description: object, probe: object, seconds: object, nature: object) -> None:
    """Refuse promises that could not be kept when the call runs, or is recovered."""
    if description is not None and not isinstance(description, str):
        raise InvalidInput(f"description={description!r} is no text.", hint="Say in words what the tool does, or leave it to the docstring.")
    if probe is not None and (not callable(probe) or yields(probe)):
        raise InvalidInput(f"probe={probe!r} is no probe.", hint="Pass a function of the arguments and the context that returns Happened(value), DidNotHappen() or Unknown().")
    if seconds is not None and not (is_number(seconds) and seconds > 0):
        raise InvalidInput(f"seconds={seconds!r} is not possible.", hint="Pass a number above 0, or leave it out: then Limits.max_tool_seconds counts.")
    if nature is not None and not isinstance(nature, Nature):
        raise InvalidInput(f"nature={nature!r} says nothing of what calls do.", hint='Pass Nature(does="reads"), "changes" or "shell", from power_agent.policy.commands.')


def _names(secrets: Iterable[str]) -> tuple[str, ...]:
    if isinstance(secrets, str):
        raise InvalidInput(f"secrets={secrets!r} is one text.", hint=f"Write secrets=[{secrets!r}].")
    return listed(secrets, "The names of secrets", "secrets")


@overload
def tool(function: F, /) -> FunctionTool: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    recovery: Recovery = "ask",
    probe: Probe | None = None,
    seconds: float | None = None,
    external: bool = False,
    nature: Nature | None = None,
    secrets: Iterable[str] = (),
    reads_untrusted: bool | Callable[[Mapping[str, JsonValue]], bool] = False,
) -> Callable[[F], FunctionTool]: ...
def tool(function: F | None = None, /, **promises: Any) -> FunctionTool | Callable[[F], FunctionTool]:
    """Make a function a tool.

    `recovery` says what happens to a call found started without an outcome: `"rerun"` (running it again is harmless), `"keyed"`
    (the outside honours `ctx.idempotency_key`), `"ask"` (a person decides; the default). `probe=` is a function that can tell
    whether it happened; why it had no answer is told to the logger `power_agent`. `seconds` bounds one attempt. An `external` tool is not run here: its result is handed in.
    `nature` tells a policy what calls do; without one they change the world. `secrets` are the names of those that it may have: where the
    model writes `{{secret:name}}` in an argument, the function gets the secret itself, and nobody else ever sees it. `reads_untrusted`:
    what it returns may have been written by anybody; the model is told so, and a policy may ask about what comes later.

    What the function raises tells the model that it failed. Where it was begun and nobody can say what became of it (a payment was sent, the
    answer timed out), raise `power_agent.errors.OutcomeUnknown`: the call is in doubt, as after a crash.
    """
    if function is not None:
        return FunctionTool(function)
    return lambda wrapped: FunctionTool(wrapped, **promises)


async def in_thread(work: Callable[[], Any], name: str, context: ToolContext | None = None) -> Any:
    """Run work in a daemon thread of its own. Cancelled, it is left to itself: nobody can stop a thread."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Any] = loop.create_future()
    left: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()

    def deliver(result: Any, error: BaseException | None) -> None:
        if not left.done():
            left.set_result((result, error))
        if answer.done():
            return
        if error is None:
            answer.set_result(result)
        elif isinstance(error, StopIteration) or not isinstance(error, Exception):  # sys.exit() in a tool must not end the agent
            raised = RuntimeError(f"the tool raised {type(error).__name__}: {error}")
            raised.__cause__ = error
            answer.set_exception(raised)
        else:
            answer.set_exception(error)

    def run() -> None:
        result, failed = None, None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001  it is handed on
            failed = error
        try:
            loop.call_soon_threadsafe(deliver, result, failed)
        except RuntimeError:
            return  # the loop is closed; nobody waits any more

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    if context is not None:
        context.still_alive, context.left = thread.is_alive, left
        LIVING[context.idempotency_key] = thread
    return await answer


# -- reading a function ------------------------------------------------------------------------------------------------


def _parameters(function: Callable[..., Any], called: str, described: Mapping[str, str]) -> tuple[str | None, type[BaseModel]]:
    """Return the name of the context parameter and a model of the others."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError) as error:
        raise InvalidInput(f"The type hints of {called} cannot be read: {error}.", hint="Import the types where the function is defined.") from error
    context: str | None = None
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
            raise InvalidInput(f"{called} takes {parameter}; a model can only name arguments.", hint="Use plain parameters.")
        if hints.get(name) is ToolContext:
            context = name
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[PREFIX + name] = (Annotated[hints.get(name, Any), _field(name, described)], default)
    try:
        return context, create_model(called, __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=False), **fields)
    except Exception as error:
        raise InvalidInput(f"The parameters of {called} have no JSON schema: {' '.join(str(error).split())[:200]}") from error


def _field(name: str, described: Mapping[str, str]) -> Any:
    return Field(alias=name, description=described[name]) if name in described else Field(alias=name)


_SECTION = re.compile(r"^(Args|Arguments|Parameters|Returns|Raises|Yields|Examples?|Notes?):\s*$")
_SPHINX = re.compile(r"^:(?P<what>\w+)(?:\s+(?P<words>[^:]*))?:\s*(?P<text>.*)$")
_ARGUMENT = re.compile(r"^(?P<indent>\s+)\*{0,2}(?P<name>\w+)\s*(?:\([^)]*\))?:\s*(?P<text>.*)$")


def _docstring(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """Split a docstring into its text and the descriptions of the arguments."""
    text: list[str] = []
    described: dict[str, str] = {}
    section, last, indent = "", "", 0
    for line in (inspect.getdoc(function) or "").splitlines():
        in_arguments = section.startswith(("Arg", "Param", "param"))
        if found := _SECTION.match(line):
            section, last, indent = found[1], "", 0
        elif found := _SPHINX.match(line):
            section, last, indent = found["what"], "", 0
            if section == "param" and found["words"]:
                last = found["words"].split()[-1]
                described[last] = found["text"].strip()
        elif in_arguments and section != "param" and (found := _ARGUMENT.match(line)) and len(found["indent"]) <= (indent or len(found["indent"])):
            last, indent = found["name"], len(found["indent"])
            described[last] = found["text"].strip()
        elif in_arguments and last and line.strip():
            described[last] = f"{described[last]} {line.strip()}".strip()
        elif not section:
            text.append(line)
    return "\n".join(text).strip(), described


def _what_was_wrong(spec: ToolSpec, error: ValidationError) -> str:
    wrong = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'arguments'}: {one['msg']}" for one in error.errors(include_url=False))
    properties = cast("dict[str, dict[str, Any]]", spec.parameters.get("properties", {}))
    required = cast("list[str]", spec.parameters.get("required", []))
    expected = ", ".join(f"{name}: {_type(shape)}{'' if name in required else ' (optional)'}" for name, shape in properties.items())
    return f"Wrong arguments for {spec.name}: {wrong}. Expected: {expected or 'none'}. It was not run."


def _type(shape: Mapping[str, Any]) -> str:
    if "anyOf" in shape:
        return " or ".join(_type(one) for one in shape["anyOf"])
    return str(shape.get("type") or shape.get("$ref", "value").rsplit("/", 1)[-1])
