import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_core.page import files, rendering
from kimi_core.page.state import Level, Outcome, Provider, Token, Total
from tests.page.made import NOW, block, entry, login, page

VOID = {"meta", "link", "img"}
INLINE = {"a", "code", "span", "time"}
EVIL = st.one_of(
    st.text(max_size=60),
    st.sampled_from(
        [
            "<script>alert(1)</script>", '" onmouseover="x', "'><img src=x>", "</title><b>", "{{ 7 * 7 }}",
            "{% raw %}", "&lt;", "-->",
        ]
    ),
)  # fmt: skip


class Reader(HTMLParser):
    """Reads a document; notes its tags, attributes and texts, and whether every element is closed."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.texts, self.open, self.faults = [], [], [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.texts.append("" if tag in INLINE else " ")
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        self.texts.append("" if tag in INLINE else " ")
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join("".join(self.texts).split())

    def values(self, name):
        return [value for key, value in self.attributes if key == name]


def read(shown):
    """Return what a browser would read, which is well formed and has each id once."""
    reader = Reader(rendering.html(shown))
    assert not reader.faults
    assert not reader.open
    ids = reader.values("id")
    assert len(ids) == len(set(ids))
    assert set(reader.values("aria-labelledby")) <= set(ids)
    assert set(reader.values("data-copy")) <= set(ids)
    return reader


def test_an_ordinary_page():
    """Logins, plans, totals and exchanges stand there, with their numbers set out for people."""
    seen = read(page(login(), entries=[entry()], running=[entry(outcome=Outcome.running)], blocks=(block(),)))
    for said in ("kimi.com", "logged in", "60% left", "in 2h", "5m old, good for 10m, renewed in time", "A note."):
        assert said in seen.text
    for said in (
        "opencode/1.18.33",
        "kimi-for-coding",
        "high",
        "12,345",
        "9,000",
        "678",
        "0.40 s",
        "12.2 s",
        "running",
    ):
        assert said in seen.text
    assert "1 running, the last 1 that ended" in seen.text
    assert "20k" in seen.text
    assert "45%" in seen.text
    assert "up 1h 1m" in seen.text
    assert "export A=1" in seen.text


def test_nobody_is_logged_in():
    """The page then shows the commands to run, and that nothing has been asked."""
    seen = read(page(today=()))
    assert "Nobody is logged in." in seen.text
    assert "kimi-mitm login kimi" in seen.text
    assert "Nothing has been asked today." in seen.text
    assert "Point a client at it" in seen.text
    two = replace(
        page(), providers=(Provider("kiro", "Kiro", hints=("kimi-mitm login kiro", "kimi-mitm accounts sync")),)
    )
    assert "Run one of these" in read(two).text


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"level": Level.bad, "meaning": "is logged out", "next": "kimi-mitm login kiro"},
            "Next: kimi-mitm login kiro",
        ),
        ({"problem": "rate_limited, 2 times in a row"}, "rate limited, 2 times in a row"),
        ({"back_at": NOW + 90}, "(in 1m 30s)"),
        ({"usage": None}, "not known yet"),
        ({"token": Token(NOW - 900, NOW - 60, renews=True)}, "ended 1m ago, renewed when it is needed"),
        ({"token": Token(None, NOW + 60, renews=False)}, "good for 1m"),
        ({"token": Token(None, None)}, "not known"),
        ({"requests": 1234, "last_used": NOW - 10}, "1,234, the last 10s ago"),
        ({"requests": 7}, "Requests 7"),
        ({"facts": ("AWS Builder ID", "us-east-1")}, "AWS Builder ID, us-east-1"),
    ],
)
def test_what_is_told_of_a_login(fields, said):
    """Each fact of a login is shown where it is known."""
    assert said in read(page(login(**fields))).text


def test_several_logins_say_which_is_in_use():
    """With one login there is nothing to tell apart; with two the one in use is marked."""
    assert "in use" not in read(page(login())).text
    assert "in use" in read(page(login(), login(id="b", in_use=False))).text


def test_a_provider_that_cannot_be_read_says_why():
    """A damaged document is named in place of its accounts."""
    seen = read(replace(page(), providers=(Provider("kiro", "Kiro", problem="The file is damaged."),)))
    assert "The file is damaged." in seen.text


def test_totals_of_several_providers_are_added_up():
    """A sum stands below two providers, and none below one."""
    kimi, kiro = Total("kimi", 2, 0, 10, 5, 0, 0.0), Total("kiro", 3, 1, 20, 5, 0, 0.2)
    seen = read(page(today=(kimi, kiro)))
    assert "All 5" in seen.text
    assert "All" not in Reader(rendering.fragment(page(today=(kimi,)))).texts


@given(*[EVIL] * 5)
def test_no_text_breaks_out_of_the_html(name, model, client, account, problem):
    """Whatever labels, models and clients are called, they are texts: no tag and no attribute comes of them."""
    plain = page(login(name="n", problem="p"), entries=[entry(model="m", client="c", account="a")])
    odd = page(
        login(name=name or "n", problem=problem or "p"),
        entries=[entry(model=model or "m", client=client or "c", account=account or "a")],
    )
    expected, seen = Reader(rendering.html(plain)), Reader(rendering.html(odd))
    assert seen.tags == expected.tags
    assert [key for key, _ in seen.attributes] == [key for key, _ in expected.attributes]
    assert not seen.faults


def test_nothing_in_the_html_needs_an_exception_from_the_policy():
    """There is no script, style or address of another place in it."""
    html = rendering.html(page(login(), entries=[entry()], blocks=(block(),)))
    seen = Reader(html)
    names = {key for key, _ in seen.attributes}
    assert not {name for name in names if name.startswith("on")} | names & {"style", "srcdoc"}
    assert "style" not in seen.tags
    assert re.findall(r"<script[^>]*>(.*?)</script>", html, re.DOTALL) == [""]
    assert all(address.startswith(("/", "#")) for address in seen.values("href") + seen.values("src"))
    assert "unsafe" not in files.CONTENT_SECURITY_POLICY
    assert "default-src 'none'" in files.CONTENT_SECURITY_POLICY


def test_the_files_it_names_are_there():
    """Style sheet, script and icon come with the package, and name no other place."""
    html = rendering.html(page())
    for name in files.ASSETS:
        assert f'"/{name}"' in html
        assert b"://" not in files.asset(name).replace(b"http://www.w3.org/2000/svg", b"")


def test_the_version_follows_the_record_and_not_the_clock():
    """What the script has already is recognised while nothing but time has passed."""
    first = page(login(), entries=[entry()])
    assert rendering.version(first) == rendering.version(replace(first, now=NOW + 100))
    assert rendering.version(first) != rendering.version(page(login(), entries=[entry(status=500)]))
    assert rendering.version(first) != rendering.version(page(login(state="dead"), entries=[entry()]))


def test_the_record_as_json():
    """Scripts get the same record, with plain words for what is a choice."""
    data = json.loads(json.dumps(page(login(), entries=[entry()]).to_json()))
    assert data["providers"][0]["logins"][0]["level"] == "good"
    assert data["journal"]["ended"][0]["outcome"] == "ok"
    assert data["journal"]["ended"][0]["tokens_in"] == 12_345
    assert data["journal"]["today"][0]["failed"] == 1
