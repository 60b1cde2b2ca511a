import asyncio

import pytest
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.addons.upstream_auth import UpstreamAuth
from mitmproxy.test import taddons

from kimi_core.kimi.memory import ReasoningMemory
from kimi_core.proxy import addon as module
from kimi_core.proxy import replay
from kimi_core.proxy.addon import KimiMitm


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A home and a data folder of the test's own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KIMI_MITM_DATA_DIR", str(tmp_path / "data"))
    for name in ("KIMI_CODE_BASE_URL", "KIMI_CODE_OAUTH_HOST", "KIMI_OAUTH_HOST", "KIMI_SHARE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "_shared", module.Shared(module.ReasoningMemory(), []))
    yield tmp_path
    replay.uninstall()


@pytest.fixture
async def world(place, monkeypatch):
    """The addon in a mitmproxy without listeners, with nothing that an addon before it has left."""
    monkeypatch.setattr(module, "_shared", module.Shared(ReasoningMemory(), []))
    addon = KimiMitm()
    with taddons.context(UpstreamAuth(), loadcore=True) as tctx:
        start(tctx, addon)
        yield tctx, addon
        addon.done()
        await asyncio.sleep(0)


class OptionsOnly:
    """Adds options without the addon that serves them."""

    def __init__(self, tctx):
        self.add_option = tctx.options.add_option


def start(tctx, addon):
    """Load *addon* as mitmproxy does, without listeners."""
    Proxyserver().load(OptionsOnly(tctx))
    tctx.master.addons.add(addon)
    tctx.configure(addon)
