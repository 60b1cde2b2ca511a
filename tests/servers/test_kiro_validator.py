import copy

import pytest

from tests.servers.kiro_validator import Answer, Rules, check, violations

PIXEL = {"format": "png", "source": {"bytes": "aGk="}}


def tool(name="ls", description="List files", **schema):
    """Return an entry of tools; *schema* is merged into its input schema."""
    return {
        "toolSpecification": {
            "name": name,
            "description": description,
            "inputSchema": {"json": {"type": "object", "properties": {"path": {"type": "string"}}} | schema},
        }
    }


def user(content="hi", *, results=(), tools=(), **fields):
    """Return a turn of the user."""
    message = {"content": content, "origin": "KIRO_CLI", **fields}
    context = {}
    if results:
        context["toolResults"] = [
            {"toolUseId": name, "status": "success", "content": [{"text": "done"}]} for name in results
        ]
    if tools:
        context["tools"] = list(tools)
    if context:
        message["userInputMessageContext"] = context
    return {"userInputMessage": message}


def assistant(content="ok", *, uses=(), **fields):
    """Return a turn of the assistant."""
    message = {"content": content, **fields}
    if uses:
        message["toolUses"] = [{"toolUseId": name, "name": "ls", "input": {"path": "."}} for name in uses]
    return {"assistantResponseMessage": message}


def body(*turns, **fields):
    """Return a request body; the last turn is the current message."""
    *history, current = turns
    return {
        "conversationState": {
            "conversationId": "5f0c0000-0000-4000-8000-000000000000",
            "chatTriggerType": "MANUAL",
            "agentTaskType": "vibe",
            "history": history,
            "currentMessage": current,
        },
        "profileArn": "arn:aws:codewhisperer:us-east-1:638616132270:profile/AAAACCCCXXXX",
        **fields,
    }


GOOD = [
    body(user()),
    body(user(modelId="glm-5"), additionalModelRequestFields={"anything": 1}),
    body(user("system"), assistant("OK."), user("question")),
    body(user(), assistant("", uses=["t1", "t2"]), user("", results=["t1", "t2"], tools=[tool()])),
    body(user(images=[PIXEL]), assistant(reasoningContent={"reasoningText": {"text": "x"}}), user()),
    body(user(), assistant(reasoningContent={"redactedContent": "aGk="}), user()),
    body(user(tools=[tool(properties={"required": {"type": "string"}, "$schema": {"type": "string"}})])),
    body(user(tools=[{"cachePoint": {"type": "default"}}, tool()])),
]


@pytest.mark.parametrize("good", GOOD)
def test_what_the_service_takes(good):
    """A right body has no violation."""
    assert violations(good) == []


def _broken(change, *turns):
    broken = copy.deepcopy(body(*turns))
    change(broken)
    return broken


def _state(**fields):
    return lambda broken: broken["conversationState"].update(fields)


def _current(**fields):
    return lambda broken: broken["conversationState"]["currentMessage"]["userInputMessage"].update(fields)


ORPHAN = "answers no tool use"
BAD = [
    # body, part of the sentence, answer
    ([], "is no object", Answer.BODY),
    ({"conversationState": None}, "wrong type", Answer.BODY),
    ({"conversationState": {}}, "chatTriggerType: is missing", Answer.BODY),
    (body(user(), inferenceConfig={}), "inferenceConfig: is no member", Answer.BODY),
    (body(user("\ud83d")), "cannot be sent", Answer.BODY),
    (body(user(), additionalModelRequestFields={"x": float("nan")}), "cannot be sent", Answer.BODY),
    (body(user(), profileArn="arn:aws:iam::1:role/x"), "profileArn", Answer.FORM),
    (body(user(), agentMode="other"), "agentMode", Answer.BODY),
    (_broken(_state(conversationId=""), user()), "1 to 128", Answer.FORM),
    (_broken(_state(agentContinuationId="x"), user()), "agentContinuationId", Answer.FORM),
    (_broken(_state(workspaceId="x"), user()), "workspaceId", Answer.FORM),
    (_broken(_state(chatTriggerType="AUTO"), user()), "chatTriggerType", Answer.BODY),
    (_broken(_state(agentTaskType="x"), user()), "agentTaskType", Answer.BODY),
    (_broken(_state(history=[user(), assistant()] * 5001), user()), "10000 messages", Answer.FORM),
    (_broken(_state(history=[{}]), user()), "exactly one of a user", Answer.BODY),
    (_broken(_state(history=["x"]), user()), "is no object", Answer.BODY),
    (_broken(_current(content=None), user()), "content: has the wrong type", Answer.BODY),
    (_broken(_current(temperature=1), user()), "temperature: is no member", Answer.BODY),
    (_broken(_current(userInputMessageContext={"x": 1}), user()), "x: is no member", Answer.BODY),
    (body(user(userInputMessageContext={"envState": {"currentWorkingDirectory": "x" * 257}})), "256", Answer.FORM),
    (body(user(userInputMessageContext={"envState": {"shell": "x"}})), "shell: is no member", Answer.BODY),
    (body(user(userInputMessageContext={"additionalContext": [{}] * 21})), "20 entries", Answer.FORM),
    (body(user(tools=[{"cachePoint": {}}])), "cachePoint", Answer.BODY),
    (body(user(tools=[tool(additionalProperties={"required": []})])), "additionalProperties.required", Answer.FORM),
    (body(user(images=[{"format": "png", "source": {"bytes": ""}}])), "no base64", Answer.FORM),
    (_broken(lambda broken: broken["conversationState"].update(currentMessage={}), user()), "is missing", Answer.BODY),
    (_broken(lambda broken: broken["conversationState"].pop("currentMessage"), user()), "is missing", Answer.BODY),
    (body(user(), {"assistantResponseMessage": {"content": "", "toolUses": [{}]}}, user()), "input: is", Answer.BODY),
    (body(user(), assistant(extra=1), user()), "extra: is no member", Answer.BODY),
    (body(user(origin="MINE")), "origin", Answer.BODY),
    (body(user(), assistant(), user(origin="AI_EDITOR")), "several origins", Answer.FORM),
    (body(user(modelId="")), "modelId: is empty", Answer.FORM),
    (body(user("")), "is empty though", Answer.FORM),
    (body(user("", images=[PIXEL])), "is empty though", Answer.FORM),
    (body(user("x" * 600_001)), "600000 characters", Answer.LENGTH),
    (body(user("é" * 170_000)), "weighs", Answer.LENGTH),
    (body(user(cachePoint={"type": "x"})), "cachePoint", Answer.BODY),
    (body(user(images=[PIXEL] * 11)), "more than 10", Answer.FORM),
    (body(user(images=[{"format": "jpg", "source": PIXEL["source"]}])), "format", Answer.BODY),
    (body(user(images=[{"format": "png", "source": {"bytes": "?"}}])), "no base64", Answer.FORM),
    (body(user(images=[{"format": "png", "source": {"url": "x"}}])), "bytes: is missing", Answer.BODY),
    (body(user(images=[PIXEL], modelId="glm-5")), "takes no images", Answer.IMAGE),
    (body(user(images=[PIXEL]), assistant(), user(modelId="minimax-m2.5")), "takes no images", Answer.IMAGE),
    (body(user(tools=[tool("a.b")])), "name", Answer.FORM),
    (body(user(tools=[tool("x" * 65)])), "name", Answer.FORM),
    (body(user(tools=[tool(), tool()])), "twice", Answer.FORM),
    (body(user(tools=[tool(description="")])), "1 to 10240", Answer.FORM),
    (body(user(tools=[tool(description="x" * 10_241)])), "1 to 10240", Answer.FORM),
    (body(user(tools=[tool(type="array")])), "type: is not object", Answer.FORM),
    (body(user(tools=[tool(anyOf=[])])), "at the root", Answer.FORM),
    (body(user(tools=[tool(**{"$schema": "x"})])), "$schema", Answer.FORM),
    (body(user(tools=[tool(required=None)])), "required", Answer.FORM),
    (body(user(tools=[tool(required=[])])), "required", Answer.FORM),
    (body(user(tools=[tool(properties=None)])), "properties: is no object", Answer.FORM),
    (body(user(tools=[tool(properties={"a": {"required": None}})])), "properties.a.required", Answer.FORM),
    (body(user(tools=[tool(properties={"a": {"items": {"required": []}}})])), "a.items.required", Answer.FORM),
    (body(user(tools=[tool(properties={"a": {"anyOf": [{"required": []}]}})])), "anyOf[0].required", Answer.FORM),
    (body(user(tools=[{"function": {}}])), "toolSpecification: is missing", Answer.BODY),
    (body(user(tools=[{"toolSpecification": {"name": "x"}}])), "inputSchema: is missing", Answer.BODY),
    (body(user(), user(), user()), "turn of the user", Answer.SEQUENCE),
    (body(assistant(), assistant(), user()), "turn of the assistant", Answer.SEQUENCE),
    (body(user(), user()), "not of the assistant", Answer.SEQUENCE),
    (body(user(), assistant(""), user()), "is empty though there are no tool uses", Answer.FORM),
    (body(user(results=["t1"], tools=[tool()])), ORPHAN, Answer.ORPHAN),
    (body(user(), assistant(uses=["t1"]), user(tools=[tool()])), "has no result", Answer.TOOL_USE),
    (body(user(), assistant(uses=["t1"]), user(results=["t1", "t1"], tools=[tool()])), "two", Answer.TOOL_USE),
    (body(user(), assistant(uses=["t1", "t2"]), user(results=["t2", "t1"], tools=[tool()])), "order", Answer.TOOL_USE),
    (body(user(), assistant(uses=["t1", "t1"]), user(results=["t1"], tools=[tool()])), "twice", Answer.TOOL_USE),
    (
        body(user(), assistant(uses=["t1"]), user(results=["t1"]), assistant(), user(results=["t1"], tools=[tool()])),
        ORPHAN,
        Answer.ORPHAN,
    ),
    (body(user(), assistant(uses=["t1"]), user(results=["t1"])), "not among the current tools", Answer.FORM),
    (body(user(), assistant(uses=["a.b"]), user(results=["a.b"], tools=[tool()])), "does not match", Answer.FORM),
    (body(user(), assistant(reasoningContent={}), user()), "reasoningContent", Answer.BODY),
    (body(user(), assistant(reasoningContent={"redactedContent": "?"}), user()), "no base64", Answer.FORM),
    (body(user(), assistant(reasoningContent={"reasoningText": {}}), user()), "text: is missing", Answer.BODY),
    (body(*[user(cachePoint={"type": "default"}), assistant()] * 5, user()), "cache points", Answer.FORM),
]


@pytest.mark.parametrize(("bad", "part", "answer"), BAD)
def test_what_the_service_refuses(bad, part, answer):
    """A break of one rule is named with its path, and has the service's answer."""
    found = check(bad)
    assert [violation for violation in found if part in str(violation) and violation.answer is answer], found


@pytest.mark.parametrize(
    ("result", "part"),
    [
        ({"content": [{}]}, "exactly one"),
        ({"content": ["x"]}, "no object"),
        ({"content": [{"text": "x", "json": {}}]}, "exactly one"),
        ({"content": [{"text": "x" * 800_001}]}, "800000"),
        ({"status": "ok"}, "status"),
        ({"toolUseId": 3}, "wrong type"),
    ],
)
def test_tool_results(result, part):
    """A tool result has an id, a status and a list of texts or JSON values."""
    bad = copy.deepcopy(GOOD[3])
    bad["conversationState"]["currentMessage"]["userInputMessage"]["userInputMessageContext"]["toolResults"][0].update(
        result
    )
    assert any(part in sentence for sentence in violations(bad))


SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": [],
    "properties": {
        "max_tokens": {"type": "integer", "minimum": 1024, "maximum": 64000},
        "output_config": {"type": "object", "properties": {"effort": {"enum": ["low"]}}, "required": ["effort"]},
    },
}
CATALOG = Rules.of(
    [
        {"modelId": "auto", "supportedInputTypes": ["TEXT", "IMAGE"]},
        {"modelId": "deep", "supportedInputTypes": ["TEXT"], "additionalModelRequestFieldsSchema": SCHEMA},
    ]
)


@pytest.mark.parametrize(
    ("model", "extra", "part"),
    [
        ("auto", {}, None),
        ("auto", {"max_tokens": 5000}, "max_tokens: is not taken"),
        ("deep", {"max_tokens": 5000, "output_config": {"effort": "low"}}, None),
        ("deep", {"max_tokens": 1}, "out of range"),
        ("deep", {"max_tokens": True}, "is no integer"),
        ("deep", {"output_config": {"effort": "max"}}, "is none of"),
        ("deep", {"output_config": {}}, "effort: is missing"),
        ("deep", {"temperature": 1}, "temperature: is not taken"),
        ("other", {}, "not in the catalog"),
    ],
)
def test_catalog_rules(model, extra, part):
    """With a catalog, model ids and extra fields are checked against it."""
    found = violations(body(user(modelId=model), additionalModelRequestFields=extra), CATALOG)
    assert (part is None and not found) or (part is not None and len(found) == 1 and part in found[0])
