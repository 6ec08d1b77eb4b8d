"""The first signal is recorded, the second ends the process."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from charlm.training.interrupt import Interrupt

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# Waits for ever inside an Interrupt and prints each step; `tidied` shows that the interpreter unwound.
WAITS = """
import signal, sys
from charlm.training.interrupt import Interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    with Interrupt(lambda: print("announced", flush=True)):
        print("ready", flush=True)
        while True:
            pass  # not pause(): a signal that comes just before it would be waited for until the next
finally:
    print("tidied", flush=True)
"""

# Finishes its work after the first signal and exits with the code of that signal.
ENDS_WELL = """
import signal, sys
from charlm.training.interrupt import Interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)
with Interrupt(lambda: print("announced", flush=True)) as interrupt:
    signal.raise_signal(signal.Signals[sys.argv[1]])
    print("saved", flush=True)
sys.exit(interrupt.exit_code)
"""


@pytest.fixture(autouse=True)
def ordinary_handlers() -> Iterator[None]:
    """Set the signal handlers of a program started from a terminal, whatever started the tests."""
    before = {number: signal.getsignal(number) for number in HANDLED}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def handlers() -> list[Any]:
    """Return the current handler of each signal."""
    return [signal.getsignal(number) for number in HANDLED]


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=lambda value: str(value),
)
def test_the_first_signal_is_recorded_and_announced_once(number: signal.Signals, code: int) -> None:
    """A signal interrupts nothing: the loop can query it, and its exit code belongs to it."""
    announced: list[bool] = []
    reached = False
    with Interrupt(lambda: announced.append(True)) as interrupt:
        assert interrupt.signal is None
        assert interrupt.exit_code == 0
        signal.raise_signal(number)
        reached = True
    assert reached
    assert announced == [True]
    assert number == interrupt.signal
    assert code == interrupt.exit_code


def test_the_signal_is_known_when_it_is_announced() -> None:
    """An announcement can name the signal."""
    seen: list[signal.Signals | None] = []
    interrupt = Interrupt(lambda: seen.append(interrupt.signal))
    with interrupt:
        signal.raise_signal(signal.SIGTERM)
    assert seen == [signal.SIGTERM]


def test_without_a_signal_nothing_is_announced() -> None:
    """A loop without a signal has the exit code 0."""
    with Interrupt(lambda: pytest.fail("announced")) as interrupt:
        pass
    assert (interrupt.signal, interrupt.exit_code) == (None, 0)


def test_the_previous_handlers_come_back() -> None:
    """After the block the handlers are those from before it, whether Python's own or custom."""

    def mine(number: int, frame: object) -> None:
        raise AssertionError(number)

    signal.signal(signal.SIGTERM, mine)
    before = handlers()
    with Interrupt(lambda: None):
        assert all(inside is not outside for inside, outside in zip(handlers(), before, strict=True))
    assert before == handlers()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_the_previous_handlers_come_back_after_an_error() -> None:
    """An error passes through the block and leaves the handlers as they were."""
    before = handlers()
    with pytest.raises(ValueError, match="in the loop"), Interrupt(lambda: None):
        raise ValueError("in the loop")
    assert before == handlers()


def test_an_ignored_signal_stays_ignored() -> None:
    """Under `nohup` the end of the terminal does not end the training."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Interrupt(lambda: pytest.fail("announced")) as interrupt:
        signal.raise_signal(signal.SIGHUP)
    assert interrupt.signal is None


def test_an_announcement_that_cannot_be_written_stops_nothing() -> None:
    """When the terminal is gone, the announcement is dropped and the loop still finishes."""

    def say() -> None:
        raise OSError(5, "Input/output error")

    with Interrupt(say) as interrupt:
        signal.raise_signal(signal.SIGHUP)
    assert interrupt.signal == signal.SIGHUP


def test_an_interrupt_is_harmless_outside_the_main_thread() -> None:
    """In another thread, where Python allows no handlers, it changes nothing and raises nothing."""
    before = handlers()
    seen: list[object] = []

    def work() -> None:
        with Interrupt(lambda: None) as interrupt:
            seen.append(handlers())
        seen.append(interrupt.exit_code)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [before, 0] == seen
    assert before == handlers()


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_process_that_ended_well_exits_as_the_signal_asks(name: str, code: int) -> None:
    """The work after the signal is done, and the exit code is 128 plus the signal's number."""
    done = subprocess.run([sys.executable, "-c", ENDS_WELL, name], capture_output=True, text=True, timeout=60)
    assert (code, "announced\nsaved\n", "") == (done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [(signal.SIGINT, signal.SIGINT, 130), (signal.SIGTERM, signal.SIGTERM, 143), (signal.SIGINT, signal.SIGTERM, 143)],
)
def test_the_second_signal_ends_the_process_at_once(first: signal.Signals, second: signal.Signals, code: int) -> None:
    """The second signal leaves the loop where it stands, tidies up, and has its own exit code."""
    with subprocess.Popen(
        [sys.executable, "-c", WAITS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(first)
            assert process.stdout.readline() == "announced\n"
            process.send_signal(second)
            assert process.communicate(timeout=60) == ("tidied\n", "")
            assert code == process.returncode
        finally:
            process.kill()
