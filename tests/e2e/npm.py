"""Installs the clients that run on node. As a program it does so ahead of the tests: CI runs it beside the linters."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "npm-clients"
CLIENTS = ("node", "claude")  # folders here, each with its package.json
SECONDS = 500
WORDS = ("npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error")


class NotInstalled(Exception):
    """npm could not do it; the text is its last words."""


def place(name: str) -> Path:
    """Return the folder in which a client is installed: one for each version of its package.json."""
    return CACHE / hashlib.sha256((HERE / name / "package.json").read_bytes()).hexdigest()[:16]


def install(name: str) -> Path:
    """Install what a folder's package.json names unless it is there; return where. Raises NotInstalled."""
    folder = place(name)
    folder.mkdir(parents=True, exist_ok=True)
    for source in (HERE / name).iterdir():
        shutil.copy(source, folder)
    done = folder / ".installed"
    if not done.exists():
        ended = subprocess.run(WORDS, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False)
        if ended.returncode:
            raise NotInstalled(ended.stderr.strip()[-500:])
        done.touch()
    return folder


if __name__ == "__main__":
    for client in CLIENTS:
        try:
            install(client)
        except NotInstalled as problem:
            sys.exit(f"npm could not install the node clients: {problem}")
