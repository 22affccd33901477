"""What of an answer may go back to whom. A signature, an encrypted thought, an item of a provider's own and an id that it gave mean
something only to whoever made them: nobody else is sent them.

Each answer is kept with the format it came in (`model.answered.format`). Where several services share a format, the name of the one
that spoke stands behind it: `openai-chat@groq`. What was said and called, and what came of it, crosses; the rest is left out.
An attachment that a model cannot take is named in words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from power_agent.messages import AnyPart, Attachment, Call, ContentPart, Message, Output, Text
from power_agent.word import replace


def spoken(form: str, speaker: str | None) -> str:
    """Return the name under which answers of a speaker are kept; without one it is the format's own."""
    return form if speaker is None else f"{form}@{speaker}"


def crossed(messages: Sequence[Message], form: str, speaker: str | None) -> tuple[Message, ...]:
    """Return messages as one speaker may see them: its own answers named by the format alone, those of others without what is theirs."""
    ours, foreign = spoken(form, speaker), set[str]()
    return tuple(_seen(message, ours, form, foreign) for message in messages)


def carried(messages: Sequence[Message], refuses: Callable[[Attachment], str | None]) -> tuple[Message, ...]:
    """Return messages with words in the place of attachments that a model cannot take. What is said to it is checked before it is
    kept; what a tool returned, or was said to another model, is in the log, and must not be in the way of every later request.
    """
    return tuple(_worded(message, refuses) if any(_attachments(message.parts)) else message for message in messages)


def _attachments(parts: Iterable[AnyPart]) -> Iterator[Attachment]:
    for part in parts:
        if isinstance(part, Attachment):
            yield part
        elif isinstance(part, Output):
            yield from _attachments(part.content)


def _worded(message: Message, refuses: Callable[[Attachment], str | None]) -> Message:
    def one(part: ContentPart) -> ContentPart:
        if not isinstance(part, Attachment) or (why := refuses(part)) is None:
            return part
        return Text(f"[{part.name or part.url or 'attachment'}: {part.media_type}, not shown: {why}]")

    parts = [replace(part, content=tuple(map(one, part.content))) if isinstance(part, Output) else one(part) if isinstance(part, Attachment) else part for part in message.parts]
    return replace(message, parts=tuple(parts))


def _seen(message: Message, ours: str, form: str, foreign: set[str]) -> Message:
    """Return one message; `foreign` gathers the calls that go by our ids, for their outputs come behind them."""
    if message.role == "assistant":
        if message.format == ours:
            return message if ours == form else replace(message, format=form)
        made = {part.id for part in message.parts if isinstance(part, Call) and part.id}
        foreign |= made
        return replace(message, format=None, parts=tuple(_call(part) for part in message.parts)) if made or message.format is not None else message
    if message.role == "tool" and foreign and not foreign.isdisjoint(_answered(message.parts)):
        return replace(message, parts=tuple(_output(part, foreign) for part in message.parts))
    return message


def _call(part: AnyPart) -> AnyPart:
    return replace(part, provider_id=None, raw=None) if isinstance(part, Call) and part.id else part


def _answered(parts: Iterable[AnyPart]) -> set[str]:
    return {part.call for part in parts if isinstance(part, Output)}


def _output(part: AnyPart, foreign: set[str]) -> AnyPart:
    return replace(part, provider_id=None) if isinstance(part, Output) and part.call in foreign else part
