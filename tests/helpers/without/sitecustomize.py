"""Hides the packages of SWAPDISTILL_TEST_WITHOUT from Python, as if they were not installed: importing one raises
ModuleNotFoundError, and it has no version."""

import os
import sys
from importlib import metadata

HIDDEN = os.environ["SWAPDISTILL_TEST_WITHOUT"].split(",")
from_name = metadata.Distribution.from_name


def only_shown(name):
    if name.replace("-", "_") in HIDDEN:
        raise metadata.PackageNotFoundError(name)
    return from_name(name)


for module in HIDDEN:
    sys.modules[module] = None
metadata.Distribution.from_name = only_shown
