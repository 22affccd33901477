"""Functions as tools: what the model is shown, what it may pass, how long it may take, what comes back."""

from __future__ import annotations

import asyncio
import enum
import json
import logging
import math
import sys
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Literal, Optional

import pytest
from pydantic import BaseModel, Field

from power_agent import Attachment, Call, Limits, ScriptedModel, StatefulAgentLoop, Text, ToolContext, tool
from power_agent import events as e
from power_agent.errors import BadArguments, InvalidInput, OutcomeUnknown, ToolError
from power_agent.outcomes import failed
from power_agent.state import CallState
from power_agent.tools import FunctionTool, Toolbox, Unknown


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Address(BaseModel):
    street: str
    number: int = Field(gt=0)


@dataclass
class Point:
    x: int
    y: int = 0


class Told:
    """What one call came to: the event that ended it, what the model was told, and the loop to look further."""

    def __init__(self, ended: e.Event, content: tuple[Any, ...], failed: bool, kinds: list[str]) -> None:
        self.ended, self.content, self.failed, self.kinds = ended, content, failed, kinds

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.content if isinstance(part, Text))


@pytest.fixture
def call(tmp_path):
    """Return a function that lets a scripted model call a tool once, on a real file."""

    async def once(made, arguments=None, **options) -> Told:
        box = Toolbox([made])
        model = ScriptedModel([[Call(box.names[0], arguments or {})], "done"])
        async with StatefulAgentLoop(model, tools=[made], store=tmp_path / "agent.db", **options) as loop:
            result = await loop.send("go", "s")
            assert result.status == "completed", result
            told = model.requests[-1].messages[-1].parts[0]
            history = await loop.history("s")
            ended = next(kept.event for kept in history if kept.kind in e.TERMINAL)
            return Told(ended, told.content, told.failed, [kept.kind for kept in history])

    return once


def schema(function) -> dict[str, Any]:
    return dict(FunctionTool(function).spec.parameters)


# -- what the model is shown -------------------------------------------------------------------------------------------


def test_schema_of_plain_types():
    """Hints become the schema; a parameter with a default is optional and shows the default."""

    def plain(a: str, b: int, c: float, d: bool = True, e: int = 3): ...

    assert schema(plain) == {
        "type": "object",
        "additionalProperties": False,
        "required": ["a", "b", "c"],
        "properties": {
            "a": {"type": "string"},
            "b": {"type": "integer"},
            "c": {"type": "number"},
            "d": {"type": "boolean", "default": True},
            "e": {"type": "integer", "default": 3},
        },
    }


def test_schema_of_composed_types():
    """Literal, Optional, list, dict, enum, a nested model and a dataclass each have their JSON schema."""

    def composed(
        mode: Literal["a", "b"],
        tags: list[str],
        table: dict[str, int],
        colour: Colour,
        where: Address,
        point: Point,
        size: Annotated[int, Field(ge=1, description="How large.")],
        maybe: Optional[int] = None,  # noqa: UP045  written by users this way, too
    ): ...

    shown = schema(composed)
    props, defs = shown["properties"], shown["$defs"]
    assert props["mode"] == {"enum": ["a", "b"], "type": "string"}
    assert props["tags"] == {"type": "array", "items": {"type": "string"}}
    assert props["table"] == {"type": "object", "additionalProperties": {"type": "integer"}}
    assert props["maybe"] == {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None}
    assert props["size"] == {"type": "integer", "minimum": 1, "description": "How large."}
    assert props["colour"] == {"$ref": "#/$defs/Colour"}
    assert defs["Colour"]["enum"] == ["red", "blue"]
    assert defs["Address"]["required"] == ["street", "number"]
    assert defs["Address"]["properties"]["number"]["exclusiveMinimum"] == 0
    assert set(defs["Point"]["properties"]) == {"x", "y"}
    assert "maybe" not in shown["required"]


def test_a_field_as_default():
    """`Field(…)` as a default bounds the parameter, beside a description in the docstring too."""

    def size(width: int = Field(3, ge=1), height: int = Field(ge=2)):
        """Size.

        Args:
            width: How wide.
            height: How high.
        """

    shown = schema(size)
    assert shown["properties"]["width"] == {"type": "integer", "minimum": 1, "default": 3, "description": "How wide."}
    assert shown["properties"]["height"] == {"type": "integer", "minimum": 2, "description": "How high."}
    assert shown["required"] == ["height"]
    assert FunctionTool(size).check({"height": 2}) == {"width": 3, "height": 2}


def test_schema_without_parameters():
    """A function without parameters is shown as an object that takes nothing."""

    def nothing(): ...

    assert schema(nothing) == {"type": "object", "properties": {}, "additionalProperties": False}


def test_google_docstring():
    """The text above `Args:` describes the tool, the lines below it the arguments, over several lines and with types; what follows is left out."""

    def pay(order: str, cents: int = 0, plain: int = 1):
        """Charge an order.

        Only once per day.

        Args:
            order: The order's number,
                as printed on the bill.
            cents (int): How much.

        Returns:
            order: not an argument.
        """

    spec = FunctionTool(pay).spec
    assert spec.description == "Charge an order.\n\nOnly once per day."
    shown = spec.parameters["properties"]
    assert shown["order"]["description"] == "The order's number, as printed on the bill."
    assert shown["cents"]["description"] == "How much."
    assert "description" not in shown["plain"]


def test_google_docstring_with_a_colon_in_a_later_line():
    """A later line that looks like `word: text` still belongs to the argument it stands under."""

    def find(query: str):
        """Find.

        Args:
            query: What to find.
                Example: red shoes.
        """

    assert FunctionTool(find).spec.parameters["properties"]["query"]["description"] == "What to find. Example: red shoes."


def test_sphinx_docstring():
    """`:param x:` describes an argument, with or without its type."""

    def pay(order: str, cents: int):
        """Charge an order.

        :param order: The order's number,
            as printed.
        :param int cents: How much.
        """

    spec = FunctionTool(pay).spec
    assert spec.description == "Charge an order."
    assert spec.parameters["properties"]["order"]["description"] == "The order's number, as printed."
    assert spec.parameters["properties"]["cents"]["description"] == "How much."


def test_sphinx_docstring_with_what_it_returns():
    """`:returns:`, `:rtype:` and `:raises X:` do not become part of the last argument's description."""

    def pay(cents: int):
        """Charge an order.

        :param cents: How much.
        :returns: The receipt.
        :rtype: str
        :raises ValueError: When it is nothing.
        """

    spec = FunctionTool(pay).spec
    assert spec.parameters["properties"]["cents"]["description"] == "How much."
    assert "receipt" not in spec.description


def test_no_docstring():
    """A function without a docstring has an empty description."""

    def silent(x: int): ...

    assert FunctionTool(silent).spec.description == ""


def test_the_context_is_not_shown():
    """A parameter annotated with ToolContext is not in the schema, whatever it is called, and the model cannot pass it."""

    def look(x: int, where: ToolContext): ...

    made = FunctionTool(look)
    assert set(made.spec.parameters["properties"]) == {"x"}
    with pytest.raises(BadArguments, match="where"):
        made.check({"x": 1, "where": 2})


def test_names_and_descriptions_can_be_overridden():
    """`name=` and `description=` beat what the function says."""

    @tool(name="other-name_1", description="Another text.")
    def one():
        """Say one."""

    assert (one.spec.name, one.spec.description) == ("other-name_1", "Another text.")


@pytest.mark.parametrize("name", ["with space", "ümlaut", "a" * 65, "dot.ted", "new\nline"])
def test_illegal_names_are_refused(name):
    """A name that no provider accepts is refused where the tool is made."""
    with pytest.raises(InvalidInput, match="cannot be the name of a tool"):
        tool(name=name)(lambda: 1)


def test_what_is_no_function_is_no_tool():
    """A name in the tool's place is told apart from a tool with a bad name."""
    with pytest.raises(InvalidInput, match="'add' is no tool"):
        tool("add")


def test_lambda():
    """A lambda is refused with a hint, and works with a name."""
    with pytest.raises(InvalidInput, match="name="):
        tool(lambda: 1)
    assert tool(name="one")(lambda: 1).spec.name == "one"


def test_duplicate_tools_are_refused():
    """Two tools of one name are refused when the loop is made."""

    def one(): ...

    with pytest.raises(InvalidInput, match="two tools called 'one'"):
        StatefulAgentLoop(ScriptedModel([]), tools=[one, tool(name="one")(lambda: 2)])


def test_star_parameters_are_refused():
    """*args, **kwargs and positional-only parameters are refused: a model can only name arguments."""

    def stars(*args): ...

    def keywords(**kwargs): ...

    def positional(x, /): ...

    for function in (stars, keywords, positional):
        with pytest.raises(InvalidInput, match="can only name arguments"):
            FunctionTool(function)


def test_hints_that_cannot_be_resolved_are_refused():
    """A hint that cannot be resolved is refused and named, as is a type without a JSON schema."""

    def unresolvable(x: Missing): ...  # noqa: F821  the point

    def arbitrary(x: threading.Lock): ...

    with pytest.raises(InvalidInput, match="'Missing' is not defined"):
        FunctionTool(unresolvable)
    with pytest.raises(InvalidInput, match="arbitrary"):
        FunctionTool(arbitrary)


@pytest.mark.parametrize("name", ["schema", "json", "copy", "dict", "validate", "title", "description", "properties"])
def test_any_parameter_name_may_be_used(name):
    """A parameter may be called like something that pydantic's models have; it is shown and filled in all the same, without a warning."""
    made = FunctionTool(eval(f"lambda {name}: {name} + '!'"), name="t")  # noqa: S307  our own text
    assert list(made.spec.parameters["properties"]) == [name]
    assert made.check({name: "x"}) == {name: "x"}


def test_a_parameter_may_begin_with_an_underscore():
    """An underscore in front is a legal parameter name; it is not dropped in silence."""

    def under(_x: int): ...

    assert FunctionTool(under).check({"_x": 1}) == {"_x": 1}


def test_a_bound_method_and_a_partial():
    """A bound method is a tool without `self`; a partial needs a name and hides what is bound."""

    class Shop:
        def buy(self, thing: str) -> str:
            return f"bought {thing}"

    assert list(schema(Shop().buy)["properties"]) == ["thing"]
    with pytest.raises(InvalidInput, match="name="):
        FunctionTool(partial(Shop().buy, "x"))


def test_a_tool_is_still_a_function():
    """A decorated function can be called by its author and their tests, positionally too; so can an async one."""

    @tool
    def double(x: int) -> int:
        return 2 * x

    @tool(recovery="rerun")
    async def triple(x: int) -> int:
        return 3 * x

    assert (double(4), double(x=5), asyncio.run(triple(2))) == (8, 10, 6)
    assert repr(triple) == "FunctionTool('triple', recovery='rerun')"


@pytest.mark.parametrize("options", [{"recovery": "sometimes"}, {"recovery": "probe"}, {"recovery": "rerun", "probe": lambda a, c: Unknown()}])
def test_promises_are_checked(options):
    """An unknown recovery class, `"probe"` without a probe, and a probe beside a class are refused."""
    with pytest.raises(InvalidInput, match="recovery"):
        tool(**options)(test_promises_are_checked)


def test_recovery_defaults():
    """Nobody promised anything: ask. With a probe: probe."""
    assert tool(name="a")(lambda: 1).recovery == "ask"
    assert tool(name="a", probe=lambda a, c: Unknown())(lambda: 1).recovery == "probe"
    assert tool(name="a", recovery="keyed")(lambda: 1).recovery == "keyed"


# -- arguments ---------------------------------------------------------------------------------------------------------


async def test_arguments_are_converted(call):
    """The tool gets what its hints say: models, dataclasses, enums and literals, not the JSON they came as; defaults where nothing came."""
    got = {}

    def take(where: Address, point: Point, colour: Colour, many: list[Point], left: int = 7, lost: str | None = None):
        got.update(locals())

    point = {"x": 1}
    told = await call(take, {"where": {"street": "A", "number": 1}, "point": point, "colour": "red", "many": [point]})
    got.pop("got", None)
    assert not told.failed
    assert got == {"where": Address(street="A", number=1), "point": Point(1), "colour": Colour.RED, "many": [Point(1)], "left": 7, "lost": None}


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        ({}, "order: Field required"),
        ({"order": 3}, "order: Input should be a valid string"),
        ({"order": "a", "cents": "many"}, "cents: Input should be a valid integer"),
        ({"order": "a", "tip": 1}, "tip: Extra inputs are not permitted"),
        ({"order": "a", "where": {"street": "x", "number": 0}}, "where.number: Input should be greater than 0"),
    ],
)
async def test_wrong_arguments_are_told(call, arguments, wrong):
    """The model is told what was wrong and what was expected; the tool did not start."""

    def pay(order: str, cents: int = 0, where: Address | None = None):
        raise AssertionError("it ran")

    told = await call(pay, arguments)
    assert told.text.startswith(f"Wrong arguments for pay: {wrong}")
    assert told.text.endswith("Expected: order: string, cents: integer (optional), where: Address or null (optional). It was not run.")
    assert told.failed
    assert "call.started" not in told.kinds
    assert told.ended.failure.code == "bad_arguments"


async def test_unknown_tools_are_told(tmp_path):
    """A call of a tool that is not there is answered with the tools there are."""

    def there(): ...

    model = ScriptedModel([[Call("elsewhere")], "done"])
    async with StatefulAgentLoop(model, tools=[there], store=tmp_path / "agent.db") as loop:
        await loop.send("go", "s")
    assert model.requests[1].messages[-1].parts[0].content == (Text("There is no tool 'elsewhere'. The tools are: there. Nothing was run."),)


async def test_malformed_arguments_are_told(tmp_path):
    """Arguments that were no JSON object are answered with what came; the tool did not start."""

    def there(): ...

    model = ScriptedModel([[Call("there", malformed='{"a": ')], "done"])
    async with StatefulAgentLoop(model, tools=[there], store=tmp_path / "agent.db") as loop:
        await loop.send("go", "s")
        assert "call.started" not in [kept.kind for kept in await loop.history("s")]
    assert "not a JSON object: Expecting value at character 7 of 6, near '{\"a\": '. It was not run." in model.requests[1].messages[-1].parts[0].content[0].text


async def test_a_type_error_inside_is_the_tools_failure(call):
    """A TypeError raised inside a tool is its failure, not a wrong call: it was started, and may have had an effect."""

    def broken(x: int):
        return x + "1"

    told = await call(broken, {"x": 1})
    assert told.ended.failure.code == "tool_failed"
    assert told.text == "TypeError: unsupported operand type(s) for +: 'int' and 'str' It may have taken effect."
    assert "call.started" in told.kinds


async def test_failures_of_harmless_tools(call):
    """The failure of a `rerun` tool is told without the warning that it may have taken effect."""

    @tool(recovery="rerun")
    async def look():
        raise FileNotFoundError("no such thing")

    assert (await call(look)).text == "FileNotFoundError: no such thing"


@pytest.mark.parametrize(("error", "text"), [(KeyError(), "KeyError"), (ValueError("a\0b"), "ValueError: a b"), (ValueError("a\ud800b"), "ValueError: a\ud800b")])
async def test_odd_errors(call, error, text):
    """An exception without a message is told by its name; NUL becomes a space; a lone surrogate survives."""

    @tool(recovery="rerun")
    def odd():
        raise error

    assert restored((await call(odd)).text) == text


async def test_errors_of_a_group_are_told(call):
    """What tasks raised together is told one by one, groups within groups too, in as many characters as any other error."""

    async def fail(error):
        raise error

    @tool(recovery="rerun")
    async def several():
        async with asyncio.TaskGroup() as group:
            group.create_task(fail(KeyError("missing")))
            group.create_task(fail(ExceptionGroup("two", [ValueError("no"), ToolError("Not found.", hint="Look.")])))

    told = (await call(several)).text
    assert told == "ExceptionGroup: unhandled errors in a TaskGroup (2 sub-exceptions): KeyError: 'missing'; ValueError: no; ToolError: Not found. Look."
    (fact,) = failed(CallState(Call("several")), ExceptionGroup("many", [ValueError("x" * 100_000)] * 3)).facts
    assert len(fact.failure.message) < 4_100


@pytest.mark.parametrize("threaded", [False, True], ids=["async", "in a thread"])
async def test_the_outcome_that_one_of_many_does_not_know(threaded):
    """Where one of several that failed together cannot say what became of it, nobody can."""
    group = ExceptionGroup("two", [ValueError("refused"), ExceptionGroup("one", [OutcomeUnknown("It was sent.", hint="")])])

    async def pay():
        raise group

    def pay_there():
        raise group

    async with StatefulAgentLoop(ScriptedModel([[Call("pay")], "done"]), tools=[tool(name="pay")(pay_there if threaded else pay)], store=":memory:") as loop:
        result = await loop.send("go", "s")
    assert [(one.state, one.why) for one in result.pending] == [("doubted", "It was sent.")]


async def test_a_thread_that_ends_late_and_does_not_know():
    """Its call is in doubt already, and stays so: it is not said to have failed."""
    go_on = threading.Event()

    @tool(seconds=0.02)
    def pay():
        go_on.wait(10)
        raise OutcomeUnknown("It was sent.")

    def let_go(kept):
        if kept.kind == "call.doubted":
            go_on.set()

    async with StatefulAgentLoop(
        ScriptedModel([[Call("pay"), Call("pay")], "done"]), tools=[pay], store=":memory:", listeners=[let_go], limits=Limits(max_parallel_calls=1)
    ) as loop:
        result = await asyncio.wait_for(loop.send("go", "s"), 30)
        assert [one.state for one in result.pending] == ["doubted", "doubted"]
        assert await loop.history("s", kinds=["call.failed"]) == []


@pytest.mark.parametrize("threaded", [False, True], ids=["async", "in a thread"])
async def test_where_a_tool_failed_is_in_the_log_of_the_program(caplog, threaded):
    """With its traceback and without a secret, for whoever listens at INFO: to the model and to the session's log an error is an answer. What a tool says
    on purpose has no traceback.
    """
    token = "a-token-that-nobody-may-see"  # noqa: S105  it is none

    def deep(said):
        raise KeyError(said)

    def there():
        deep(f"missing at {token}")

    async def here():
        deep(f"missing at {token}")

    def gone():
        sys.exit(3)

    def purposely():
        raise ToolError("There is no such order.")

    caplog.set_level(logging.INFO, "power_agent")
    model = ScriptedModel([[Call("fail"), Call("gone"), Call("purposely")], "done"])
    tools = [tool(name="fail", recovery="rerun")(there if threaded else here), gone, purposely]
    async with StatefulAgentLoop(model, tools=tools, store=":memory:", secrets={"token": token}) as loop:
        await loop.send("go", "s")
    said = sorted((caplog.handler.format(record) for record in caplog.records if "failed in call" in record.getMessage()), key=lambda text: text.partition("The tool ")[2])
    assert [text.splitlines()[0].partition("The tool ")[2] for text in said] == ["fail failed in call t1r1c1 of session 's'.", "gone failed in call t1r1c2 of session 's'."]
    assert "in deep\n" in said[0]
    assert "KeyError: 'missing at [secret:token]'" in said[0]
    assert "SystemExit: 3" in said[1]
    assert token not in caplog.text
    assert {record.levelname for record in caplog.records if "failed in call" in record.getMessage()} == {"INFO"}


async def test_long_errors_are_bounded(call):
    """Of a very long message the first 4,000 characters are told."""

    @tool(recovery="rerun")
    def long():
        raise ValueError("x" * 100_000)

    assert (await call(long)).text == "ValueError: " + "x" * 4_000


async def test_an_error_that_cannot_be_printed(call):
    """An exception whose own `__str__` raises is still the tool's failure, and the turn goes on."""

    class Unprintable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("not even this")

    @tool(recovery="rerun")
    def broken():
        raise Unprintable

    assert (await call(broken)).text.startswith("Unprintable")


# -- how it runs -------------------------------------------------------------------------------------------------------


async def test_async_tools_run_in_the_loop(call):
    """An async tool runs in the event loop's thread."""

    async def where() -> bool:
        await asyncio.sleep(0)
        return threading.current_thread() is threading.main_thread()

    assert (await call(where)).ended.output is True


async def test_sync_tools_run_in_a_daemon_thread(call):
    """A sync tool runs in a daemon thread of its own, named after it, and does not block the loop."""

    def where() -> list[Any]:
        thread = threading.current_thread()
        return [thread is threading.main_thread(), thread.daemon, thread.name]

    assert (await call(where)).ended.output == [False, True, "power-agent-tool-where"]


async def test_a_sync_tool_that_returns_an_awaitable(call):
    """What a sync function returns is awaited where it can be, in the event loop's thread."""

    async def later() -> bool:
        return threading.current_thread() is threading.main_thread()

    def now():
        return later()

    assert (await call(now)).ended.output is True


async def test_a_sync_tool_that_raises_stop_iteration(call):
    """StopIteration, which no future can hold, is told as a failure."""

    def stop():
        raise StopIteration

    assert "StopIteration" in (await call(stop)).text


async def test_what_the_context_knows(tmp_path):
    """The context names session, call, attempt and key, carries `deps`, and is not cancelled."""
    seen = []

    def look(ctx: ToolContext):
        seen.append((ctx.session, ctx.call, ctx.attempt, ctx.deps, ctx.cancelled, ctx.idempotency_key))
        ctx.progress("half")

    model = ScriptedModel([[Call("look"), Call("look")], "done"])
    async with StatefulAgentLoop(model, tools=[look], deps={"a": 1}, store=tmp_path / "agent.db") as loop:
        await loop.send("go", "s")
        starts = [kept.event.idempotency_key for kept in await loop.history("s", kinds=["call.started"])]
    assert [one[:5] for one in sorted(seen)] == [("s", "t1r1c1", 1, {"a": 1}, False), ("s", "t1r1c2", 1, {"a": 1}, False)]
    assert [one[5] for one in sorted(seen)] == starts
    assert len(set(starts)) == 2


@pytest.mark.parametrize("recovery", ["ask", "rerun"])
@pytest.mark.parametrize("sync", [True, False])
async def test_time_limits(tmp_path, recovery, sync):
    """Past its limit an `ask` call is doubted and waits for a person, a `rerun` call is aborted; the tool's own limit beats the one of Limits."""
    if sync:

        def slow():
            time.sleep(0.4)
    else:

        async def slow():
            await asyncio.sleep(10)

    made = tool(recovery=recovery, seconds=0.05)(slow)
    model = ScriptedModel([[Call("slow")], "done"])
    async with StatefulAgentLoop(model, tools=[made], store=tmp_path / "agent.db") as loop:
        result = await loop.send("go", "s")
    if recovery == "ask":
        assert (result.status, result.pending[0].state, result.pending[0].why) == ("waiting", "doubted", "It took longer than 0.05 s.")
    else:
        told = model.requests[-1].messages[-1].parts[0].content[0].text
        assert told == "Aborted by power_agent: It took longer than 0.05 s. It may have taken effect; check before repeating."


async def test_the_time_limit_of_limits(tmp_path):
    """Without a limit of its own a tool has the one of Limits."""

    @tool(recovery="rerun")
    async def slow():
        await asyncio.sleep(10)

    model = ScriptedModel([[Call("slow")], "done"])
    async with StatefulAgentLoop(model, tools=[slow], limits=Limits(max_tool_seconds=0.03), store=tmp_path / "agent.db") as loop:
        result = await loop.send("go", "s")
    assert result.calls[0].state == "aborted"
    assert "longer than 0.03 s" in model.requests[-1].messages[-1].parts[0].content[0].text


async def test_a_tools_own_timeout_is_its_answer(call):
    """A TimeoutError that the tool itself raises means that it failed; nothing is doubted."""

    async def impatient():
        raise TimeoutError("the server is slow")

    told = await call(impatient)
    assert told.text == "TimeoutError: the server is slow It may have taken effect."
    assert "call.doubted" not in told.kinds


async def test_a_tool_that_cancels_itself(tmp_path):
    """A tool that ends in a CancelledError nobody sent is doubted, and nobody claims that the turn was cancelled."""

    async def odd():
        raise asyncio.CancelledError

    model = ScriptedModel([[Call("odd")], "done"])
    async with StatefulAgentLoop(model, tools=[odd], store=tmp_path / "agent.db") as loop:
        result = await loop.send("go", "s")
    assert result.pending[0].state == "doubted"
    assert "the turn was cancelled" not in result.pending[0].why


async def test_external_tools_are_not_run(tmp_path):
    """An external tool waits for a result from outside; its function is never called."""

    @tool(external=True)
    def elsewhere(x: int):
        raise AssertionError("it ran")

    async with StatefulAgentLoop(ScriptedModel([[Call("elsewhere", {"x": 1})], "done"]), tools=[elsewhere], store=tmp_path / "agent.db") as loop:
        result = await loop.send("go", "s")
    assert result.status == "waiting"
    assert (result.pending[0].external, result.pending[0].state, result.pending[0].arguments) == (True, "waiting", {"x": 1})


# -- what comes back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "kept", "shown"),
    [
        ("text", "text", "text"),
        ("", "", "(no output)"),
        (None, None, "(no output)"),
        (0, 0, "0"),
        (2.5, 2.5, "2.5"),
        (False, False, "false"),
        (2**70, 2**70, str(2**70)),
        ([1, "ä"], [1, "ä"], '[1,"ä"]'),
        ((1, 2), [1, 2], "[1,2]"),
        ({"a": [None]}, {"a": [None]}, '{"a":[null]}'),
        ([], [], "[]"),
        (Address(street="A", number=1), {"street": "A", "number": 1}, '{"street":"A","number":1}'),
        (Point(1, 2), {"x": 1, "y": 2}, '{"x":1,"y":2}'),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
        (Colour.BLUE, "blue", "blue"),
        (b"bytes", "bytes", "bytes"),
    ],
)
async def test_outputs(call, value, kept, shown):
    """Whatever is JSON, or has an obvious JSON form, is kept as that; the model sees text as it is and everything else as JSON."""

    def give():
        return value

    told = await call(give)
    assert not told.failed
    assert told.ended.output == kept
    assert type(told.ended.output) is type(kept)
    assert told.content == (Text(shown),)


@pytest.mark.parametrize(
    "value", [math.nan, [math.inf], {"a": -math.inf}, object(), {"deep": object()}, threading.Lock(), b"\xff\xfe"], ids=lambda value: repr(value).split(" at 0x")[0]
)
async def test_output_that_is_not_json_is_refused(call, value):
    """What has no JSON form is a failure that names the type; the effect is not denied."""

    def give():
        return value

    told = await call(give)
    assert told.ended.failure.code == "output_not_json"
    assert told.text.startswith(f"It ran; only what it returned cannot be kept, a {type(value).__name__} that is not JSON: ")
    assert told.text.endswith("It may have taken effect.")


async def test_output_that_nobody_awaited(call):
    """A forgotten `await` is told apart: what it was to do has not happened."""

    async def pay() -> str:
        return "paid"

    async def give():
        return pay()

    told = await call(give)
    assert told.text.startswith("It returned a coroutine that nobody awaited: what that was to do did not happen.")


class Odd:
    """Something that can be awaited, and closed in a way of its own."""

    def __await__(self):
        yield

    def close(self, why: str) -> None:
        raise AssertionError


@pytest.mark.parametrize("what", ["a future", "something odd"])
async def test_output_that_may_go_on_by_itself(call, what):
    """Of a future nobody can say that what it was to do did not happen; and nothing is done to what a tool returned."""

    async def give():
        return Odd() if what == "something odd" else asyncio.get_running_loop().create_future()

    told = await call(give)
    assert told.ended.failure.code == "output_not_json"
    assert told.text.startswith("It ran; only what it returned cannot be kept")


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("value", [nested(250), nested(5_000), 10**4_400], ids=["250 levels", "5000 levels", "4400 digits"])
async def test_output_that_cannot_be_kept_is_refused(call, value):
    """JSON beyond what the log keeps (depth, digits) is a failure that the model is told of; the turn goes on."""

    def give():
        return value

    told = await call(give)
    assert told.failed
    assert told.ended.failure.code == "output_not_json"


async def test_lone_surrogates_survive(tmp_path):
    """Text that is not Unicode, as broken file names are, comes back as it was, from the file too."""

    def names():
        return ["a\ud800b", "plain"]

    async with StatefulAgentLoop(ScriptedModel([[Call("names")], "done"]), tools=[names], store=tmp_path / "agent.db") as loop:
        await loop.send("go", "s")
    async with StatefulAgentLoop(ScriptedModel([]), store=tmp_path / "agent.db") as loop:
        told = (await loop.messages("s"))[2].parts[0].content[0].text
    assert json.loads(restored(told)) == ["a\ud800b", "plain"]


async def test_lone_surrogates_in_keys_survive(call):
    """A mapping from broken file names is as much of an answer as a list of them."""

    def sizes():
        return {"a\ud800b": 1, "plain": {"\udfff": "\ud800"}}

    assert json.loads(restored((await call(sizes)).text)) == sizes()


def restored(text: str) -> str:
    from power_agent.messages import restore_text

    return restore_text(text)


@pytest.mark.parametrize(
    "value",
    [Text("one"), (Text("one"), Text("two")), [Text("see"), Attachment("image/png", url="https://example.org/a.png")]],
    ids=["text", "texts", "text and attachment"],
)
async def test_parts_as_output(call, value):
    """Text and attachments are handed to the model as parts."""

    def give():
        return value

    told = await call(give)
    assert told.content == (tuple(value) if isinstance(value, tuple | list) else (value,))
    assert told.ended.parts == told.content


async def test_large_output_is_cut(tmp_path):
    """Output over the limit is kept whole in a blob; the context shows head and tail and how much is missing."""
    whole = "".join(f"line {number}\n" for number in range(1_000))

    def give():
        return whole

    model = ScriptedModel([[Call("give")], "done"])
    async with StatefulAgentLoop(model, tools=[give], limits=Limits(max_output_bytes_in_context=200), store=tmp_path / "agent.db") as loop:
        await loop.send("go", "s")
        cut = (await loop.history("s", kinds=["call.succeeded"]))[0].event.cut
        assert await loop.blob("s", cut.blob) == whole.encode()
        assert await loop.blob("s", cut.blob, start=5, length=7) == whole.encode()[5:12]
    shown = model.requests[-1].messages[-1].parts[0].content[0].text
    assert cut.size == len(whole)
    assert shown == f"{whole[:100]}\n[… {len(whole) - 200} of {len(whole)} bytes left out …]\n{whole[-100:]}"


async def test_output_at_the_limit_is_not_cut(call):
    """Exactly the limit is shown whole, one byte more is cut."""
    size = 100

    def give(more: int):
        return "x" * (size + more)

    assert (await call(give, {"more": 0}, limits=Limits(max_output_bytes_in_context=size))).content == (Text("x" * size),)


async def test_one_byte_over_the_limit_is_cut(call):
    """One byte more than the limit is cut."""

    def give():
        return "x" * 101

    assert "1 of 101 bytes left out" in (await call(give, limits=Limits(max_output_bytes_in_context=100))).text


@pytest.mark.parametrize("limit", range(40, 48))
async def test_a_cut_never_splits_a_character(call, limit):
    """Head and tail end between characters, wherever the limit falls."""

    def give():
        return "ä€𝄞" * 100

    told = await call(give, limits=Limits(max_output_bytes_in_context=limit))
    cut = told.ended.cut
    assert "�" not in told.text
    assert ("ä€𝄞" * 100).startswith(cut.head)
    assert ("ä€𝄞" * 100).endswith(cut.tail)
    assert len(cut.head.encode()) > limit // 2 - 4
    left = 900 - len(cut.head.encode()) - len(cut.tail.encode())
    assert f"[… {left} of 900 bytes left out …]" in told.text


async def test_large_json_output_is_cut(call):
    """A large value that is not text is cut as the JSON it is."""

    def give():
        return {"rows": list(range(1_000))}

    told = await call(give, limits=Limits(max_output_bytes_in_context=60))
    assert told.ended.cut.head == '{"rows":[0,1,2,3,4,5,6,7,8,9,1'
    assert told.ended.cut.tail.endswith("998,999]}")


async def test_large_text_parts_are_cut(call):
    """Text parts are bounded like text: what the model is shown stays near the limit, however a tool returns it."""

    def give():
        return [Text("x" * 50_000), Text("y" * 50_000)]

    told = await call(give, limits=Limits(max_output_bytes_in_context=1_000))
    assert len(told.text) < 2_000


async def test_output_larger_than_an_event(call):
    """Text parts larger than one event of the log may be do not break the turn."""

    def give():
        return Text("x" * 50_000)

    told = await call(give, limits=Limits(max_event_bytes=20_000))
    assert told.ended.kind in {"call.succeeded", "call.failed"}


async def test_large_text_with_lone_surrogates(call):
    """Large text that is not Unicode is cut and kept in its blob all the same."""

    def give():
        return "\ud800" + "x" * 1_000

    told = await call(give, limits=Limits(max_output_bytes_in_context=100))
    assert told.ended.cut.size >= 1_001


async def test_a_tool_that_gives_its_word_that_nothing_happened():
    """A `ToolError` keeps its code; where it says `untouched`, the model is not told that it may have taken effect."""

    @tool
    def refuse(sure: bool) -> None:
        raise ToolError("Not like that.", untouched=sure)

    model = ScriptedModel([[Call("refuse", {"sure": True}), Call("refuse", {"sure": False})], "done"])
    async with StatefulAgentLoop(model, tools=[refuse], store=":memory:") as loop:
        await loop.send("x", "s")
        assert [part.content[0].text for part in model.requests[-1].messages[-1].parts] == ["Not like that.", "Not like that. It may have taken effect."]
        assert [kept.event.failure.code for kept in await loop.history("s", kinds=["call.failed"])] == ["tool", "tool"]


async def test_a_tool_gets_the_very_text_that_the_model_wrote():
    """Half a character is kept in a form that can be stored; the tool gets it as it was, the log reads back the same."""
    got = []

    @tool(recovery="rerun")
    def take(text: str, many: list[str]) -> int:
        got.extend([text, *many])
        return len(text)

    odd = "a\ud800b\U0010fffdc"
    async with StatefulAgentLoop(ScriptedModel([[Call("take", {"text": odd, "many": [odd]})], "done"]), tools=[take], store=":memory:") as loop:
        assert (await loop.send("x", "s")).calls[0].output == len(odd)
    assert got == [odd, odd]
