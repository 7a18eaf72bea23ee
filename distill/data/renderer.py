"""Which renderer drew the pictures of synthetic people. Only those of the present one are used.

The renderer's version is in every row of a manifest and of a pair list, in the records of the folders that our commands
draw, and in the inputs of a stage. Numbers of another version mean something else, or nothing, to this one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from swapcore.images import DataError
from teachers.exact import RENDERER

FIRST = "renderer-1"  # wrote rows without the key
DRAW_AGAIN = "draw the people again, into another folder or after you delete this one"


def refuse_others(where: str | Path, rows: Iterable[Mapping[str, Any]], remedy: str = DRAW_AGAIN) -> None:
    """Raise DataError where a row of synthetic pictures was not drawn by the present renderer. Photographs' rows pass.

    where: the file that holds the rows. The message names it, the row's picture, the key and the remedy.
    """
    for row in rows:
        if "identity" in row and (before := row.get("renderer", FIRST)) != RENDERER:
            raise DataError(
                f"{where}: {row.get('file', 'a picture')}: renderer: drawn by {before}, this version draws by "
                f"{RENDERER}: {remedy}"
            )


def refuse_other(record: str | Path, before: Any, remedy: str = DRAW_AGAIN) -> None:
    """Raise DataError where `before`, the renderer that a file names, is not the present one."""
    if before != RENDERER:
        raise DataError(f"{record}: renderer: drawn by {before}, this version draws by {RENDERER}: {remedy}")
