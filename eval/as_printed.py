"""Values as other people's code prints them, where its definition is another one than the field's name says.

pose_logits: ygtxr1997/ReliableSwap @a9fdce6, inference/ffplus/eval.py, compares the raw outputs of Hopenet, 66 logits
of each angle, and prints half the root of their summed squares, mean over pairs under the root, mean over the angles.
Its tables call this pose error. The numbers look like degrees and are none.

id_similarity_first_tenth: the same file prints, as mean cosine, that of pair i // 10 for every pair i. Of a list that
has ten pairs a person these are the pairs of the first tenth, each counted ten times.

ssim_source: CASIA-NLPRAI/face-swapping-survey @716cc94, eval_faceswap/eval_SSIM.py, compares the swap with the source,
not with the target. It rewards a swap that copies the source's picture.
"""

from __future__ import annotations

import torch

from .exact_match import SSIM_WINDOW, ssim
from .measured import Measured, mean_of
from .metric import Metric, Value, View

BINS = 66
TEN = 10  # pairs of a person in ReliableSwap's list


def pose_logits(view: View) -> dict[str, Measured]:
    """pose_logits_l2: no mean over pairs, so it has no interval. Absent for a pose estimator that gives degrees."""
    protocol = view.protocol("pose")
    swap, target = view.read("pose", "swap"), view.read("pose", "target")
    if swap.shape[1] != 3 * BINS:
        return {}
    squares = (swap - target).double().square().unflatten(1, (3, BINS)).mean((0, 2))  # (3,): of each angle
    value = float((squares * BINS).sqrt().mean() / 2)
    protocol["formula"] = "sqrt(mean over pairs and bins of squares x 66) / 2, mean over yaw, pitch and roll"
    return {"pose_logits_l2": Measured(value, len(swap), None, protocol)}


def id_similarity_first_tenth(view: View) -> dict[str, Measured]:
    """id_similarity_first_tenth: cosine to the source in [-1, 1]. Absent on lists of fewer than ten pairs."""
    protocol = view.protocol("recogniser")
    count = len(view.swaps)
    if count < TEN:
        return {}
    swap, source = view.read("recogniser", "swap"), view.read("recogniser", "source")
    rows = torch.arange(count - count % TEN) // TEN
    value = float((swap * source).sum(1).double()[rows].mean())
    protocol["formula"] = "cosine of pair i // 10 for pair i: the first tenth of the list, ten times"
    return {"id_similarity_first_tenth": Measured(value, int(rows[-1]) + 1, None, protocol)}


def ssim_source(view: View) -> dict[str, Measured]:
    """ssim_source: SSIM of swap and source, in [-1, 1]."""
    if view.pairs.resolution < SSIM_WINDOW:
        raise ValueError(f"ssim_source needs images of {SSIM_WINDOW} pixels or more, got {view.pairs.resolution}")
    protocol = {**view.protocol(), "against": "the source, whole frame", "window": "Gaussian, sigma 1.5, 11 x 11"}
    couples = zip(view.swaps.numpy(), view.pairs.source.numpy(), strict=True)
    return {"ssim_source": mean_of([ssim(a, b) for a, b in couples], protocol)}


POSE_LOGITS = Metric(
    pose_logits,
    (Value("pose_logits_l2", "pose logits L2", "logits", "{:.2f}", "lower", brief=False),),
    needs="pose",
)
ID_SIMILARITY_FIRST_TENTH = Metric(
    id_similarity_first_tenth,
    (Value("id_similarity_first_tenth", "cosine, first tenth", "cosine", "{:.3f}", "higher", brief=False),),
    needs="recogniser",
)
SSIM_SOURCE = Metric(ssim_source, (Value("ssim_source", "SSIM to source", "", "{:.3f}", None, brief=False),))
