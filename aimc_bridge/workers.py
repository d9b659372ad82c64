"""Worker processes that end when the process that started them is gone.

This module imports no torch: workers run it before anything else.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

LOOK_EVERY_S = 0.5
_watched: set[int] = set()


def end_with(parent: int) -> None:
    """End this process soon after its parent has ended, in whatever way that ended.

    A parent that is killed cannot tell its workers. They would wait for the next task, or compute
    to the end what nobody will read. Ctrl-C, which a terminal sends to all of them, is the parent's
    alone: it ends its workers.

    Args:
        parent: The id of the process that started this one.
    """
    if os.name == "nt" or parent in _watched:  # there, a process keeps the id of a dead parent
        return
    _watched.add(parent)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(parent,), daemon=True, name="end-with-parent").start()


def _watch(parent: int) -> None:
    """Wait until the parent has ended, then end at once.

    A fork server may stand between the two. Then multiprocessing knows when the parent ends. If the
    process was forked from its parent, multiprocessing does not: others that were forked later keep
    open what it listens to.
    """
    through_server = multiprocessing.parent_process()
    if os.getppid() != parent and through_server is not None:
        through_server.join()
    while os.getppid() == parent:  # the system gives it another one when its parent ends
        time.sleep(LOOK_EVERY_S)
    os._exit(1)
