"""Bodies of the addon against the recorded ones of the client whose identity it takes, field by field."""

from __future__ import annotations

import json

import pytest

from kimi_core.kimi.body import BodyOptions, rewrite
from kimi_core.kimi.memory import ReasoningMemory
from kimi_core.kimi.models import Catalog, Model
from tests.kimi import recordings

# the fake server of the recordings listed these
CATALOG = Catalog(
    (
        Model("kimi-for-coding", context_length=262144, reasoning=True, thinking_type="both"),
        Model("k3", context_length=1048576, reasoning=True, efforts=("low", "high", "max"), default_effort="high"),
    )
)

# (file, case) -> what our body has other than the recorded one, and why
NATIVE_DIFFERENCES = {
    # temperature was set by an environment variable; the server fixes it for these models, so it is dropped
    (recordings.KIMI_CLI, "env knobs"): lambda body: body.pop("temperature"),
    (recordings.KIMI_CODE, "env knobs"): lambda body: body.pop("temperature"),
    # the user told Kimi Code not to keep reasoning, which it says by leaving keep out, as every other client does
    (recordings.KIMI_CODE, "chat thinking keep none (config)"): lambda body: body["thinking"].update(keep="all"),
}

# what the body of an opencode request has other than any native body of the identity, and why
MORE_THAN_NATIVE = {
    "extra_field": "the user put it into the provider options; unknown fields are the user's own",
}
LESS_THAN_NATIVE = {
    ("kimi-cli", "thinking"): "effort auto, which no native client knows, means that neither field is sent",
    ("kimi-code", "thinking"): "the same",
    ("kimi-code", "tools"): "Kimi Code itself always has tools; without any it leaves the key out, as here",
}


DIALECT = {"kimi-cli": "kimi-cli", "kimi-code": "kimi-code", "own": "plugin"}


def options(identity, thinking=None):
    """Return the options of an identity with its own dialect."""
    return BodyOptions(
        thinking=thinking or DIALECT[identity], identity=identity, salt="fake-salt", prefer_parent=True, clamp=False
    )


def rewritten(recording, identity, thinking=None):
    """Return the decoded body that goes out for a recorded request, and all that was returned."""
    out = rewrite(
        recording.raw,
        recording.headers,
        catalog=CATALOG,
        options=options(identity, thinking),
        memory=ReasoningMemory(),
    )
    return json.loads(out.body), out


def native(name):
    """Return the chat requests of one recording as parameters."""
    return [pytest.param(name, r, id=f"{name}: {r.case}") for r in recordings.chats(name)]


IDENTITY_OF = {recordings.KIMI_CLI: "kimi-cli", recordings.KIMI_CODE: "kimi-code"}


@pytest.mark.parametrize(("name", "recording"), native(recordings.KIMI_CLI) + native(recordings.KIMI_CODE))
def test_a_native_body_stays_what_it_is(name, recording):
    """What the official client sends goes out as it is under its own identity, but for the listed differences."""
    expected = json.loads(recording.raw)
    NATIVE_DIFFERENCES.get((name, recording.case), lambda body: None)(expected)
    got, out = rewritten(recording, IDENTITY_OF[name])
    assert got == expected
    assert set(out.repairs) <= {"temperature-dropped", "reasoning-empty-added"}


@pytest.mark.parametrize("name", [recordings.KIMI_CLI, recordings.KIMI_CODE])
def test_a_native_body_that_needs_nothing_keeps_its_bytes(name):
    """Not one byte changes in a body that is native already."""
    listed = {case for file, case in NATIVE_DIFFERENCES if file == name}
    for recording in recordings.chats(name):
        if recording.case not in listed:
            assert rewritten(recording, IDENTITY_OF[name])[1].body == recording.raw


@pytest.mark.parametrize("name", [recordings.KIMI_CLI, recordings.KIMI_CODE])
@pytest.mark.parametrize("recording", recordings.chats(recordings.OPENCODE), ids=lambda r: r.case)
def test_an_opencode_body_has_the_keys_and_fixed_values_of_the_native_one(name, recording):
    """What opencode sends comes out with the native client's keys and constant values, but for the listed ones."""
    identity = IDENTITY_OF[name]
    twin = next(r.body for r in recordings.chats(name) if r.case.startswith("chat default"))
    got, _ = rewritten(recording, identity)
    assert got.keys() - twin.keys() <= MORE_THAN_NATIVE.keys()
    assert {(identity, key) for key in twin.keys() - got.keys()} <= LESS_THAN_NATIVE.keys()
    assert ("thinking" in got) == (recording.body.get("reasoning_effort") != "auto")
    for key in ("model", "stream", "stream_options"):
        assert got[key] == twin[key]
    off = recording.body.get("reasoning_effort") == "off"
    silent = recording.body.get("reasoning_effort") == "auto"
    assert got.get("thinking") == (None if silent else {"type": "disabled"} if off else twin["thinking"])


def shape(message):
    """Return the keys of a message and of its tool calls, which is what a client's converter decides."""
    calls = [call.keys() for call in message.get("tool_calls", [])]
    return message["role"], set(message), type(message.get("content")), [set(keys) for keys in calls]


@pytest.mark.parametrize(
    ("name", "case"), [(recordings.KIMI_CLI, "tool call Shell"), (recordings.KIMI_CODE, "tool call Bash")]
)
def test_the_tool_turn_of_opencode_has_the_shape_of_the_native_one(name, case):
    """A turn with a tool call goes out with the same keys per message, and with ids of the same make."""
    recorded = [r for r in recordings.chats(recordings.OPENCODE) if r.case == "tool call bash"][-1]
    ours, _ = rewritten(recorded, IDENTITY_OF[name])
    twin = [r for r in recordings.chats(name) if r.case == case][-1].body
    call, result = ours["messages"][-2:]
    native_call, native_result = twin["messages"][-2:]
    assert shape(call) == shape(native_call)
    assert set(result) == set(native_result)
    assert call["tool_calls"][0]["id"] == result["tool_call_id"]
    native_id = native_call["tool_calls"][0]["id"]
    assert call["tool_calls"][0]["id"] == native_id.replace("Shell", "bash").replace("Bash", "bash")


@pytest.mark.parametrize("identity", ["kimi-cli", "kimi-code", "own"])
def test_title_main_and_sub_agent_of_a_session_have_one_key(identity):
    """Every request of an opencode session carries the same key; the sub-agent has its parent's."""
    sessions = {}
    for recording in recordings.chats(recordings.OPENCODE):
        session = recording.headers.get("x-parent-session-id") or recording.headers.get("x-session-id")
        sessions.setdefault(session, set()).add(rewritten(recording, identity)[0]["prompt_cache_key"])
    assert all(len(keys) == 1 for keys in sessions.values())
    assert len(set.union(*sessions.values())) == len(sessions)
    assert not any("ses_" in key for keys in sessions.values() for key in keys)


def test_the_plugins_dialect_differs_from_kimi_cli_in_reasoning_effort_alone():
    """The default dialect adds reasoning_effort to what kimi-cli sends, where a level was asked for."""
    for recording in recordings.chats(recordings.OPENCODE):
        plugin, _ = rewritten(recording, "kimi-cli", "plugin")
        effort = plugin.pop("reasoning_effort", None)
        asked = recording.body.get("reasoning_effort") or recording.body.get("thinking", {}).get("effort")
        assert effort == (asked if asked == "high" else None)
        assert plugin == rewritten(recording, "kimi-cli")[0]
