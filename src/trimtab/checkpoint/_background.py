"""A thread that does one piece of work at a time, and tells later what went wrong."""

import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from trimtab.errors import StateError


class Background:
    """One thread for one piece of work.

    When the interpreter exits, what is under way is finished first.

    Args:
        owner: Whose work it is, as messages call it.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._pool: Final = ThreadPoolExecutor(1, thread_name_prefix="trimtab-checkpoint")
        self._running: list[Future[Any]] = []
        self._finalizer: Final = weakref.finalize(self, _finish, self._pool, self._running)

    def get_ready(self) -> None:
        """Wait for the work before.

        Raises:
            Exception: What the work before raised.
            StateError: It was closed.
        """
        self.wait()
        if not self._finalizer.alive:
            raise StateError(f"This {self._owner} was closed. Make a new one to save again.")

    def begin(self, work: Callable[[], object]) -> None:
        """Let the thread begin; call `get_ready` first."""
        self._running.append(self._pool.submit(work))

    def wait(self) -> None:
        """Return when nothing is under way any more.

        Raises:
            Exception: What the work raised; once.
        """
        if self._running:
            self._running.pop().result()

    def close(self) -> None:
        """Wait, and end the thread; may be called again.

        Raises:
            Exception: What the work raised.
        """
        self._finalizer()


def _finish(pool: ThreadPoolExecutor, running: list[Future[Any]]) -> None:
    """End the thread; at exit too, where an error is shown as one that nobody caught."""
    pool.shutdown(wait=True)
    if running:
        running.pop().result()
