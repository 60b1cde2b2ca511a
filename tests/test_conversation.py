import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_core.conversation import SESSION_HEADERS, conversation_key
from kimi_core.headers import Headers

NATIVE_CLI = "0d9f7f2e-5b1c-4d36-9c36-6f1f6c2f9b10"
NATIVE_CODE = f"session_{NATIVE_CLI}"


def key(headers=(), body=None, *, salt="fake-salt", prefer_parent=True):
    """Return the key of a request."""
    return conversation_key(Headers(headers), body or {}, salt=salt, prefer_parent=prefer_parent)


def chat(*messages, **rest):
    """Return a body with messages of (role, content)."""
    return {"messages": [{"role": role, "content": content} for role, content in messages], **rest}


@pytest.mark.parametrize("native", [NATIVE_CLI, NATIVE_CODE])
def test_a_native_key_passes_verbatim(native):
    """What an official client sends as its key is its key, whatever session header stands beside it."""
    got = key([("x-session-id", "ses_1"), ("x-parent-session-id", "ses_0")], {"prompt_cache_key": native})
    assert (got.value, got.layer) == (native, "native")


@pytest.mark.parametrize(
    ("headers", "body", "layer"),
    [
        ([], {"prompt_cache_key": "ses_1"}, "body"),
        ([], {"prompt_cache_key": NATIVE_CLI.upper()}, "body"),
        ([("x-session-id", NATIVE_CLI)], {"prompt_cache_key": NATIVE_CLI}, "body"),
        ([], {"promptCacheKey": NATIVE_CLI}, "camel-case"),
        ([("x-opencode-kimi-prompt-cache-key", "ses_1")], {}, "private-header"),
        ([("X-Parent-Session-Id", "ses_0"), ("X-Session-Id", "ses_1")], {}, "parent"),
        ([("x-parent-session-id", "ses_0"), ("x-session-id", "s")], {"promptCacheKey": "s"}, "parent"),
        ([("x-parent-session-id", "ses_0"), ("x-session-id", "s")], {"prompt_cache_key": "s"}, "parent"),
        ([("x-parent-session-id", "ses_0"), ("x-session-id", "s")], {"prompt_cache_key": "t"}, "body"),
        ([], {"metadata": {"user_id": "user_1_session_2"}, "user": "u"}, "metadata"),
        ([], {"metadata": {"user_id": 3}, "user": "u"}, "user"),
        ([], {"prompt_cache_key": " ", "promptCacheKey": 7, "metadata": []}, "hash"),
        *(([(name, "ses_1")], {"user": "u"}, name) for name in SESSION_HEADERS),
    ],
)
def test_the_first_signal_in_the_documented_order_counts(headers, body, layer):
    """Each layer is found, named, and mapped to a dashed UUID."""
    got = key(headers, body)
    assert got.layer == layer
    assert str(uuid.UUID(got.value)) == got.value
    assert got.value not in str([headers, body])


def test_the_layer_does_not_enter_the_value():
    """A title call with the header alone and a main call with a body key have one key."""
    title = key([("x-session-id", "ses_1")])
    assert title.value == key([("x-session-id", "ses_1")], {"promptCacheKey": "ses_1"}).value
    assert title.value == key([("x-session-affinity", "ses_1")], {"prompt_cache_key": "ses_1"}).value
    assert title.value == key([("x-session-id", "ses_2"), ("x-parent-session-id", "ses_1")]).value


def test_a_uuid_for_a_session_id_is_mapped_in_title_and_main_call_alike():
    """A session id that looks native is a foreign id all the same where a header carries it."""
    title = key([("x-session-id", NATIVE_CLI)])
    assert title.value == key([("x-session-id", NATIVE_CLI)], {"prompt_cache_key": NATIVE_CLI}).value != NATIVE_CLI


def test_a_sub_agent_has_a_key_of_its_own_where_the_user_says_so():
    """Without the preference the parent header is no signal at all."""
    headers = [("x-parent-session-id", "ses_0"), ("x-session-id", "ses_1")]
    got = key(headers, prefer_parent=False)
    assert (got.value, got.layer) == (key([("x-session-id", "ses_1")]).value, "x-session-id")
    assert key([("x-parent-session-id", "ses_0")], prefer_parent=False).layer == "hash"


def test_the_salt_separates_installations():
    """The same session id gives another key elsewhere."""
    assert key(body={"user": "u"}).value != key(body={"user": "u"}, salt="other").value


def test_without_signals_the_opening_decides():
    """Later turns keep the key; another first message, system text or client has another."""
    opening = [("system", "You are."), ("user", "hi")]
    first = key(body=chat(*opening))
    assert first.layer == "hash"
    assert first == key(body=chat(*opening, ("assistant", "hello"), ("user", "more"), model="k3"))
    others = [
        key(body=chat(("system", "You are."), ("user", "ho"))),
        key(body=chat(("system", "They are."), ("user", "hi"))),
        key([("user-agent", "other/1.0")], chat(*opening)),
        key(body={}),
    ]
    assert len({first.value, *(other.value for other in others)}) == 5


def test_dates_and_directories_of_the_system_text_do_not_change_the_key():
    """Only the beginning of its first line counts, without its digits."""
    monday = key(body=chat(("system", "Agent v1.2\nToday is Monday. cwd: /a"), ("user", "hi")))
    assert monday == key(body=chat(("system", "Agent v1.3\nToday is Tuesday. cwd: /b"), ("user", "hi")))


@pytest.mark.parametrize(
    "parts",
    [
        [{"type": "text", "text": "hi"}],
        [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}],
        [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}],
    ],
)
def test_the_same_text_in_parts_is_the_same_opening(parts):
    """Clients switch between a string and parts, and move cache marks, in mid-conversation."""
    assert key(body=chat(("user", parts))) == key(body=chat(("user", "hi")))


def test_an_image_is_part_of_the_opening():
    """Two images are two conversations; a moved cache mark is not."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
    other = {"type": "image_url", "image_url": {"url": "data:image/png;base64,BB"}}
    assert key(body=chat(("user", [image]))) != key(body=chat(("user", [other])))
    assert key(body=chat(("user", [image]))) == key(body=chat(("user", [{**image, "cache_control": {}}])))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(["messages", "metadata", "user", "prompt_cache_key", "promptCacheKey"])
histories = st.lists(
    json_values | st.fixed_dictionaries({"role": st.sampled_from(["system", "user"]), "content": json_values}),
    max_size=4,
)


@settings(max_examples=75)
@given(body=st.dictionaries(names, json_values | histories, max_size=5))
def test_any_body_has_a_key_and_always_the_same(body):
    """Nothing a client sends makes it fail, and nothing random goes in."""
    assert key(body=body) == key(body=body)
    assert key(body=body).value


def test_lone_surrogates_are_no_obstacle():
    """A session id or a message may hold half a character."""
    assert key(body={"prompt_cache_key": "\ud800"}).layer == "body"
    assert key(body=chat(("user", "\ud800"))).layer == "hash"
