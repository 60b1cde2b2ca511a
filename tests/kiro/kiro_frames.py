"""Frames as Kiro writes them."""

import json

from kimi_core.wire.eventstream import encode


def event(kind, payload=None, /, **fields):
    """Return an event frame; the payload is JSON of *fields* unless bytes are given."""
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return encode(headers, json.dumps(fields, separators=(",", ":")).encode() if payload is None else payload)


def exception(kind, /, **fields):
    """Return an exception frame."""
    headers = {":message-type": "exception", ":exception-type": kind, ":content-type": "application/json"}
    return encode(headers, json.dumps(fields).encode())


def text(content, **more):
    """Return a text frame."""
    return event("assistantResponseEvent", content=content, modelId="fake-model", **more)


def thought(**fields):
    """Return a reasoning frame."""
    return event("reasoningContentEvent", **fields)


def tool(call_id=None, name=None, **fields):
    """Return a fragment of a tool call."""
    named = {"toolUseId": call_id, "name": name}
    return event("toolUseEvent", **{key: value for key, value in named.items() if value is not None}, **fields)


def call(call_id, name, *pieces):
    """Return the frames of a whole call, as they were recorded: a start, an empty fragment, pieces, a stop."""
    frames = [tool(call_id, name), tool(call_id, name, input="")]
    frames += [tool(call_id, name, input=piece) for piece in pieces]
    return b"".join([*frames, tool(call_id, name, stop=True)])


INITIAL = event("initial-response", conversationId="")
PERCENT = event("contextUsageEvent", contextUsagePercentage=1.5)
METERING = event("meteringEvent", usage=0.073, unit="credit", unitPlural="credits")
END = PERCENT + METERING
