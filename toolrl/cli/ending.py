"""Ctrl-C and SIGTERM end a server in good order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable


def expect_end() -> Callable[[], None]:
    """From now on Ctrl-C and SIGTERM end what is returned, which waits for one; a further one ends the process."""
    over = threading.Event()
    before = {number: signal.signal(number, lambda *_: over.set()) for number in (signal.SIGINT, signal.SIGTERM)}

    def wait() -> None:
        over.wait()
        for number, handler in before.items():
            signal.signal(number, handler)

    return wait
