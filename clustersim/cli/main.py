"""The ``clustersim`` program: its entry, and how it ends when it is told to stop.

Nothing is imported at the top that takes time, so that Ctrl-C finds `main` already listening.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

INTERRUPTED, TERMINATED = 130, 143  # 128 and the number of the signal


def main() -> None:
    """Entry point of the ``clustersim`` program."""
    try:
        listen()
        from clustersim.cli.app import app

        app(prog_name="clustersim")
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        sys.exit(INTERRUPTED)


def listen() -> None:
    """Let SIGTERM and Ctrl-C end this process and its workers, and be answered here only."""
    signal.signal(signal.SIGTERM, _end)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # ignored in background
        signal.signal(signal.SIGINT, _interrupt)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_be_a_worker)


def _be_a_worker() -> None:
    """Leave the answer to Ctrl-C to the process that forked this one, and die when told to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _end_workers()
    raise SystemExit(TERMINATED)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    _end_workers()
    raise KeyboardInterrupt


def _end_workers() -> None:
    """End the processes of a pool at once, so that its clean-up does not wait for their work."""
    if "multiprocessing" in sys.modules:
        from multiprocessing import active_children

        for worker in active_children():
            worker.terminate()
