"""How a proxy knows that somebody uses it: a pipe that every user holds open, and whose end the proxy reads.

The kernel counts the users. Whoever ends, be it by kill -9, lets go of the pipe, and when nobody is left the proxy
learns of it (`kimi_core/proxy/hosted.py`). Where pipes can have names, others may come to a proxy that somebody else
has started; on Windows each user has a proxy of their own.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

NAMELESS = "-"  # what the proxy is told in place of a name
SHARED = hasattr(os, "mkfifo")


@dataclass(slots=True)
class Hold:
    """One user's end. No child inherits it: what outlives the user must not keep the proxy."""

    descriptor: int

    def release(self) -> None:
        """Let go; once is enough."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


@dataclass(frozen=True, slots=True)
class Offer:
    """A new pipe: `reader` becomes the proxy's standard input, `name` is what it is told, `hold` the first user's."""

    reader: int
    name: str
    hold: Hold


def offer(path: Path, *, shared: bool = SHARED) -> Offer:
    """Make a pipe for a proxy that is about to be started; with the name *path* where names are to be had."""
    if not shared:
        reader, writer = os.pipe()
        return Offer(reader, NAMELESS, Hold(writer))
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path, 0o600)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a blocking one would wait for the writer of the next line
    return Offer(reader, str(path), Hold(os.open(path, os.O_WRONLY)))


def join(path: Path) -> Hold | None:
    """Become one more user of the proxy that reads the pipe *path*; None where it has gone, or is about to go."""
    try:
        # a pipe that nobody reads is an error with O_NONBLOCK, and would be waited for without
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None
    # a proxy that goes takes the name away first: as long as the name is there, it will see who has come
    with contextlib.suppress(OSError):
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return Hold(descriptor)
    os.close(descriptor)
    return None
