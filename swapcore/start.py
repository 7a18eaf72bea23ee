"""The first call of every command: how its threads wait, and what Ctrl-C prints. It imports nothing that takes time.

`start.command(__name__)` stands before the import of torch.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import traceback
from types import TracebackType


def command(name: str, resumes: bool = False) -> None:
    """Prepare this process for a command. name: `__name__` of the command's module; if it is imported as a library,
    nothing happens. resumes: whether the same command again continues the work, which the line of Ctrl-C then says.

    Call it before torch is imported: OpenMP reads its variables when it is loaded.
    """
    if name == "__mp_main__":  # a process that the command spawned: the command answers Ctrl-C and ends it
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if name != "__main__":
        return
    # OpenMP's threads otherwise spin while they wait, and take the cores from any other work on the machine. GNU's are
    # to spin for some microseconds all the same: between two small operations that costs less than to sleep and wake.
    if "OMP_WAIT_POLICY" not in os.environ and "GOMP_SPINCOUNT" not in os.environ:
        os.environ.update(OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT="10000")
    line, before = f"stopped{'; the same command continues' if resumes else ''}", sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            before(kind, error, trace)
            return
        traceback.clear_frames(trace)  # ends progress bars and loader processes before the line appears
        print(line, file=sys.stderr)
        stopped.append(True)

    def end() -> None:
        # Shells show 130 for a process that SIGINT ended. Python does this by itself, but not always once torch is in.
        if stopped:
            sys.stdout.flush()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)

    stopped: list[bool] = []
    sys.excepthook = hook
    atexit.register(end)  # the first registered function is called last
