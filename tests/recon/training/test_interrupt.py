"""The first signal asks a run to stop, the second one is not caught."""

import os
import signal
import time

import pytest

from recon.training.loop import StopSignal

BOTH = [signal.SIGTERM, signal.SIGINT]


@pytest.fixture
def heard():
    """Signals that reach whoever listened before."""
    numbers: list[int] = []
    before = {number: signal.signal(number, lambda n, frame: numbers.append(n)) for number in BOTH}
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("first", BOTH)
@pytest.mark.parametrize("second", BOTH)
def test_the_first_signal_asks_and_the_second_goes_to_whoever_listened_before(heard, first, second):
    with StopSignal() as stop:
        assert stop.signal is None
        os.kill(os.getpid(), first)
        assert stop.signal == first and heard == []
        os.kill(os.getpid(), second)
        assert stop.signal == first and heard == [second]


def test_repeats_are_ignored_after_the_first_signal_and_after_an_error(heard):
    with StopSignal(ignore_repeats=True) as stop:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.signal == signal.SIGTERM and heard == []


def test_a_signal_after_all_agreed_to_stop_is_still_read(heard, capfd):
    with StopSignal(ignore_repeats=True) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        stop.agreed.set()  # as before the last checkpoint is saved
        for _ in range(5):
            time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGTERM)
    assert capfd.readouterr().err == ""


def test_signals_are_as_they_were_where_nothing_happened(heard):
    with StopSignal(ignore_repeats=True):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    assert heard == [signal.SIGTERM]


@pytest.mark.parametrize("number", BOTH)
def test_afterwards_signals_go_where_they_went_before(heard, number):
    with StopSignal():
        pass
    os.kill(os.getpid(), number)
    assert heard == [number]


def test_every_run_begins_without_a_signal(heard):
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
    with StopSignal() as stop:
        assert stop.signal is None
