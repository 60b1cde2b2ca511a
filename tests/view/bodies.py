"""Bodies for views to render, and what hypothesis makes of them."""

import json

from hypothesis import strategies as st

from kimi_core.wire.eventstream import encode

FRAME = {":event-type": "assistantResponseEvent", ":content-type": "application/json", ":message-type": "event"}
WORDS = st.sampled_from(
    [
        "type", "role", "content", "messages", "model", "choices", "delta", "message", "index", "tool_calls",
        "function",
        "name", "arguments", "id", "usage", "error", "finish_reason", "text", "user", "assistant", "tool", "system",
        "tool_use", "tool_result", "thinking", "image_url", "image", "source", "data", "url",
        "data:image/png;base64,QQ",
        "content_block", "content_block_start", "content_block_delta", "message_start", "message_delta", "input",
        "input_json_delta", "partial_json", "text_delta", "reasoning_content", "conversationState", "currentMessage",
        "history", "userInputMessage", "assistantResponseMessage", "toolUses", "userInputMessageContext", "toolResults",
        "images", "tools", "reasoningContent", "reasoningText", "chat.completion.chunk", "chat.completion", "object",
        "stop_reason", "prompt_tokens", "prompt_tokens_details", "input_tokens", "toolSpecification", "format", "bytes",
    ]
)  # fmt: skip
"""Words that mean something to one view or the other, so that chance reaches into them."""
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=8)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=5), max_leaves=25
)
REQUESTS = st.fixed_dictionaries(
    {"messages": st.lists(VALUES, max_size=5)}, optional={"model": VALUES, "tools": VALUES, "system": VALUES}
) | st.fixed_dictionaries(
    {"conversationState": st.dictionaries(WORDS, VALUES, max_size=4)}, optional={"additionalModelRequestFields": VALUES}
)


def written(value):
    """Return *value* as JSON, as a service would write it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def sse(*values):
    """Return an event stream of JSON values, bytes as they are."""
    return b"".join(b"data: " + (v if isinstance(v, bytes) else written(v)) + b"\n\n" for v in values)


def chunk(delta=None, **choice):
    """Return a chunk of a streamed OpenAI answer."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "model": "k3",
        "choices": [{"index": 0, "delta": delta or {}, "finish_reason": None} | choice],
    }


def frame(payload, **headers):
    """Return a frame of an event stream; names of *headers* have "_" for "-"."""
    named = {f":{name.replace('_', '-')}": value for name, value in headers.items()} or FRAME
    return encode(named, payload if isinstance(payload, bytes) else written(payload))
