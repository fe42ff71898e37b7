"""Owns how a command that waits in its main thread learns of a signal: at no step of the wait is one lost.

`threading.Event.set` in a handler may not be used for it: a signal that comes while the same thread is inside
`wait` finds the event's lock taken by its own thread, and the program hangs.
"""

from __future__ import annotations

import contextlib
import queue
import signal
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def interrupts(*numbers: int) -> Iterator[Callable[[float], bool]]:
    """While inside, a signal of these numbers ends the wait: a function of seconds, true once one has come.

    Only for the main thread; the handlers from before come back at the end.
    """
    # Its put is safe in a handler, whatever the thread does at that moment.
    came: queue.SimpleQueue[None] = queue.SimpleQueue()

    def wait(seconds: float) -> bool:
        try:
            came.get(timeout=seconds)
        except queue.Empty:
            return False
        came.put(None)  # for each later question
        return True

    before = {number: signal.signal(number, lambda *_: came.put(None)) for number in numbers}
    try:
        yield wait
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
