"""The first call of every command: how its threads wait, and what Ctrl-C prints. It imports nothing that takes time.

`start.command(__name__)` stands before the import of torch.
"""

from __future__ import annotations

import os
import signal
import sys
from types import TracebackType


def command(name: str, resumes: bool = False) -> None:
    """Prepare this process for a command. name: `__name__` of the command's module; if it is imported as a library,
    nothing happens. resumes: whether the same command again continues the work, which the line of Ctrl-C then says.

    Call it before torch is imported: OpenMP reads OMP_WAIT_POLICY when it is loaded.
    """
    if name == "__mp_main__":  # a process that the command spawned: the command answers Ctrl-C and ends it
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if name != "__main__":
        return
    # OpenMP's threads otherwise spin while they wait, and take the cores from any other work on the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    line, before = f"stopped{'; the same command continues' if resumes else ''}", sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):  # Python then ends itself by SIGINT: shells show 130
            print(line, file=sys.stderr)
        else:
            before(kind, error, trace)

    sys.excepthook = hook
