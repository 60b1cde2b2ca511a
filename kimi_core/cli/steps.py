"""The steps of a login as they are told: to a person at a terminal, into a log, or to a program as JSON lines."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import segno
from rich.live import Live
from rich.text import Text

from kimi_core.blocks.place import Block
from kimi_core.cli import formats
from kimi_core.cli.output import Output, error_object
from kimi_core.device_flow import DeviceCode
from kimi_core.errors import KimiMitmError, StoreError

QR_BORDER = 2  # modules; cameras do with less than the standard's four, and small terminals need it
HEARTBEAT = 10.0  # seconds between two "waiting" lines in JSON


class Steps(AbstractContextManager["Steps"]):
    """Tells the steps of one login, as text. Leaving the context takes down what is drawn live."""

    def __init__(self, out: Output, open_browser: Callable[[str], object] | None, provider: str = "") -> None:
        self.out = out
        self._provider = f" {provider}" if provider else ""
        self._open_browser = open_browser
        self._pace = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._settle()

    def code(self, code: DeviceCode) -> None:
        """Show what the user has to do."""
        self._pace = code.interval
        self._show_code(code)
        if self._open_browser:
            self._open_browser(code.url)

    def waiting(self, left: float, pace: float) -> None:
        """Tell that the code is good for *left* seconds more and the service is asked every *pace* seconds."""
        if pace > self._pace:
            self._pace = pace
            self._slow_down(pace)
        self._wait(left)

    def page(self, url: str, *, paste: bool) -> None:
        """Show where to log in; with *paste* the address at which the browser ends is to be typed in here."""
        self._show_page(url, paste=paste)
        if self._open_browser and not paste:
            self._open_browser(url)

    def unstored(self, problem: StoreError) -> None:
        """Tell that the login was approved but cannot be stored yet, because of *problem*."""
        self._settle()
        self.out.warn(f"The login is approved, but not stored yet: {problem.sentence} This is tried until it works.")

    def stored(self, path: Path, put_aside: Path | None) -> None:
        """Tell that the login is on disk; *put_aside* is where a damaged file that was in its place went."""
        self._settle()
        if put_aside:
            self.out.warn(f"The stored login was damaged; it is kept as {put_aside}.")
        self.out.console.print(Text.assemble(("Logged in.", "bold green"), f" The login is in {path}."), soft_wrap=True)

    def models(
        self, models: Sequence[Mapping[str, Any]], blocks: Sequence[Block], problem: KimiMitmError | None
    ) -> None:
        """Show what the plan has and how clients are set up; *problem* where the models could not be read."""
        if problem:
            self.out.warn(f"The models could not be read, which does not matter to the login: {problem.sentence}")
        if names := ", ".join(str(model["id"]) for model in models):
            self.out.console.print(Text(f"Models of the plan: {names}"), soft_wrap=True)
        show_blocks(self.out, [block for block in blocks if not block.on_request])
        self.out.console.print(
            f"\nTo see any of this again: kimi-mitm models{self._provider} --block NAME\n"
            "To have it put into a client's own file: kimi-mitm config opencode --write",
            soft_wrap=True,
        )

    def _show_code(self, code: DeviceCode) -> None:
        console = self.out.console
        console.print("\nOpen this page in any browser, on any machine, and approve the login:\n")
        console.print(Text(f"  {code.url}", style="bold cyan"), soft_wrap=True)
        console.print(Text.assemble("\n  Code  ", (code.user_code, "bold")), soft_wrap=True)
        if code.verification_uri:
            console.print(Text(f"  (to type in at {code.verification_uri})", style="dim"), soft_wrap=True)
        console.print()

    def _show_page(self, url: str, *, paste: bool) -> None:
        console = self.out.console
        where = "any browser, on any machine" if paste else "a browser on this machine"
        console.print(f"\nOpen this page in {where}, and log in:\n")
        console.print(Text(f"  {url}", style="bold cyan"), soft_wrap=True)
        if paste:
            console.print(
                "\nAt the end the browser shows a page that cannot be reached. Paste its whole address here, and press "
                "Enter:",
                soft_wrap=True,
            )

    def _slow_down(self, pace: float) -> None:
        """Tell that the service asks for patience; a person need not know."""

    def _wait(self, left: float) -> None:
        """Show the countdown; a log needs none."""

    def _settle(self) -> None:
        """Take down what is drawn live."""


class TerminalSteps(Steps):
    """With a QR code, and a countdown that runs while the user approves."""

    _live: Live | None = None

    def _show_code(self, code: DeviceCode) -> None:
        super()._show_code(code)
        if drawing := qr(code.url, self.out.console.width, self.out.console.encoding):
            self.out.raw(drawing)

    def _wait(self, left: float) -> None:
        if self._live is None:
            self._live = Live(console=self.out.console, auto_refresh=False, transient=True)
            self._live.start()
        text = Text.assemble("Waiting for your approval; the code is good for ", (formats.clock(left), "bold"))
        self._live.update(text, refresh=True)

    def _settle(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


class JsonSteps(Steps):
    """One JSON object a line, with an `event`: code, page, waiting, slow_down, unstored, approved, stored, models."""

    _told = float("inf")

    def unstored(self, problem: StoreError) -> None:
        """Tell that the login was approved, and what keeps it from being stored."""
        self.out.emit({"event": "unstored", "problem": error_object(problem)})

    def stored(self, path: Path, put_aside: Path | None) -> None:
        """Tell that the login was approved, and that it is on disk."""
        self.out.emit({"event": "approved"})
        self.out.emit({"event": "stored", "path": str(path), "put_aside": str(put_aside) if put_aside else None})

    def models(
        self, models: Sequence[Mapping[str, Any]], blocks: Sequence[Block], problem: KimiMitmError | None
    ) -> None:
        """Tell the models, and the lines for clients by name."""
        self.out.emit(
            {
                "event": "models",
                "models": list(models),
                "blocks": {block.name: block.text for block in blocks},
                "problem": error_object(problem) if problem else None,
            }
        )

    def _show_code(self, code: DeviceCode) -> None:
        self.out.emit(
            {
                "event": "code",
                "user_code": code.user_code,
                "verification_uri": code.verification_uri or None,
                "verification_uri_complete": code.url,
                "expires_in": code.expires_in,
                "interval": code.interval,
            }
        )

    def _show_page(self, url: str, *, paste: bool) -> None:
        self.out.emit({"event": "page", "url": url, "paste": paste})

    def _slow_down(self, pace: float) -> None:
        self.out.emit({"event": "slow_down", "interval": pace})

    def _wait(self, left: float) -> None:
        if self._told - left >= HEARTBEAT:
            self._told = left
            self.out.emit({"event": "waiting", "expires_in": round(left)})


def steps_for(out: Output, open_browser: Callable[[str], object] | None, provider: str = "") -> Steps:
    """Return the way to tell a login that fits who is listening; *provider* as commands need it ("" = the first)."""
    kind = JsonSteps if out.as_json else TerminalSteps if out.is_terminal else Steps
    return kind(out, open_browser, provider)


def show_blocks(out: Output, blocks: Sequence[Block]) -> None:
    """Print *blocks* for a person: titles and notes around text that can be copied as it stands."""
    for block in blocks:
        out.console.print(Text(f"\n{block.title}\n", style="bold"), soft_wrap=True)
        out.raw(block.text)
        for note in block.notes:
            out.console.print(Text(f"  {note}", style="dim"), soft_wrap=True)


def qr(url: str, width: int, encoding: str) -> str:
    """Return *url* as a QR code of half blocks, or nothing where the terminal has no room or no such signs."""
    if not encoding.lower().startswith("utf"):
        return ""
    buffer = io.StringIO()
    segno.make(url, error="l", micro=False).terminal(buffer, compact=True, border=QR_BORDER)
    text = buffer.getvalue()
    return text if max(map(len, text.splitlines())) <= width else ""
