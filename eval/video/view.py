"""A swapped clip as the metrics see it, a metric of clips, and one value of the values of all clips."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from swapcore.images import to_float

from ..estimators import Estimator
from ..measured import Measured, mean_of, packed
from ..metric import Value, described
from .clip import Clip
from .optical_flow import estimated_motion


@dataclass(frozen=True, eq=False)
class ClipView:
    """One swapper's swap of one clip: (T, 3, H, W) uint8, frame by frame.

    estimators: by role (recogniser, pose, landmarks); those of landmarks give (T, K, 2) in fractions of canonical
    crops, NaN where they see no face. readings: cache of what is read of source and target, shared by all swaps of this
    clip. Raises ValueError on swaps of another shape or type.
    """

    clip: Clip
    swap: Tensor
    name: str
    estimators: Mapping[str, Estimator]
    readings: dict[Any, Any]
    device: Any = "cpu"
    batch_size: int = 32
    own_readings: dict[Any, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.swap.shape != self.clip.target.shape or self.swap.dtype != torch.uint8:
            got = f"{tuple(self.swap.shape)} {self.swap.dtype}"
            expected = f"{tuple(self.clip.target.shape)} uint8"
            raise ValueError(f"swapper '{self.name}', clip '{self.clip.name}': expected {expected}, got {got}")

    def read(self, role: str, column: str) -> Tensor:
        """Readings of estimator `role` on the crops of column swap or target, or on the source: float32 on the CPU.

        Raises ValueError where they are not finite, except landmarks, and where they are not one for each crop."""
        cache = self.own_readings if column == "swap" else self.readings
        if (role, column) not in cache:
            frames = {"swap": self.swap, "target": self.clip.target}.get(column)
            crops = self.clip.source[None] if frames is None else self.clip.crops(frames)
            cache[role, column] = self._read(role, crops, column)
        return cache[role, column]

    @torch.inference_mode()
    def _read(self, role: str, crops: Tensor, column: str) -> Tensor:
        estimator = self.estimators[role]
        read = [estimator(to_float(batch.to(self.device))).float().cpu() for batch in crops.split(self.batch_size)]
        readings = torch.cat(read)
        where = f"{role} '{estimator.name}' on {column} of clip '{self.clip.name}'"
        if len(readings) != len(crops):
            raise ValueError(f"{where}: {len(readings)} readings of {len(crops)} crops")
        if role != "landmarks" and not torch.isfinite(readings).all():
            place = int((~torch.isfinite(readings)).flatten(1).any(1).nonzero()[0])
            raise ValueError(f"{where}: NaN or infinite for frame {place}")
        return readings

    def target_motion(self) -> tuple[Tensor, Tensor, str]:
        """The target's motion by optical flow, (T - 1, 2, H, W), the pixels (T - 1, 1, H, W) that both frames show, and
        the name of the method."""
        if "motion" not in self.readings:
            self.readings["motion"] = estimated_motion(self.clip.target)
        return self.readings["motion"]

    def protocol(self, role: str | None = None) -> dict[str, Any]:
        """The protocol of a value of this clip; what all clips share is added by `merged`."""
        shared = {"alignment_of_swaps": "by the target's landmarks" if self.clip.to_crop is not None else "as rendered"}
        return {**shared, **self.estimators[role].protocol(role)} if role else shared


def over_frames(values: np.ndarray, protocol: Mapping[str, Any], value: float | None = None) -> Measured | None:
    """The value of one clip: the mean of its frames' (or steps') values, NaN where one has none; or `value`. None where
    no frame has one. The values of the frames are kept in the details."""
    values = np.asarray(values, dtype=np.float64)
    has = np.isfinite(values)
    if not has.any():
        return None
    mean = float(values[has].mean()) if value is None else value
    return Measured(mean, int(has.sum()), None, dict(protocol), {"frames": packed(values.astype(np.float32))})


@dataclass(frozen=True)
class VideoMetric:
    """measure: view of a swapped clip -> measured values by key, None where the clip has none. values: all possible
    values, in the order of tables. needs: the role of its estimator. lacks: clip -> the reason why the metric has no
    value there; empty where it has one."""

    measure: Callable[[ClipView], dict[str, Measured | None]]
    values: tuple[Value, ...]
    needs: str | None = None
    lacks: Callable[[Clip], str] = lambda clip: ""

    def __call__(self, view: ClipView) -> dict[str, Measured]:
        """Measure, with units, directions and seconds; nothing where it has no value. Raises ValueError, also on a key
        that no Value declares."""
        if self.lacks(view.clip) or (self.needs and self.needs not in view.estimators):
            return {}
        started = time.perf_counter()
        found = {key: one for key, one in self.measure(view).items() if one is not None}
        measured = described(found, self.values)
        seconds = round(time.perf_counter() - started, 3)
        return {key: replace(one, seconds=seconds) for key, one in measured.items()}


def merged(
    clips: Mapping[str, Mapping[str, Measured]], shared: Mapping[str, Any], unit: str = "pairs",
    people: Sequence[np.ndarray] = (),
) -> dict[str, Measured]:  # fmt: skip
    """One swapper's values over all clips: each clip counts once, however long it is. clips: values by clip and key.

    shared: the protocol of all values, of the list of clips. unit, people: of the 95 % intervals (eval.intervals), over
    clips. The values of frames are in the details, by clip. Raises ValueError where clips were measured by different
    protocols.
    """
    found = {}
    for key in dict.fromkeys(key for values in clips.values() for key in values):
        has = {name: values[key] for name, values in clips.items() if key in values}
        first = next(iter(has.values()))
        for name, one in has.items():
            if one.protocol != first.protocol:
                raise ValueError(f"{key}: clip '{name}' was measured by {one.protocol}, others by {first.protocol}")
        where = np.array([name in has for name in clips])
        frames = {name: one.details["frames"] for name, one in has.items()}
        value = mean_of([one.value for one in has.values()], {**shared, **first.protocol}, {"frames": frames}, where)
        value = replace(
            value, unit=first.unit, better=first.better, seconds=round(sum(one.seconds for one in has.values()), 3)
        )
        found[key] = value.with_interval(unit, people)
    return found
