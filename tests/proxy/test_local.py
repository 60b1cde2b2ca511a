import json

import pytest
from mitmproxy.test import tutils

from kimi_core.proxy import local


class Provider:
    name = "kimi"
    prefix = "/kimi/"

    def health(self):
        return {"login": "ok"}


def _answer(path, method="GET"):
    request = tutils.treq(method=method.encode(), path=path.encode())
    return local.answer(request, [Provider()])


@pytest.mark.parametrize("path", ["/health", "/health?x=1"])
def test_health(path):
    """/health says that the proxy runs, which version, and how each provider stands; nobody may cache it."""
    reply = _answer(path)
    assert reply.status == 200
    assert reply.headers.get("cache-control") == "no-store"
    assert json.loads(reply.body) == {
        "status": "ok",
        "version": local.installed_version(),
        "providers": {"kimi": {"login": "ok"}},
    }


@pytest.mark.parametrize(
    ("path", "method"), [("/", "GET"), ("/health", "POST"), ("/kimi", "GET"), ("/v1/models", "GET")]
)
def test_anything_else_says_what_is_there(path, method):
    """An unknown path of the proxy's own port is a 404 that names what is served."""
    reply = _answer(path, method)
    assert reply.status == 404
    error = json.loads(reply.body)["error"]
    assert error["code"] == "unknown_path"
    assert "/kimi/v1/" in error["message"]


def test_version_of_an_uninstalled_checkout(monkeypatch):
    """A checkout that was never installed still has a version to name."""

    def missing(_name):
        raise local.PackageNotFoundError

    monkeypatch.setattr(local, "version", missing)
    assert local.installed_version() == "0"
