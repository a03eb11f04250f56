"""SIGTERM and Ctrl-C: they end the program and its workers, whatever it is doing.

Listened to before anything is imported that takes time.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType

INTERRUPTED, BROKEN_PIPE, TERMINATED = 130, 141, 143  # 128 and the number of the signal
LOOK_EVERY_S = 0.5  # a worker, for the process that forked it
GRACE_S = 5.0  # to tidy up after being told to stop
INSIST_EVERY_S, INSISTENCE = 0.1, 50  # on a signal that was not answered
_answered: dict[int, threading.Event] = {
    signal.SIGTERM: threading.Event(),
    signal.SIGINT: threading.Event(),
}


def listen() -> None:
    """Let SIGTERM and Ctrl-C end this process and its workers, and be answered here only."""
    signal.signal(signal.SIGTERM, _end)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # ignored in background
        signal.signal(signal.SIGINT, _interrupt)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_be_a_worker)
    if hasattr(signal, "pthread_kill"):
        heard, told = os.pipe()
        os.set_blocking(told, False)
        signal.set_wakeup_fd(told, warn_on_full_buffer=False)
        threading.Thread(target=_insist, args=(heard, threading.get_ident()), daemon=True).start()


def is_ending() -> bool:
    """Whether SIGTERM has come to this process since it listens: errors from there on are none."""
    return _answered[signal.SIGTERM].is_set()


def _be_a_worker() -> None:
    """Leave the answer to Ctrl-C to the parent; die when told to, and when left alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()


def _follow(parent: int) -> None:
    """End this process soon after its parent has gone, even by SIGKILL."""
    while os.getppid() == parent:
        time.sleep(LOOK_EVERY_S)
    os._exit(TERMINATED)


def _insist(heard: int, main_thread: int) -> None:
    """Repeat signals that the main thread has not answered, and see to the ending.

    A signal that comes just before the main thread waits for a lock is answered when the wait
    ends, which may be never; a second one wakes it. An ending that a library ignored, as in a
    callback of a fork or a collection, comes after `GRACE_S`.
    """
    while number := os.read(heard, 1):
        if number[0] not in _answered:
            continue
        for _ in range(INSISTENCE):
            if _answered[number[0]].wait(INSIST_EVERY_S):
                break
            signal.pthread_kill(main_thread, number[0])
        if is_ending():
            time.sleep(GRACE_S)
            os._exit(TERMINATED)


def _end(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _answered[signal.SIGTERM].set()
    _end_workers()
    raise SystemExit(TERMINATED)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    _answered[signal.SIGINT].set()
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
