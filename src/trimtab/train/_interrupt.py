"""Ctrl-C and SIGTERM as a wish to stop after the current step, within a grace period."""

import _thread
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

GRACE_S: Final = 30.0
"""Seconds from SIGTERM to SIGKILL: the default of Kubernetes (`terminationGracePeriodSeconds`) and
of Slurm (`KillWait`)."""


class BrokenOff(KeyboardInterrupt):
    """A step was broken off: parameters and optimizer may be in the middle of an update.

    What was saved before, on disk or in memory, is what counts.
    """


class StopRequest:
    """Whether somebody asked the run to stop, and how long it may take.

    Attributes:
        signal: Name of the signal that came first; None until then.
        grace_s: Seconds from it until the process is killed.
        save_s: Seconds that a save takes; twice as many are set aside for the last one. The loop
            sets it when it knows.
    """

    def __init__(self, grace_s: float = GRACE_S) -> None:
        self.signal: str | None = None
        self.grace_s, self.save_s = grace_s, grace_s / 6
        self._breakable = False
        self._is_overdue = False
        self._woken = False
        self._timer: threading.Timer | None = None

    def __bool__(self) -> bool:
        """Return whether a signal came."""
        return self.signal is not None

    @contextmanager
    def breakable(self) -> Iterator[None]:
        """Let what is inside be broken off: a step, an evaluation, but never a save.

        Raises:
            BrokenOff: The grace period is over, but for the time that a save takes; or Ctrl-C was
                pressed again.
        """
        self._breakable = True
        try:
            if self._is_overdue:
                raise BrokenOff
            yield
        finally:
            self._breakable = False

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        """Take in a signal.

        Raises:
            BrokenOff: It is time to break off, and allowed.
            KeyboardInterrupt: Ctrl-C came again where nothing may be broken off.
        """
        woken, self._woken = self._woken, False
        if self.signal is None:
            self.signal = signal.Signals(number).name
            self._timer = threading.Timer(self._allowed_s, self._wake, [number])
            self._timer.daemon = True
            self._timer.start()
        elif self._breakable and (self._is_overdue or number == signal.SIGINT):
            raise BrokenOff
        elif number == signal.SIGINT and not woken:
            raise KeyboardInterrupt

    @property
    def _allowed_s(self) -> float:
        return max(0.0, self.grace_s - 2 * self.save_s)

    def _wake(self, number: int) -> None:
        """Send the signal once more from the timer's thread, now that the time is over."""
        self._is_overdue = self._woken = True
        main = threading.main_thread().ident
        if hasattr(signal, "pthread_kill") and main is not None:
            signal.pthread_kill(main, number)  # ends a blocking call as well
        else:
            _thread.interrupt_main(signal.Signals(number))

    def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


@contextmanager
def stop_on_signals(grace_s: float = GRACE_S) -> Iterator[StopRequest]:
    """Turn the first Ctrl-C or SIGTERM into a request, and see to it that it is met in time.

    A step that is not done when the grace period ends, less the time for a save, is broken off
    where the loop allows it. So is one at the second Ctrl-C, which elsewhere interrupts at once. A
    second SIGTERM changes nothing: launchers pass on one that the scheduler has sent to every
    process.

    Python hears of a signal between two of its own instructions only. While a single call of
    a library runs on, such as an exchange with a rank that is gone, nothing can be broken off, and
    the newest checkpoint is what remains. Outside the main thread, where Python delivers no
    signals, nothing is changed.

    Args:
        grace_s: Seconds between the first signal and the end of the process.
    """
    request = StopRequest(grace_s)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}
    for number in signals:
        signal.signal(number, request._handle)
    try:
        yield request
    finally:
        request._close()
        for number, handler in before.items():
            signal.signal(number, handler)
