"""An answer in a shape, where the format has no word for it: the model hands it in by calling a tool that is no tool.

The request gets one more tool, whose parameters are the shape. A call of it becomes the text of the answer, so that neither the log
nor a later request knows of it. Made beside calls of real tools it is too early, and only said.
"""

from __future__ import annotations

from power_agent.messages import AnswerPart, Call, Reasoning, Text
from power_agent.models.format import body_of
from power_agent.ports import ModelReply, ModelRequest, ToolSpec
from power_agent.word import replace

NAME = "final_answer"
DESCRIPTION = "Give your final answer by calling this, once, when everything else is done. Nothing you write beside it is read."


def with_tool(request: ModelRequest, *, forced: bool) -> ModelRequest:
    """Return a request that lets the model hand its answer in; `forced`: it must call that or another tool."""
    if request.output is None:
        return request
    tool = ToolSpec(name=_name(request), description=DESCRIPTION, parameters=request.output.schema)
    asked = {"tool_choice": "required", **(request.settings or {})} if forced else request.settings
    return replace(request, tools=(*request.tools, tool), settings=asked, output=None)


def handed_in(request: ModelRequest, reply: ModelReply) -> ModelReply:
    """Return a reply in which the answer that was handed in is the text. `request` is the one without the tool."""
    name = _name(request)
    if not any(isinstance(part, Call) and part.name == name for part in reply.parts):
        return reply
    others = any(isinstance(part, Call) and part.name != name for part in reply.parts)
    parts = list[AnswerPart]()
    answers = 0
    for part in reply.parts:
        if isinstance(part, Call) and part.name == name:
            answers += 1
            if answers == 1:
                parts.append(Text(part.malformed if part.malformed is not None else body_of(part.arguments).decode()))
        elif isinstance(part, Text) and not others:
            parts += [Reasoning(part.text)] if part.text.strip() else []  # what is said beside the answer is no part of it
        else:
            parts.append(part)
    finish = "stop" if reply.finish == "calls" and not others else reply.finish
    return replace(reply, parts=tuple(parts), finish=finish)


def _name(request: ModelRequest) -> str:
    """Return a name that no real tool has."""
    taken = {tool.name for tool in request.tools}
    return next(name for name in (NAME, *(f"{NAME}_{number}" for number in range(2, len(taken) + 3))) if name not in taken)
