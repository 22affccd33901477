"""What fills a context adds up, by category, by tool and by message."""

from __future__ import annotations

from test_compaction import Windowed, chat, dump, talk

from power_agent import Limits, ScriptedModel, StatefulAgentLoop


async def test_it_adds_up():
    """System, tools, summary, history and last exchange are the whole; what is free is what is left to the bound."""
    model = Windowed(talk, 2_000)
    async with StatefulAgentLoop(model, store=":memory:", tools=[dump], system="Be kind. " * 10) as loop:
        await chat(loop, 20)
        found = await loop.context_report("s")
        assert found.measured
        assert found.system + found.tools + found.summary + found.history + found.last_exchange == found.tokens
        assert sum(found.by_tool.values()) == found.tools
        assert found.by_tool.keys() == {"dump", "recall_search", "recall_read"}
        assert all(value > 0 for value in (found.system, found.tools, found.summary, found.history, found.last_exchange))
        assert found.tokens + found.free == found.bound
        assert (found.window, found.bound) == (2_000, 1_500)
        assert sum(one.tokens for one in found.messages) == found.summary + found.history + found.last_exchange
        assert [one.category for one in found.messages].count("summary") == 1
        assert found.messages[-1].category == "last_exchange"
        assert [one.what for one in found.messages][:2] == ["said", "summed"]
        assert found.compactions >= 1


async def test_without_a_bound_nothing_is_free_or_not():
    """Nobody knows."""
    async with StatefulAgentLoop(ScriptedModel(talk), store=":memory:") as loop:
        await chat(loop, 2)
        found = await loop.context_report("s")
        assert (found.window, found.bound, found.free) == (None, None, None)
    async with StatefulAgentLoop(ScriptedModel(talk), store=":memory:", limits=Limits(max_context_tokens=10)) as loop:
        await chat(loop, 1)
        assert (await loop.context_report("s")).free == 0
