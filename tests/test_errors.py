import pkgutil
from importlib import import_module

import pytest

import kimi_core
from kimi_core import errors
from tests.wire.retry_words import RETRY_WORDS

for _module in pkgutil.walk_packages(kimi_core.__path__, "kimi_core."):
    import_module(_module.name)


def _all(kind=errors.KimiMitmError):
    for child in kind.__subclasses__():
        yield child
        yield from _all(child)


EVERY = sorted(set(_all()), key=lambda kind: kind.__qualname__)


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__qualname__)
def test_final_errors_are_not_taken_for_passing_ones(kind):
    """The hint and the code of an error that will not pass hold none of the words that make opencode ask again."""
    if not kind.retryable:
        assert not RETRY_WORDS.search(f"{kind.hint} {kind.code} {kind.type}")


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__qualname__)
def test_every_error_has_a_status_a_client_understands(kind):
    """Status, type and code are set and fit together."""
    assert 400 <= kind.status < 600
    assert kind.code.replace("_", "").isalnum()
    assert kind.__doc__


def test_a_sentence_says_what_to_do():
    """What happened is followed by what to do."""
    assert errors.NotLoggedIn("No login.").sentence == "No login. Run `kimi-mitm login kimi`."
    assert errors.StoreBusy("Busy.").sentence == "Busy."


def test_an_upstream_error_knows_its_status():
    """What the provider answered is kept beside the sentence."""
    assert errors.UpstreamError("x", 403).http_status == 403
    assert errors.UpstreamError("x").http_status is None
