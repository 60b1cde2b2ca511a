import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_core.kiro.request import translate
from kimi_core.view import transcript
from kimi_core.view.request import is_request, render
from kimi_core.view.text import PAGE
from tests.view.bodies import REQUESTS, VALUES, written

PNG = "data:image/png;base64," + "A" * 40_000
CALL = {"id": "call_1", "type": "function", "function": {"name": "read", "arguments": '{"path": "a"}'}}
OPENAI = {
    "model": "kimi-for-coding",
    "reasoning_effort": "high",
    "prompt_cache_key": "key-1",
    "stream": True,
    "max_tokens": 32000,
    "temperature": 0.5,
    "tool_choice": "auto",
    "custom": {"a": 1},
    "tools": [{"type": "function", "function": {"name": "read"}}, {"name": "bash"}, {"type": "web_search"}, 1],
    "messages": [
        {"role": "system", "content": "You are a coding agent. " * 200},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Look."}, {"type": "image_url", "image_url": {"url": PNG}}],
        },
        {"role": "assistant", "content": None, "reasoning_content": "Hm.", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "the file"},
        {"role": "user", "name": "me", "content": "Go on.", "cache_control": {"type": "ephemeral"}},
    ],
}
ANTHROPIC = {
    "model": "k3",
    "max_tokens": 1000,
    "thinking": {"type": "enabled", "budget_tokens": 500},
    "system": [{"type": "text", "text": "Be brief."}],
    "tools": [{"name": "Bash", "input_schema": {"type": "object"}}],
    "messages": [
        {"role": "user", "content": "Hello."},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "s"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "ls"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "t1",
                    "is_error": True,
                    "content": [{"type": "text", "text": "no"}],
                },
                {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "A" * 4000}},
                {"type": "document", "source": "x" * 500, "title": "a paper"},
            ],
        },
    ],
}


def kiro(body):
    """Return *body* as it goes to Kiro."""
    translated = translate(written(body), model=None, identity_origin="KIRO_CLI", conversation_id="conversation-1")
    return translated.body("arn:aws:codewhisperer:us-east-1:1:profile/P")


def test_an_openai_request():
    """Head, tools by name, and the turns: texts shortened, calls, results, images as type and size."""
    page = render(written(OPENAI), "a note")
    head, *turns = page.split("\n── ")
    assert head.startswith("Chat request, OpenAI · 5 messages · ")
    assert "a note" in head
    rows = [line.split(maxsplit=1) for line in head.splitlines() if line.strip()]
    assert ["model", "kimi-for-coding"] in rows
    assert ["effort", "reasoning_effort high"] in rows
    assert "cache key  key-1" in head
    assert ["stream", "stream true"] in rows
    assert ["limits", "max_tokens 32000"] in rows
    assert ["tools", "4: read, bash, web_search, (no name)"] in rows
    assert ["custom", '{"a":1}'] in rows
    assert turns[0].startswith("1 system ─")
    assert "[… 3,300 of 4,800 characters left out …]" in turns[0]
    assert "Look.\n \n[image image/png, 29.3 KiB]" in turns[1]
    assert "[reasoning, 3 characters]\nHm.\n \n→ read · call_1\n" + '{"path":"a"}' in turns[2]
    assert turns[3].startswith("4 tool · call_1 ─")
    assert turns[4].startswith("5 user · me ─")
    assert '{"cache_control":{"type":"ephemeral"}}' in turns[4]


def test_an_anthropic_request():
    """The same in the Anthropic dialect, which has a system text and results within user turns."""
    page = render(written(ANTHROPIC))
    assert page.startswith("Chat request, Anthropic")
    assert 'effort     thinking {"type":"enabled","budget_tokens":500}' in page
    assert "── system ─" in page
    assert "Be brief." in page
    assert "tools      1: Bash" in page
    assert '→ Bash · t1\n{"command":"ls"}' in page
    assert "← result (error) · t1" in page
    assert "[image image/jpeg, 2.9 KiB]" in page
    assert '[document] {"source":"(500 characters)","title":"a paper"}' in page
    bare = {name: ANTHROPIC[name] for name in ("model", "messages")}
    assert render(written(bare)).startswith("Chat request, Anthropic")


def test_a_kiro_request():
    """A conversationState reads like the request that it was made of."""
    tool = {"type": "function", "function": {"name": "read", "parameters": {"type": "object"}}}
    page = render(kiro({name: OPENAI[name] for name in ("model", "messages")} | {"tools": [tool]}))
    assert page.startswith("Kiro request · ")
    assert "model      kimi-for-coding" in page
    assert "cache key  conversation-1" in page
    assert "origin     KIRO_CLI" in page
    assert "profile    arn:aws" in page
    assert "read" in page
    assert "[image png, 29.3 KiB]" in page
    assert '→ read · call_1\n{"path":"a"}' in page
    assert "← result · call_1" in page
    assert "the file" in page
    assert "Go on." in page


def test_parts_of_kiro_that_our_own_requests_have_not():
    """What only Kiro's own clients send is shown as well."""
    message = {
        "userInputMessageContext": {
            "envState": {"os": "linux"},
            "toolResults": [{"status": "error", "content": [{"json": {"a": 1}}, {"odd": 2}]}],
        },
        "content": "",
        "userIntent": "x",
    }
    thoughts = [{"reasoningText": {"text": "Hm."}}, {"redactedContent": "abc"}]
    answers = [{"assistantResponseMessage": {"content": "a", "reasoningContent": thought}} for thought in thoughts]
    state = {"history": [*answers, "odd"], "currentMessage": {"userInputMessage": message}, "workspaceId": "w"}
    page = render(written({"conversationState": state, "agentMode": "vibe"}))
    assert "workspaceId w" in page.replace('"', "")
    assert "agentMode  " in page
    assert '{"envState":{"os":"linux"}}' in page
    assert '{"userIntent":"x"}' in page
    assert "← result (error)" in page
    assert '{"a":1}' in page
    assert '{"odd":2}' in page
    assert "[reasoning, 3 characters]" in page
    assert "[reasoning, hidden, 25 characters]" in page
    assert "(no message)" in page
    assert "tools      none" in page


def test_parts_of_other_kinds():
    """Images by address, odd parts and messages that are none are shown as what they are."""
    parts = [
        {"type": "input_text", "text": "a"},
        {"type": "image_url", "image_url": "https://example.com/a.png"},
        {"type": "image", "source": {"media_type": "image/png"}},
        {"type": "input_image", "image_url": "data:;base64,QQ"},
        {"type": "thinking", "thinking": 1},
        "plain",
        {"a": 1},
    ]
    messages = [{"role": "user", "content": parts}, "odd", {"content": {"b": 2}, "reasoning": {"c": 3}}]
    page = render(written({"messages": messages, "functions": [{"name": "f"}]}))
    assert "[image at https://example.com/a.png]" in page
    assert "[image image/png, no data]" in page
    assert "[image of unknown type, 1 B]" in page
    assert '[thinking] {"thinking":1}' in page
    assert "plain" in page
    assert '{"a":1}' in page
    assert "(no message)" in page
    assert "(no role)" in page
    assert '{"b":2}' in page
    assert '{"c":3}' in page
    assert "tools      1: f" in page


def test_long_conversations_are_shown_from_both_ends():
    """Of many turns the beginning and the end are shown, the rest is counted; the last turn is shown at length."""
    turns = [{"role": "user", "content": f"turn {n} " + "x" * 5000} for n in range(500)]
    page = render(written({"model": "m", "messages": turns}))
    left_out = 500 - transcript.FIRST - transcript.LAST
    assert f"… {left_out} turns left out …" in page
    assert f"turn {transcript.FIRST - 1}\n" in page
    assert f"turn {transcript.FIRST}\n" not in page
    assert "turn 499\n" in page
    last = page[page.index("500 user") :]
    assert "left out" not in last
    assert last.count("x") == 5000


def test_a_page_that_is_full_still_shows_the_last_turn():
    """However long the turns are, what the request is about has room."""
    turns = [{"role": "user", "content": [{"type": "text", "text": "y" * 1500}] * 50} for _ in range(50)]
    page = render(written({"model": "m", "messages": [*turns, {"role": "user", "content": "the question"}]}))
    assert "had no room here" in page
    assert page.endswith("the question")


def test_many_parts_and_tools_are_bounded():
    """Lists are shown up to a bound."""
    body = {"messages": [{"role": "user", "content": ["a"] * 500}], "tools": [{"name": "t"}] * 500}
    page = render(written(body))
    assert "[… 100 parts left out …]" in page
    assert "… 100 more" in page
    tools = [{"toolSpecification": {"name": "t"}}] * 500
    message = {"userInputMessage": {"content": "", "userInputMessageContext": {"tools": tools}}}
    assert "… 100 more" in render(written({"conversationState": {"currentMessage": message}}))


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"messages": 1}', b'{"a": 1}'])
def test_what_is_no_request(body):
    """Anything else is shown as what it is, and is not taken for a request."""
    assert render(body).startswith("No chat request")
    assert not is_request(body)


def test_a_cut_request_is_read_as_far_as_it_goes():
    """A request that was cut shows what came of it, and says so."""
    page = render(written(OPENAI)[:-300])
    assert "no whole JSON" in page
    assert "── 2 user ─" in page


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (OPENAI, True),
        (ANTHROPIC, True),
        ({"tools": ["x" * 100_000], "messages": [{"role": "user"}], "model": "m"}, True),
        ({"messages": [{"role": "user", "content": "x" * 100_000}], "model": "m"}, True),
        ({"conversationState": {"currentMessage": {}}}, True),
        ({"conversationState": []}, False),
        ({"messages": [{"role": "user"}]}, False),
        ({"messages": [{"text": "hi"}], "model": "m"}, False),
        ({"messages": [], "model": "m"}, False),
        ({"log": {"messages": [{"role": "user"}], "model": "m"}}, False),
        ([{"messages": 1}], False),
    ],
)
def test_requests_are_known_by_their_shape(body, expected):
    """What is taken for a chat request."""
    assert is_request(written(body)) is expected


@given(REQUESTS | VALUES, st.data())
@settings(max_examples=100)
def test_any_json_gives_a_page(value, data):
    """Whatever stands in a request, and wherever it was cut, a page comes of it that can be encoded."""
    body = written(value)
    render(body).encode()
    is_request(body)
    render(body[: data.draw(st.integers(0, len(body)))]).encode()


@given(st.lists(VALUES, max_size=4))
@settings(max_examples=60)
def test_any_content_gives_a_page(parts):
    """The same within messages of each kind."""
    render(written({"messages": [{"role": "user", "content": parts, "tool_calls": parts}]})).encode()
    message = {"content": "", "images": parts, "userInputMessageContext": {"toolResults": parts, "tools": parts}}
    turns = [{"userInputMessage": message}, {"assistantResponseMessage": {"toolUses": parts}}]
    render(written({"conversationState": {"history": turns, "currentMessage": turns[0]}})).encode()


@given(st.binary(max_size=200))
@settings(max_examples=100)
def test_any_bytes_give_a_page(data):
    """Bytes of any kind are shown."""
    render(data).encode()
    render(b'{"messages": [' + data).encode()


@pytest.mark.parametrize(
    "body",
    [
        {"model": "m", "messages": [{"role": "user", "content": "line\n" * 500}] * 2000},
        {"model": "m", "messages": [{"role": "user", "content": "hi"}] * 120_000},
        {"model": "m", "messages": [{"role": "user", "content": 'quote " é\n' * 400_000}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PNG * 120}}]}]},
    ],
    ids=["turns", "tiny", "one", "image"],
)
def test_five_megabytes_make_a_bounded_page(body):
    """Of a long request no more is shown than a browser can take."""
    data = json.dumps(body).encode()
    page = render(data)
    is_request(data)
    assert 0 < len(page) < 2 * PAGE


def test_notes_on_a_kiro_request():
    """What is wrong with a body of Kiro's, or how much of it is kept, stands at its top."""
    body = written({"conversationState": {"currentMessage": {"userInputMessage": {"content": "a"}}}})
    assert "a note" in render(body, "a note")
    assert "no whole JSON" in render(body[:-3])


def test_words_of_a_request_within_no_json():
    """Words alone make no request."""
    assert not is_request(b'\xff "messages" "model"')
