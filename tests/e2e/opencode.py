"""opencode as its user has it: from its package, with a file of its own that `kimi-mitm config` was merged into."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.harness import ROOT, Proxy, environment

SECONDS = 120
# without these it looks for models, updates, plugins and language servers on the network
QUIET = {
    f"OPENCODE_DISABLE_{name}": "1"
    for name in ("AUTOUPDATE", "MODELS_FETCH", "DEFAULT_PLUGINS", "LSP_DOWNLOAD", "SHARE", "EXTERNAL_SKILLS")
} | {"OPENCODE_PURE": "1"}
OWN = """{
  // the user's own
  "autoupdate": false, /* never */
  "provider": {
    "mine": {
      "npm": "@ai-sdk/openai-compatible",
      "name": "Mine", // mine
      "options": {"baseURL": "http://127.0.0.1:1/v1"},
      "models": {"one": {}},
    },
  },
  "share": "disabled", // nothing leaves
}
"""
_MAIN = "from kimi_core.cli.main import main; main()"


def merging(proxy: Proxy, client: str, file: Path, *words: str) -> tuple[list[str], dict[str, str]]:
    """Return the command, and its environment, with which the user of *proxy* has a client's *file* changed."""
    options = (
        f"mode=upstream:http://127.0.0.1:{proxy.world.upstream.port}",
        f"listen_port={proxy.port}",
        f"ssl_verify_upstream_trusted_ca={proxy.world.ca_file}",
    )
    sets = [word for option in options for word in ("--set", option)]
    command = [sys.executable, "-c", _MAIN, "config", client, "--write", "--file", str(file), *words, *sets]
    return command, proxy.environ | {"PYTHONPATH": str(ROOT)}


class Opencode:
    """opencode with one home for a test module: making its database takes longer than anything else."""

    def __init__(self, proxy: Proxy, clients: Path, home: Path) -> None:
        self.proxy = proxy
        self.home = home
        self.file = home / ".config/opencode/opencode.jsonc"
        self._program = shutil.which("opencode", path=clients / "node_modules/.bin")
        self._written: tuple[str, ...] | None = None
        (home / "work").mkdir()
        self.file.parent.mkdir(parents=True)
        self.file.write_text(OWN)

    def configure(self, *words: str) -> None:
        """Have `kimi-mitm config opencode --write` with *words* change the file, unless it did that last."""
        if self._written == words:
            return
        command, environ = merging(self.proxy, "opencode", self.file, *words)
        self._run(command, environ)
        self._written = words

    def __call__(self, *words: str, prompt: str = "", through: Sequence[str] = (), **more: str) -> str:
        """Run opencode once, by the command *through* and with *more* in its environment; return what it printed."""
        assert self._program
        environ = environment(self.home, QUIET | more)
        # as an argument the prompt would be quoted
        return self._run([*through, self._program, *words], environ, prompt)

    def _run(self, command: list[str], environ: dict[str, str], prompt: str = "") -> str:
        done = subprocess.run(
            command,
            input=prompt,
            cwd=self.home / "work",
            env=environ,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert not self.proxy.secrets_in((done.stdout + done.stderr).encode())
        return done.stdout
