import pytest

from kimi_core.kimi.estimate import MEDIA_TOKENS, estimate, text_tokens


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("思考", 2), ("abcdé", 2)])
def test_a_text_is_a_quarter_token_a_character_or_a_whole_one(text, tokens):
    """kimi-cli's arithmetic: ASCII by fours, rounded up; everything else one each."""
    assert text_tokens(text) == tokens


@pytest.mark.parametrize(
    ("message", "tokens"),
    [
        ({"role": "user", "content": "abcdefgh"}, 2),
        ({"role": "user", "content": [{"type": "text", "text": "abcd"}, {"type": "image_url"}]}, 1 + MEDIA_TOKENS),
        ({"role": "assistant", "content": "abcd", "reasoning_content": "abcd"}, 2),
        ({"role": "assistant", "tool_calls": [{"function": {"arguments": "abcd"}}, {}, "odd"]}, 1),
        ({"role": "assistant", "content": None, "tool_calls": None}, 0),
        ({"content": [7, {"type": "text"}]}, 0),
    ],
)
def test_a_message_is_its_text_reasoning_arguments_and_media(message, tokens):
    """What has no tokens counts none, however odd."""
    assert estimate([message, message]) == 2 * tokens
