import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_core.plain import line, plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("kimi-k2", "kimi-k2"),
        ("模型 é ✓", "模型 é ✓"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("\x1b]52;c;ZmFrZQ==\x07", "\\x1b]52;c;ZmFrZQ==\\x07"),
        ("\x9b31m\x85", "\\x9b31m\\x85"),
        ("over\rwritten\x08\x00\x7f", "over\\rwritten\\x08\\x00\\x7f"),
        ("a\u202eb\u2066c\u200f\u2028\ufeff", "a\\u202eb\\u2066c\\u200f\\u2028\\ufeff"),
    ],
)
def test_what_steers_a_terminal_is_written_out(text, shown):
    """Escape sequences, control characters and changes of direction are shown, everything else stays."""
    assert plain(text) == shown


def test_a_name_stays_on_its_line():
    """A line break in a name forges no line of a log."""
    assert line("k3\n[12:00:00] Logged in.\tyes") == "k3\\n[12:00:00] Logged in. yes"
    assert line("k" * 300, 20) == "k" * 19 + "…"


@given(st.text())
def test_any_text_is_safe_and_stays_so(text):
    """Nothing that steers is left, and what is safe is not written out again."""
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", plain(text))
    assert plain(plain(text)) == plain(text)
    assert not re.search("[\n\t]", line(text))
