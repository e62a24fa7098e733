from __future__ import annotations

import os
import signal
import threading

import pytest

from flows.watching.interruption import Interruption, Terminated, interruptible


def test_the_first_signal_is_a_wish_and_the_second_an_end() -> None:
    with interruptible() as interruption, interruption.patience():
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption()
        assert interruption.signal == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])
def test_without_patience_a_signal_ends_at_once(number: int, error: type[BaseException]) -> None:
    with interruptible(), pytest.raises(error):
        os.kill(os.getpid(), number)


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with interruptible():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_another_thread_leaves_the_signals_alone() -> None:
    seen: list[Interruption] = []

    def work() -> None:
        with interruptible() as interruption:
            seen.append(interruption)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not seen[0]()


def test_terminated_is_not_taken_for_an_images_fault() -> None:
    assert not issubclass(Terminated, Exception)
