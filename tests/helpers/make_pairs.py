"""The command `datasets/make_pairs.py`, in this process."""

from conftest import ROOT, script

COMMAND = ROOT / "datasets" / "make_pairs.py"


def make(*arguments):
    return script(COMMAND, *arguments)
