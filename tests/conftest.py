"""Every test starts from the same place: no proxy and no variable of the user's own, no host but this machine."""

import os
import signal
import socket
import warnings
from collections import Counter
from pathlib import Path

import certifi
import pytest
import trustme
from hypothesis import settings

with warnings.catch_warnings():
    # it calls pyparsing by names that the newest pyparsing deprecates; imported once, it does not warn again
    warnings.simplefilter("ignore", DeprecationWarning)
    import mitmproxy.flowfilter  # noqa: F401

# half as many examples as usual, for the run has two processors and a quarter of an hour
settings.register_profile("ci", settings.get_profile("ci"), max_examples=50)

# who starts a run in the background may have it ignore these; what is started here would then, and tests send them
for each in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
    if signal.getsignal(each) is signal.SIG_IGN:
        signal.signal(each, signal.SIG_DFL)

_USERS_OWN = ("KIMI_", "KIRO", "DEBUG_KIRO_", "OPENAI_", "ANTHROPIC_", "SSL_CERT_", "NODE_EXTRA_")
WITHOUT = {"KIMI_MITM_NO_NODE", "KIMI_MITM_NO_BROWSER"}  # ask for a run without node or Chromium; no settings
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_END_TO_END = {Path(__file__).parent / folder for folder in ("e2e", "chaos")}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, those that start processes: the many short ones then fill the gaps.

    Workers take whole files in this order, so that none of them is left with a long one at the end.
    """
    sizes = Counter(item.path for item in items)
    items.sort(key=lambda item: (_END_TO_END.isdisjoint(item.path.parents), -sizes[item.path]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write down what failed, where scripts/all_tests.py asks for it."""
    wanted = os.environ.get("FAILED_TESTS")
    reports = [*terminalreporter.getreports("failed"), *terminalreporter.getreports("error")]
    if wanted and reports:
        Path(wanted).write_text("".join(f"{name}\n" for name in dict.fromkeys(each.nodeid for each in reports)))


@pytest.fixture(autouse=True, scope="session")
def _no_environment():
    """Take the user's own settings out of the environment for the whole run."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if (name.startswith(_USERS_OWN) and name not in WITHOUT) or name.lower() in _PROXIES:
                patch.delenv(name)
        yield


@pytest.fixture(autouse=True, scope="session")
def _only_loopback():
    """Make a connection to anything but this machine fail at once."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family in {socket.AF_INET, socket.AF_INET6} and address[0] not in {"127.0.0.1", "::1", "localhost"}:
            raise AssertionError(f"a test tried to reach {address}")
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


@pytest.fixture(autouse=True, scope="session")
def _one_authority(tmp_path_factory: pytest.TempPathFactory):
    """Trust one CA in place of all public ones: no test meets those, and every HTTP client would read them anew."""
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    trustme.CA().cert_pem.write_to_path(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certifi, "where", lambda: str(path))
        yield
