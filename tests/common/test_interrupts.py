"""Signals to a command that waits in its main thread."""

from __future__ import annotations

import subprocess
import sys
import textwrap

_AT_EACH_STEP = """
    import signal, sys
    from common.interrupts import interrupts

    def waits(step):
        # Whether it ended, with a signal at this line that it executes; None past its last line.
        lines = 0

        def trace(frame, event, argument):
            nonlocal lines
            if event == "line" and frame.f_code.co_filename != "<string>":
                lines += 1
                if lines == step:
                    signal.raise_signal(signal.SIGINT)
            return trace

        with interrupts(signal.SIGINT) as came:
            sys.settrace(lambda frame, event, argument: trace)
            seen = came(0.01)
            sys.settrace(None)
            return (seen or came(0.01)) if lines >= step else None

    signal.signal(signal.SIGINT, signal.default_int_handler)
    step = 1
    while (ended := waits(step)) is not None:
        assert ended, f"the signal at line {step} was lost"
        step += 1
    assert step > 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    print("every step", step)
"""


def test_signal_at_any_step_of_the_wait_ends_it() -> None:
    # In a process of its own: a wait that a signal can lock up would hang the tests.
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_AT_EACH_STEP)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("every step")
