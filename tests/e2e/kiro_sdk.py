"""The OpenAI Python SDK as a client of Kiro: how it gets there, what it says, and what it was told."""

import json

import openai

from tests.e2e.harness import CLIENT_SECONDS

MODEL = "claude-sonnet-4.5"
KEY = "client-key"
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "adds",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a"],
            "additionalProperties": False,
        },
    },
}


def make(proxy, way):
    """Return an SDK client that reaches *proxy* over HTTP/1.1, HTTP/2, or as its plain base URL."""
    if way == "local":
        http = openai.DefaultHttpxClient(trust_env=False)
        return openai.OpenAI(base_url=proxy.local, api_key=KEY, http_client=http, max_retries=0, timeout=CLIENT_SECONDS)
    trust = proxy.trust([{"h1": "http/1.1", "h2": "h2"}[way]])
    http = openai.DefaultHttpxClient(proxy=proxy.url, verify=trust, http2=way == "h2", trust_env=False)
    return openai.OpenAI(base_url=proxy.base, api_key=KEY, http_client=http, max_retries=0, timeout=CLIENT_SECONDS)


def say(content, **more):
    """Return the arguments of a call that says *content*."""
    return {"model": MODEL, "messages": [{"role": "user", "content": content}]} | more


def told(parts):
    """Return text and finish reason of a stream."""
    choices = [part.choices[0] for part in parts if part.choices]
    return "".join(choice.delta.content or "" for choice in choices), choices[-1].finish_reason


def called(parts):
    """Return name and arguments of the calls of a stream, as its client puts them together."""
    calls = {}
    for part in parts:
        for piece in (part.choices[0].delta.tool_calls or ()) if part.choices else ():
            name, arguments = calls.get(piece.index, ("", ""))
            calls[piece.index] = (name + (piece.function.name or ""), arguments + (piece.function.arguments or ""))
    return [(name, json.loads(arguments)) for name, arguments in calls.values()]
