import pytest

from kimi_core.errors import ConfigError
from kimi_core.settings import Settings, choices, parse


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_option_is_documented(name):
    """Each option has a prefix of its provider, a help text that is a sentence, and a default that is valid."""
    field = Settings.model_fields[name]
    assert name.startswith(("kimi_", "kiro_", "openai_"))
    assert field.description
    assert field.description.endswith(".")
    assert parse({name: field.get_default()})


def test_choices_are_those_of_the_type():
    """A choice knows its values, anything else is free."""
    assert choices("kimi_region") == ("cn", "global")
    assert choices("kimi_max_body") is None


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kimi_region": "mars"}, "kimi_region"),
        ({"kimi_unknown": 1}, "kimi_unknown"),
        ({"kimi_allow_clients": ["nobody"]}, "kimi_allow_clients"),
        ({"kimi_idle_timeout": -1}, "kimi_idle_timeout"),
    ],
)
def test_nonsense_is_named(values, said):
    """A bad value is a ConfigError of one sentence that names the option."""
    with pytest.raises(ConfigError, match=said):
        parse(values)


def test_a_secret_is_not_repeated():
    """A client key of the wrong type is refused without being quoted."""
    with pytest.raises(ConfigError) as caught:
        parse({"kimi_client_key": ["fake-client-key"]})
    assert "fake-client-key" not in str(caught.value)
