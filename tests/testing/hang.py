"""Makes one thread of a process hang from outside: ptrace stops it, as a debugger does, while all other threads go on.

Unlike a process stopped by a signal, one with a hung training thread is scheduled, sends its messages and answers.
"""

import contextlib
import ctypes
import os
import queue
import subprocess
import threading

PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_O_EXITKILL = 0x4206, 0x4207, 0x00100000  # linux/ptrace.h
WALL = 0x40000000  # linux/wait.h: of waitpid, threads too
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def _ptrace(request, tid, data=0):
    if _libc.ptrace(request, tid, None, data) == -1:
        raise OSError(ctypes.get_errno(), f"ptrace of {tid}: {os.strerror(ctypes.get_errno())}")


def _hold(tid, outcome):
    try:
        _ptrace(PTRACE_SEIZE, tid, PTRACE_O_EXITKILL)
        _ptrace(PTRACE_INTERRUPT, tid)
        os.waitpid(tid, WALL)  # it stands still
    except OSError as error:
        return outcome.put(error)
    outcome.put(None)
    # Until it is killed: whoever traces hears of the end first, and the parent only then.
    with contextlib.suppress(ChildProcessError):
        os.waitpid(tid, WALL)


def hang_thread(tid):
    """The thread stands still when this returns, and until it is killed. Raises OSError where ptrace is refused."""
    outcome = queue.SimpleQueue()
    # Only the thread that has begun to trace may go on with it, so it stays.
    threading.Thread(target=_hold, args=(tid, outcome), daemon=True).start()
    error = outcome.get()
    if error is not None:
        raise error


def why_refused():
    """Why this machine lets nobody hang a thread, as some sandboxes do; None if it does."""
    child = subprocess.Popen(["sleep", "600"])
    try:
        hang_thread(child.pid)
    except OSError as error:
        return str(error)
    finally:
        child.kill()
        child.wait()
    return None
