"""Images are tried in a process beside this one, which goes on meanwhile."""

import os
import sys
import time
from pathlib import Path

import pytest

from lucidcam.pipeline.trial import Trial

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks are made on Linux only")


def work(piece):
    if isinstance(piece, Path):
        for _ in range(3000):
            if piece.exists():
                return
            time.sleep(0.01)
        os.abort()
    if piece == "deadly":
        os.abort()
    if piece == "bad":
        raise ValueError(piece)


@pytest.fixture
def trial():
    made = Trial(work)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("pieces", "alive"),
    [
        ([], []),
        (["good", "bad", "good"], [True, True, True]),
        (["deadly"], [False]),
        (["good", "deadly", "good", "deadly", "deadly", "good"], [True, False, True, False, False, True]),
        (["deadly", lambda: None], [True, True]),  # cannot be sent
    ],
)
def test_what_kills_is_told_in_order(trial, pieces, alive):
    for _ in range(2):
        trial.begin(pieces)
        assert trial.survivors() == alive


def test_this_process_goes_on_meanwhile(trial, tmp_path):
    trial.begin([tmp_path / "sign"])
    (tmp_path / "sign").touch()  # what the other process waits for
    assert trial.survivors() == [True]


def test_a_process_that_ended_between_is_replaced(trial):
    trial.begin(["good"])
    trial.survivors()
    os.kill(trial._process, 9)
    trial.begin(["good", "good"])
    assert trial.survivors() == [True, True]
