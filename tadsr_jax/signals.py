"""Being asked to stop: SIGTERM from a scheduler, SIGINT from Ctrl-C.

Stopped            raised when what the run had is saved        stop_signal       tells a loop that a signal came
stopped_at_once    around work that can be broken off anywhere
"""

import contextlib
import signal
import threading


class Stopped(BaseException):  # as KeyboardInterrupt: no `except Exception` on the way may swallow it
    """The run was asked to stop (SIGTERM, or SIGINT from Ctrl-C), and what it had is saved."""

    def __init__(self, text: str, number: int):
        super().__init__(text)
        self.exit_code = 130 if number == signal.SIGINT else 0


@contextlib.contextmanager
def _handling(handle):
    """SIGTERM and SIGINT go to `handle`. Handlers can be set in the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def stopped_at_once():
    """A context in which a signal raises Stopped: around work that can be broken off anywhere and repeated."""

    def stop(number, _):
        raise Stopped("stopped; what was trained is saved, and the same command goes on.", number)

    return _handling(stop)


@contextlib.contextmanager
def stop_signal():
    """A function that gives the number of the signal that came since, or None. Unasked, it raises at the end.

    A second Ctrl-C ends the process at once.
    """
    came = []

    def note(number, _):
        came.append(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)

    with _handling(note):
        yield lambda: came[0] if came else None
    if came:
        raise Stopped("stopped; what was trained is saved, and the same command goes on.", came[0])
