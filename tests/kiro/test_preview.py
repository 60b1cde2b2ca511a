import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_core.kiro.preview import preview

ARN = "arn:aws:codewhisperer:us-east-1:638616132270:profile/AAAACCCCXXXX"
SPEC = {"toolSpecification": {"name": "ls", "description": "secret", "inputSchema": {"json": {}}}}
USE = {"toolUseId": "id_1", "name": "ls", "input": {"secret": 1}}
RESULT = {"toolUseId": "id_1", "status": "success", "content": [{"text": "secret"}]}
PICTURE = {"format": "png", "source": {"bytes": "secret"}}


def user(content, **more):
    """Return a turn of the user."""
    return {"userInputMessage": {"content": content, "origin": "KIRO_CLI", **more}}


def body(*turns, **more):
    """Return a request body."""
    *past, current = turns
    return json.dumps({"conversationState": {"history": past, "currentMessage": current}, **more}).encode()


def test_the_form_shows_and_no_words():
    """Names of tools and models, words of the protocol, and lengths."""
    assistant = {"assistantResponseMessage": {"content": "", "toolUses": [USE]}}
    context = {"toolResults": [RESULT], "tools": [SPEC]}
    fields = {"output_config": {"effort": "high"}, "max_tokens": 9}
    document = body(
        user("secret words", images=[PICTURE]),
        assistant,
        user("", modelId="auto", userInputMessageContext=context),
        profileArn=ARN,
        additionalModelRequestFields=fields,
    )
    assert preview(document).splitlines() == [
        "request {profileArn: <65>, additionalModelRequestFields: {output_config: {effort: high}, max_tokens: int}}",
        "0 user {content: <12>, origin: KIRO_CLI, images: [{format: png, source: {bytes: <6>}}]}",
        "1 assistant {content: <0>, toolUses: [{toolUseId: <4>, name: ls, input: {1 members}}]}",
        "2 user {content: <0>, origin: KIRO_CLI, modelId: auto, "
        "toolResults: [{toolUseId: <4>, status: success, content: [{text: <6>}]}]} tools: ls",
    ]


def test_its_length_is_bounded():
    """A log has other things to say."""
    shown = preview(body(*(user("x") for _ in range(1000))))
    assert len(shown) < 17_000
    assert shown.endswith("characters)")


@pytest.mark.parametrize("document", [b"", b"3", b"{}", b'{"conversationState":{"history":[3],"currentMessage":{}}}'])
def test_what_is_no_request_is_counted(document):
    """Whatever it is."""
    assert preview(document) == f"{len(document)} bytes that are no request"


@given(st.binary(max_size=40))
def test_any_bytes_give_a_line(document):
    """It never raises."""
    assert preview(document)
