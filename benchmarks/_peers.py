"""Other gateways for `peers.py`: what they are, where they are installed, and how each is told of the fake service.

Each has a folder of its own in .cache/bench, is installed there from its registry, and runs as one process. Nothing of
it may reach the network while it is measured: every proxy variable leads to a port at which nobody listens.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import which

from benchmarks._proxy_process import Process
from benchmarks._proxy_rounds import KIMI
from tests.e2e.harness import environment, free_port

CACHE = Path(__file__).parents[1] / ".cache" / "bench"
INSTALL_SECONDS = 900.0
NOWHERE = "http://127.0.0.1:9"  # the discard port: connections there are refused at once
CLOSED_OFF = {
    **{f"{scheme}_PROXY": NOWHERE for scheme in ("HTTP", "HTTPS", "ALL")},
    **{f"{scheme}_proxy": NOWHERE for scheme in ("http", "https", "all")},
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
}


class NotInstallable(Exception):
    """A peer could not be installed; the text says why in one sentence."""


@dataclass(frozen=True)
class Peer:
    """A gateway: the words that install it, its start, the head of a request to it, and the settings to be told."""

    name: str
    kind: str
    needs: str
    settings: str
    tool: Path
    install: Callable[[Path], Sequence[Sequence[str]]]
    version: Callable[[Path], str]
    command: Callable[[Path, Path, int, str], list[str]]
    environ: dict[str, str]
    target: str
    fields: Callable[[str], Sequence[str]]

    @property
    def folder(self) -> Path:
        return CACHE / self.kind

    @property
    def installed(self) -> bool:
        return (self.folder / self.tool).exists()

    def process(self, home: Path, origin: str) -> Process:
        """Return the gateway on a free port in front of the service at *origin*, with *home* to itself."""
        port = free_port()
        command = self.command(self.folder, home, port, origin)
        return Process(command, port, home, environment(home, CLOSED_OFF | self.environ))

    def request(self, port: int, origin: str) -> bytes:
        return KIMI.request(self.target, f"127.0.0.1:{port}", *self.fields(origin))

    def ensure(self) -> None:
        """Install it where it is not. Raises NotInstallable."""
        if self.installed:
            return
        if which(self.needs) is None:
            raise NotInstallable(f"{self.needs} is not on PATH.")
        self.folder.mkdir(parents=True, exist_ok=True)
        for command in self.install(self.folder):
            try:
                done = subprocess.run(
                    command, cwd=self.folder, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
                )
            except subprocess.TimeoutExpired:
                raise NotInstallable(f"{command[0]} took longer than {INSTALL_SECONDS:g} s.") from None
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
                raise NotInstallable(f"{Path(command[0]).name} failed: {last}")


def _version_in_venv(folder: Path) -> str:
    code = "from importlib.metadata import version; print(version('litellm'))"
    return subprocess.run(
        [str(folder / "bin/python"), "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def _litellm(folder: Path, home: Path, port: int, origin: str) -> list[str]:
    """Write its configuration (YAML, of which JSON is a part) and return its command."""
    served = {"model": f"openai/{KIMI.model}", "api_base": f"{origin}/coding/v1", "api_key": "fake-access-1"}
    config = {
        "model_list": [{"model_name": KIMI.model, "litellm_params": served}],
        "litellm_settings": {"telemetry": False},
        "general_settings": {"master_key": "fake-client-key"},
    }
    file = home / "config.yaml"
    file.write_text(json.dumps(config))
    where = ["--host", "127.0.0.1", "--port", str(port), "--num_workers", "1", "--telemetry", "False"]
    return [str(folder / "bin/litellm"), "--config", str(file), *where]


_GATEWAY = Path("node_modules/@portkey-ai/gateway")


def _npm(folder: Path) -> Sequence[Sequence[str]]:
    """Write its package.json and return its commands: with newer releases of node-server it fails on every stream."""
    (folder / "package.json").write_text(json.dumps({"private": True, "overrides": {"@hono/node-server": "1.3.3"}}))
    words = ("npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--prefix", ".")
    return ((*words, "@portkey-ai/gateway"),)


PEERS = (
    Peer(
        name="LiteLLM",
        kind="litellm",
        needs=sys.executable,
        settings="one worker, one model of kind openai, a master key, no database, telemetry off",
        tool=Path("bin/litellm"),
        install=lambda folder: (
            (sys.executable, "-m", "venv", str(folder)),
            (str(folder / "bin/pip"), "install", "--quiet", "litellm[proxy]"),
        ),
        version=_version_in_venv,
        command=_litellm,
        environ={
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # not fetched at the start
            "LITELLM_LOG": "ERROR",
            "LITELLM_MODE": "PRODUCTION",
            "DISABLE_ADMIN_UI": "True",
        },
        target="/v1/chat/completions",
        fields=lambda _origin: (),
    ),
    Peer(
        name="Portkey",
        kind="portkey",
        needs="npm",
        settings="headless, kind openai with the fake service as its custom host, named in each request",
        tool=_GATEWAY / "build/start-server.js",
        install=_npm,
        version=lambda folder: str(json.loads((folder / _GATEWAY / "package.json").read_text())["version"]),
        command=lambda folder, _home, port, _origin: [
            which("node") or "node",
            str(folder / _GATEWAY / "build/start-server.js"),
            f"--port={port}",
            "--headless",
        ],
        environ={"NODE_ENV": "production"},
        target="/v1/chat/completions",
        fields=lambda origin: ("x-portkey-provider: openai", f"x-portkey-custom-host: {origin}/coding/v1"),
    ),
)
