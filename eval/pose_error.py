"""Pose error in degrees: the L2 norm of the difference of (yaw, pitch, roll) between swap and target, mean over pairs.

As FaceShifter (arXiv:1912.13457) and, in code, CASIA-NLPRAI/face-swapping-survey eval_faceswap, there with Hopenet. Not
comparable with ygtxr1997/ReliableSwap, which compares the estimator's raw outputs of 66 bins each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .measured import Measured, mean_of
from .metric import Metric, Value, View


def angle_distance_deg(a: Tensor, b: Tensor) -> Tensor:
    """L2 norm of the differences of (N, 3) angles in degrees, each the shorter way round: (N,)."""
    difference = a.double() - b.double()
    return (torch.remainder(difference + 180, 360) - 180).norm(dim=1)


def pose_error(view: View) -> dict[str, Measured]:
    """pose_error_deg: the estimator's reading of the swap against its reading of the target.

    pose_error_true_deg, if the targets' pose is known: its reading of the swap against the true pose. The estimator's
    error on the unchanged targets is in the details: even a perfect swap has this error.
    """
    protocol = view.protocol("pose")
    swap, target = view.read("pose", "swap"), view.read("pose", "target")
    if swap.shape[1] != 3:
        raise ValueError(
            f"pose '{view.estimators.need('pose').name}' gives logits, not degrees; measure pose_logits, or name "
            f"another pose estimator"
        )
    relative = {**protocol, "against": "the estimator's reading of the target"}
    values = {"pose_error_deg": mean_of(angle_distance_deg(swap, target), relative)}
    truth = view.pairs.target_pose_deg
    if truth is not None:
        own = {"estimator_error_on_targets_deg": float(angle_distance_deg(target, truth).mean())}
        absolute = {**protocol, "against": "the target's true pose"}
        values["pose_error_true_deg"] = mean_of(angle_distance_deg(swap, truth), absolute, own)
    return values


POSE_ERROR = Metric(
    pose_error,
    (
        Value("pose_error_deg", "pose error °", "degrees", "{:.2f}", "lower", cost=True),
        Value("pose_error_true_deg", "to true pose °", "degrees", "{:.2f}", "lower", brief=False),
    ),
    needs="pose",
)
