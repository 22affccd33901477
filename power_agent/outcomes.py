"""What came of a call, as facts: it succeeded, it failed because the tool said so, nobody can know."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic_core import from_json, to_json, to_jsonable_python

from power_agent import events as e
from power_agent.cleaning import storable
from power_agent.context import cut_of
from power_agent.errors import InvalidInput, OutcomeUnknown, ToolError
from power_agent.messages import Attachment, ContentPart, Text, restored
from power_agent.secrets import UnknownSecret
from power_agent.state import CallState
from power_agent.uploads import Upload, taken

NOT_RUN = "It was not run."
MAX_SAID = 4_000
"""Characters of what was raised."""


class Done(NamedTuple):
    """What came of an effect: facts, and the blobs they refer to."""

    facts: tuple[e.Event, ...]
    blobs: Mapping[str, bytes] = {}


def lost(call: CallState, reason: str) -> e.Event:
    """Say that an effect was left without an outcome: harmless to repeat means aborted, everything else is doubted."""
    if call.recovery == "rerun":
        return e.CallAborted(call=call.call.id, by="power_agent", reason=reason)
    return e.CallDoubted(call=call.call.id, attempt=call.attempt, reason=reason)


def failed(call: CallState, error: BaseException, by: str | None = None) -> Done:
    """Say that a call failed, in the words of what it raised; of a group, in those of all that are in it."""
    said = _said(error)
    if isinstance(error, BaseExceptionGroup):
        within = (f"{type(one).__name__}: {_said(one)}" for one in _within(error))
        said = f"{said}: {'; '.join(within)}"[:MAX_SAID]
    if isinstance(error, ToolError):
        failure = e.Failure(code=error.code, message=said, details={"untouched": True} if error.untouched else {})
    else:
        failure = e.Failure(code="tool_failed", message=f"{type(error).__name__}: {said}" if said else type(error).__name__)
    return Done((e.CallFailed(call=call.call.id, attempt=call.attempt, failure=failure, by=by),))


def unknown_in(error: BaseException) -> OutcomeUnknown | None:
    """Return what says that nobody can know what came of it, also from among others that were raised with it."""
    return next((one for one in _within(error) if isinstance(one, OutcomeUnknown)), None)


def _within(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _within(one)
    else:
        yield error


def _said(error: BaseException) -> str:
    try:
        return " ".join(str(error).split("\0"))[:MAX_SAID]
    except Exception:  # noqa: BLE001  even that can fail
        return "(it cannot be printed)"


def untouched(call: CallState, error: Exception) -> Done:
    """Say that a call failed before this attempt of it touched anything."""
    message = str(error) if NOT_RUN in str(error) else f"{error} {NOT_RUN}"
    failure = e.Failure(code="unknown_secret" if isinstance(error, UnknownSecret) else "bad_arguments", message=message, details={"untouched": True})
    return Done((e.CallFailed(call=call.call.id, attempt=call.attempt, failure=failure),))


def succeeded(call: CallState, value: object, output_bytes: int, by: str | None = None) -> Done:
    """Turn what a tool returned into a fact; too large, it goes into a blob, and the context sees head and tail."""
    made, attempt = call.call.id, call.attempt
    if isinstance(value, Text | Attachment | Upload):
        value = (value,)
    if isinstance(value, tuple | list) and value and all(isinstance(part, Text | Attachment | Upload) for part in value):
        try:
            said, uploaded = taken(value)
        except InvalidInput as error:
            return Done((e.CallFailed(call=made, attempt=attempt, failure=e.Failure(code=error.code, message=f"It ran; only its result cannot be kept: {error.message}"), by=by),))
        done = _said_in_parts(call, said, output_bytes, by)
        return Done(done.facts, {**done.blobs, **uploaded})
    try:
        raw, output = _as_json(value)
    except (ValueError, TypeError, RecursionError) as error:
        why = " ".join(str(error).split())[:300]
        message = f"It ran; only what it returned cannot be kept, a {type(value).__name__} that is not JSON: {why}"
        if inspect.iscoroutine(value) and inspect.getcoroutinestate(value) == inspect.CORO_CREATED:
            message = "It returned a coroutine that nobody awaited: what that was to do did not happen."
            value.close()
        return Done((e.CallFailed(call=made, attempt=attempt, failure=e.Failure(code="output_not_json", message=message), by=by),))
    shown = output.encode(errors="surrogatepass") if isinstance(output, str) else raw
    if len(shown) <= output_bytes:
        return Done((e.CallSucceeded(call=made, attempt=attempt, output=output, by=by),))
    cut, blobs = cut_of(shown, output_bytes)
    return Done((e.CallSucceeded(call=made, attempt=attempt, cut=cut, by=by),), blobs)


def _said_in_parts(call: CallState, parts: tuple[ContentPart, ...], output_bytes: int, by: str | None) -> Done:
    """Keep parts as they are; with too much text among them, the text is cut as one and the attachments stay."""
    made, attempt = call.call.id, call.attempt
    text = "\n".join(part.text for part in parts if isinstance(part, Text)).encode(errors="surrogatepass")
    if len(text) <= output_bytes:
        return Done((e.CallSucceeded(call=made, attempt=attempt, parts=parts, by=by),))
    cut, blobs = cut_of(text, output_bytes)
    attached = tuple(part for part in parts if isinstance(part, Attachment))
    return Done((e.CallSucceeded(call=made, attempt=attempt, parts=attached or None, cut=cut, by=by),), blobs)


def _as_json(value: object) -> tuple[bytes, Any]:
    """Return a value as JSON text and as what that text says; lone surrogates are left for the sink to clean."""
    try:
        raw = to_json(value, inf_nan_mode="constants")
    except ValueError as error:
        if "surrogates" not in str(error):
            raise
        raw = json.dumps(_plain(value), allow_nan=False, separators=(",", ":")).encode()
        return raw, json.loads(raw)
    return raw, from_json(raw, allow_inf_nan=False)


def _plain(value: object) -> Any:
    """Return a value with lone surrogates in it as plain data; pydantic takes none in a key."""
    try:
        return to_jsonable_python(value)
    except UnicodeError:
        return restored(to_jsonable_python(storable(value)))
