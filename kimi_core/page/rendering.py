"""The page's record as HTML.

Everything is escaped by the template engine; no style and no script stands in the HTML itself, so that the policy in
`files.CONTENT_SECURITY_POLICY` holds without exceptions.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from kimi_core.page import words
from kimi_core.page.state import Page, total_of

FILTERS = (
    words.iso, words.clock, words.full, words.ago, words.until, words.age, words.rest, words.seconds, words.count,
    words.short, words.cost, words.share, words.parted, words.spoken, words.status,
)  # fmt: skip


def html(page: Page) -> str:
    """Return the whole page."""
    return _environment().get_template("page.html").render(page=page, all_totals=total_of(page.journal.today))


def fragment(page: Page) -> str:
    """Return the parts of the page that change while it is open, as the script exchanges them."""
    return _environment().get_template("parts.html").render(page=page, all_totals=total_of(page.journal.today))


def version(page: Page) -> str:
    """Return a word that changes when the record does (an entity tag), whatever time it is."""
    timeless = replace(page, now=0.0, providers=tuple(replace(each, blocks=()) for each in page.providers))
    return hashlib.sha256(json.dumps(timeless.to_json(), sort_keys=True).encode()).hexdigest()[:32]


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader(__package__, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {each.__name__: each for each in FILTERS}
    return made
