"""An LRU cache of tensors computed from single images: identities, embeddings, poses."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import teachers

Row = tuple[Tensor, ...]


class LruCache:
    """Rows of tensors keyed by (kind, index of the image), at most `limit` bytes; drops the least recently used.

    Rows stay on the device while four times `limit` is free there, otherwise in main memory.
    """

    def __init__(self, limit: int, device: torch.device, batch_size: int):
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
        self.device = device
        self.storage = device if free > 4 * limit or device.type != "cuda" else torch.device("cpu")
        self.limit, self.batch_size = limit, batch_size
        self.rows: OrderedDict[tuple[str, int], Row | None] = OrderedDict()
        self.bytes = self.hits = self.misses = 0

    def get(
        self, kind: str, images: Sequence[int], compute: Callable[[list[int]], Row], others: Sequence[int] = ()
    ) -> list[Row | None]:
        """A row for each of `images`; None where `compute` raises teachers.NoFace.

        `compute` takes positions in [*images, *others] and returns columns of rows. All missing rows are computed in
        one call, filled up to the batch size: on CPU convolutions round differently in batches of another size (in one
        size a row depends neither on its position nor on its neighbours), and a row must not depend on the pairs before
        it. Half of the limit may be filled with rows of `others`, which later calls may ask for.
        """
        rows = {i: self.rows[kind, i] for i in images if (kind, i) in self.rows}
        for image in rows:
            self.rows.move_to_end((kind, image))
        todo = [position for position, i in enumerate(images) if i not in rows and i not in images[:position]]
        self.hits, self.misses = self.hits + len(images) - len(todo), self.misses + len(todo)
        everybody, faceless = [*images, *others], set()
        while todo:
            free = self.batch_size - len(todo) if self.bytes < self.limit / 2 else 0
            filled = todo + self._unknown(kind, everybody, len(images), faceless)[: max(0, free)]
            asked, filled = filled, filled + filled[-1:] * (self.batch_size - len(filled))
            try:
                columns = compute(filled)
            except teachers.NoFace as error:
                found = {filled[i] for i in error.index}
                if not found:
                    raise
                faceless |= found
                kept = {everybody[position]: self._keep(kind, everybody[position], None) for position in sorted(found)}
                rows |= {image: row for image, row in kept.items() if image in images}
                todo = [position for position in todo if position not in found]
                continue
            for position, *row in zip(asked, *columns, strict=False):  # without the filling
                kept = self._keep(kind, everybody[position], tuple(row))
                if position < len(images):
                    rows[everybody[position]] = kept
            break
        return [rows[i] for i in images]

    def _unknown(self, kind: str, everybody: Sequence[int], first: int, faceless: set[int]) -> list[int]:
        """Positions from `first` on of images that have no row and occur at no earlier position."""
        return [
            position
            for position, image in enumerate(everybody)
            if position >= first and (kind, image) not in self.rows and position not in faceless
            and image not in everybody[:position]
        ]  # fmt: skip

    def _keep(self, kind: str, image: int, row: Row | None) -> Row | None:
        kept = row and tuple(part.to(self.storage, copy=True) for part in row)  # a view would keep the whole batch
        self.rows[kind, image] = kept
        self.bytes += _bytes(kept)
        while self.bytes > self.limit and self.rows:
            self.bytes -= _bytes(self.rows.popitem(last=False)[1])
        return kept

    def stack(self, rows: Sequence[Row]) -> Row:
        """Rows as columns, on the device."""
        return tuple(torch.stack(column).to(self.device, non_blocking=True) for column in zip(*rows, strict=True))


def _bytes(row: Row | None) -> int:
    return 128 + sum(part.numel() * part.element_size() for part in row or ())
