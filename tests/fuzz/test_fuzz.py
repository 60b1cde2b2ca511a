"""Input that nobody would send: what was kept of it, and what is made anew.

In every run each target gets the kept corpus, then as much input of a fixed seed as `BUDGET` and `ROUNDS` allow.
``make fuzz SECONDS=600`` goes on for that long with a seed of its own. Input that breaks something is written into the
corpus, to be mended and committed with it.
"""

import hashlib
import os
import random
import time
from pathlib import Path

import pytest

from tests.fuzz.mutation import mutated
from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
ROUNDS = 2000
BUDGET = 4.0  # seconds for each target in a run of all tests: with the kept corpus below a minute together
SLOW = 2.0  # seconds of processor time for an input of 64 KiB at the most; all take some milliseconds
SECONDS = float(os.environ.get("FUZZ_SECONDS") or 0)
SEED = os.environ.get("FUZZ_SEED") or (str(time.time_ns()) if SECONDS else "0")


def kept(name):
    """Return the corpus of a target."""
    return [
        path.read_bytes() for path in sorted(CORPUS.glob("*")) + sorted((CORPUS / name).glob("*")) if path.is_file()
    ]


def attack(name, data):
    """Give *data* to a target; where something does not hold, keep it."""
    began = time.thread_time()
    try:
        TARGETS[name].check(data)
        took = time.thread_time() - began
        assert took < SLOW, f"{len(data)} bytes took {took:.1f} s"
    except Exception as error:
        path = CORPUS / name / hashlib.sha256(data).hexdigest()[:16]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        error.add_note(f"FUZZ_SEED={SEED}; the input is kept in {path}")
        raise


def rounds():
    """Go on for a while that nobody waits for, or for as long as was asked for."""
    end = time.monotonic() + (SECONDS / len(TARGETS) or BUDGET)
    number = 0
    while time.monotonic() < end and (SECONDS or number < ROUNDS):
        yield number
        number += 1


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_kept_does_no_harm(name):
    """Every kept input, and all input that mutation begins from, is answered in good order and soon."""
    for data in [*kept(name), *TARGETS[name].seeds()]:
        attack(name, data)


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_made_does_no_harm(name):
    """Whatever is made of it by flips, cuts, splices and odd tokens is answered in good order and soon."""
    chance = random.Random(f"{SEED}-{name}")
    seeds = [*kept(name), *TARGETS[name].seeds()]
    for _ in rounds():
        attack(name, mutated(chance, seeds, TARGETS[name].tokens))
