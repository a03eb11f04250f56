"""The ``clustersim`` program: its entry, and how it ends when it is told to stop.

Nothing is imported at the top that takes time, so that Ctrl-C finds `main` already listening.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType

INTERRUPTED, BROKEN_PIPE, TERMINATED = 130, 141, 143  # 128 and the number of the signal
BAD_OUTPUT = 2
LOOK_EVERY_S = 0.5  # a worker, for the process that forked it
GRACE_S = 5.0  # to tidy up after being told to stop
_told = threading.Event()


def main() -> None:
    """Entry point of the ``clustersim`` program."""
    output = sys.stdout
    try:
        listen()
        from clustersim.cli.app import app

        app(prog_name="clustersim")
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except SystemExit:
        if is_ending():  # whatever a library made of it
            sys.exit(TERMINATED)
        if sys.stdout is not output:  # typer replaces it where help finds no reader
            sys.exit(BROKEN_PIPE)
        raise
    except OSError as error:  # help that cannot be written; commands answer for themselves
        from clustersim.cli.console import discard_output

        print(f"output: {error.strerror or error}", file=sys.stderr)
        discard_output()
        sys.exit(BAD_OUTPUT)


def listen() -> None:
    """Let SIGTERM and Ctrl-C end this process and its workers, and be answered here only."""
    signal.signal(signal.SIGTERM, _end)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # ignored in background
        signal.signal(signal.SIGINT, _interrupt)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_be_a_worker)


def is_ending() -> bool:
    """Whether SIGTERM has come to this process since it listens: errors from there on are none."""
    return _told.is_set()


def _be_a_worker() -> None:
    """Leave the answer to Ctrl-C to the parent; die when told to, and when left alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()


def _follow(parent: int) -> None:
    """End this process soon after its parent has gone, even by SIGKILL."""
    while os.getppid() == parent:
        time.sleep(LOOK_EVERY_S)
    os._exit(TERMINATED)


def _end(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _told.set()
    _end_workers()
    threading.Thread(target=_end_late, daemon=True).start()
    raise SystemExit(TERMINATED)


def _end_late() -> None:
    """End the process where its ending was ignored, as in a callback of a fork or a collection."""
    time.sleep(GRACE_S)
    os._exit(TERMINATED)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    _end_workers()
    raise KeyboardInterrupt


def _end_workers() -> None:
    """End the processes of a pool at once, so that its clean-up does not wait for their work.

    By SIGKILL, since one that was just forked may lose a signal with a handler.
    """
    if "multiprocessing" in sys.modules:
        from multiprocessing import active_children

        for worker in active_children():
            worker.kill()
