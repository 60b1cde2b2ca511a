import re

import pytest

from kimi_core.page import files

CSS = files.asset("page.css").decode()
ENOUGH = 4.5  # WCAG 2.2, 1.4.3: contrast of text
VISIBLE = 3.0  # 1.4.11: contrast of what is no text


def colours(block):
    """Return the variables of a block, name -> (red, green, blue)."""
    found = re.findall(r"--([\w-]+): #([0-9a-f]{3,6});", block)
    wide = {name: value if len(value) == 6 else "".join(digit * 2 for digit in value) for name, value in found}
    return {name: tuple(bytes.fromhex(value)) for name, value in wide.items()}


LIGHT, DARK = (colours(block) for block in re.findall(r":root \{(.*?)\}", CSS, re.DOTALL))


def luminance(colour):
    """Return the relative luminance of a colour (WCAG 2.2)."""
    parts = [value / 255 for value in colour]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    """Return the contrast of two colours, 1 to 21."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [LIGHT, LIGHT | DARK], ids=["light", "dark"])
@pytest.mark.parametrize("text", ["ink", "quiet", "accent", "good", "warn", "bad"])
@pytest.mark.parametrize("surface", ["paper", "card", "wash"])
def test_texts_can_be_read_on_every_surface(scheme, text, surface):
    """Every colour of text stands out enough from every background, by day and by night."""
    assert contrast(scheme[text], scheme[surface]) >= ENOUGH


@pytest.mark.parametrize("scheme", [LIGHT, LIGHT | DARK], ids=["light", "dark"])
@pytest.mark.parametrize("bar", ["good-bar", "bad-bar"])
def test_bars_can_be_seen(scheme, bar):
    """A bar stands out from what it lies on."""
    assert contrast(scheme[bar], scheme["card"]) >= VISIBLE


def test_every_colour_is_a_named_one():
    """Rules name colours, so that both schemes have them all."""
    rules = re.sub(r":root \{.*?\}", "", CSS, flags=re.DOTALL)
    assert not re.findall(r"#[0-9a-f]{3,8}\b", rules)
    assert set(re.findall(r"var\(--([\w-]+)\)", rules)) <= set(LIGHT) | {"gap"}
    assert set(DARK) == set(LIGHT)


def test_no_font_and_no_picture_is_loaded():
    """What the machine has is used."""
    assert "@import" not in CSS
    assert "url(" not in CSS
    assert "@font-face" not in CSS
