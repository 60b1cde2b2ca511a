"""The first process of the container: run a command, pass signals on to it, and leave when the last process has ended.

A login is renewed in a process that outlives the proxy, so that stopping the proxy never loses a token that was renewed
a moment ago. In a container everything ends with the first process: hence this one, which waits for the others. It also
takes note of their end, without which each of them would stay in the table of processes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Sequence

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# seconds for what is left after the command has ended: a renewal ends by itself within 290. One that has no room to
# write what it got would go on for an hour, which nobody who stops a container waits for.
PATIENCE = 300
BY_SIGNAL = 128  # shells add this to the number of the signal that ended a command


class Late(Exception):
    """What is left has had its time."""


def run(words: Sequence[str], patience: int = PATIENCE) -> int:
    """Run *words*, wait for every process that is left to this one, and return the exit code of the command."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)  # until there is somebody to pass them on to
    command = os.posix_spawnp(words[0], [*words], os.environ, setsigmask=before)

    def pass_on(number: int, _: object) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended a moment ago
            os.kill(command, number)

    for number in PASSED_ON:
        signal.signal(number, pass_on)
    signal.signal(signal.SIGALRM, _too_late)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    code = 0
    try:
        while True:
            pid, status = os.waitpid(-1, 0)
            if pid == command:
                code = os.waitstatus_to_exitcode(status)
                for number in PASSED_ON:
                    signal.signal(number, signal.SIG_IGN)
                signal.alarm(patience)
    except (ChildProcessError, Late):
        signal.alarm(0)
        return BY_SIGNAL - code if code < 0 else code


def _too_late(*_: object) -> None:
    raise Late


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
