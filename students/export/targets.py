"""The runtimes that a student can be exported to, by name. A new one is a module with a `TARGET` and a line here."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from swapcore import terminal

from . import coreml, executorch, litert, mnn, ncnn, onnx, tnn, web
from .models import Target

TARGETS = {
    "onnx": onnx.TARGET,
    "onnx-batch": onnx.BATCH_TARGET,
    "coreml": coreml.TARGET,
    "tnn": tnn.TARGET,
    "ncnn": ncnn.TARGET,
    "mnn": mnn.TARGET,
    "litert": litert.TARGET,
    "executorch": executorch.TARGET,
    "web": web.TARGET,
}


def check(name: str, precision: str) -> Target:
    """A target that has this precision. Raises ValueError with the known names."""
    if name not in TARGETS:
        raise ValueError(f"unknown export target '{name}', known: {', '.join(TARGETS)}, or all")
    target = TARGETS[name]
    if precision not in target.precisions:
        raise ValueError(f"{name}: no precision '{precision}', known: {', '.join(target.precisions)}, or all")
    return target


def check_packages(*names: str) -> None:
    """Raise ValueError that names the packages that these targets lack here, and how to install them."""
    wrong = []
    for name in dict.fromkeys(names):
        target = TARGETS[name]
        missing = [package for package in target.packages if importlib.util.find_spec(package) is None]
        if missing:
            install = terminal.install(target.extra)
            wrong.append(f"exporting to {name} needs the package {', '.join(missing)}: {install}")
    if wrong:
        raise ValueError("; ".join(wrong))


def chosen(names: Sequence[str], precisions: Sequence[str]) -> list[tuple[str, str]]:
    """All (target, precision) in order. `all` as the only name means every target that has the precision; `all` as the
    only precision, every precision that the target has. Raises the errors of `check`, all of them in one."""
    pairs, wrong, every = [], {}, list(names) == ["all"]
    for name in TARGETS if every else names:
        known = TARGETS[name].precisions if name in TARGETS else ()
        for precision in known if list(precisions) == ["all"] else precisions:
            if not every or precision in known:
                try:
                    check(name, precision)
                except ValueError as error:
                    wrong[str(error)] = None
                pairs.append((name, precision))
    if wrong:
        raise ValueError("; ".join(wrong))
    if not pairs:
        raise ValueError(f"no target has the precision '{', '.join(precisions)}'; known: fp32, fp16, int8")
    return pairs
