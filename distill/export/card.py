"""The description of an exported student: card.json for programs, equality.md for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from eval.pairs import Pairs
from students import StudentSwapper
from swapcore.hardware import environment
from swapcore.terminal import markdown_table

# The original's sizes, MB (README of HoiM/MobileFSGAN @478175b), by target and precision.
ORIGINAL_MB = {("coreml", "fp32"): 15.0, ("tnn", "fp32"): 14.8}
HEADINGS = (
    "target", "precision", "MB", "encoder + generator MB", "max difference", "mean difference", "PSNR dB",
    "time of PyTorch's", "run in",
)  # fmt: skip
IDENTITY = {  # heading: key in card.json, decimal places
    "cosine to source": ("id_similarity", 3),
    "same as PyTorch's": ("same_as_pytorch", 3),
    "ID top-1 %": ("id_top1_percent", 1),
}
LEGEND = """\
Differences are from PyTorch, in [-1, 1]: the largest of any output, mean and PSNR of the swaps. Time is the time of
the whole model divided by PyTorch's, both measured in turns on one core; – means that no device's runtime ran it.
"""
IDENTITY_LEGEND = """\
Identity is measured on swaps of the exported encoder and generator together: cosine to the source, cosine to PyTorch's
swap (1 is the same face), and how often retrieval finds the source in the gallery (one pair is {points:.1f} points).
"""
USE = " ".join(
    """\
embedding = identity_encoder(source), once for each source; then, for each frame, swap = generator(target, embedding).
Or in one call: swap = whole(source, target). Batches have one image, except for onnx-batch. Inputs and outputs are
float32 at every precision. From pixels of 0 to 255: x / 127.5 - 1, and back: (x + 1) * 127.5.
""".split()
)
FRAME = " ".join(
    """\
FFHQ-like, of 256 pixels (scale by pixels / 256; x to the right, y down): eyes near (96, 121) and (159, 121), nose tip
(127, 161), mouth corners (99, 188) and (156, 188). distill/data/faces.py finds faces, aligns them and pastes them back.
""".split()
)


def card(
    student: StudentSwapper,
    pairs: Pairs,
    rows: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
    metrics: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The content of card.json: inputs and outputs, the pairs of the comparison, and the files of each target. `feed`
    says how its runtime takes inputs."""
    side, generator = student.generator.options["resolution"], student.generator
    condition = {"embedding": {"shape": [1, generator.options["embedding_dim"]], "range": "unit length"}}
    if getattr(generator, "needs_map", False):
        condition["identity_map"] = {"shape": [1, *student.identity_encoder.map_shape], "range": "any"}
    encoder = student.identity_encoder.card
    picture = {"shape": [1, 3, side, side], "range": "[-1, 1]", "colours": "RGB, NCHW"}
    return {
        "student": {
            "name": student.name, "options": generator.options, "weight_hash": student.weight_hash,
            "identity_encoder": {key: getattr(encoder, key) for key in ("name", "source", "licence", "note")},
        },
        "use": USE,
        "crop": {"frame": FRAME, "pixels": side},
        "models": {
            "generator": {"inputs": {"target": picture, **condition}, "outputs": {"swap": picture}},
            "identity_encoder": {"inputs": {"source": picture}, "outputs": condition},
            "whole": {"inputs": {"source": picture, "target": picture}, "outputs": {"swap": picture}},
        },
        "compared_on": {
            "pairs": pairs.name, "hash": pairs.hash, "count": len(pairs), "gallery": len(pairs.gallery),
            "told": "the pair list, its hash as in metrics.json, the number of pairs, and the number of people among "
            "whom retrieval searches each source",
        },
        "pytorch": facts["pytorch"],
        "folding": facts["folding"],
        "targets": list(rows),
        "refused": facts["refused"],
        "metrics": metrics,
        "environment": environment(),
    }  # fmt: skip


def table(content: Mapping[str, Any]) -> str:
    """equality.md: the rows of `cells`, and the refused targets."""
    student, on, where = content["student"], content["compared_on"], content["environment"]
    options = ", ".join(f"{name} {value}" for name, value in student["options"].items())
    lines = [
        f"{student['name']} {options}, {on['count']} pairs of {on['pairs']}, gallery of {on['gallery']}; "
        f"{where['processor']}, one core, torch {torch.__version__}, commit {where['commit']}",
        "",
        markdown_table(cells(content)),
        "",
        legend(content),
    ]
    return "\n".join([*lines, *(f"Refused: {' '.join(why.split())}.\n" for why in content["refused"].values())])


def legend(content: Mapping[str, Any]) -> str:
    """The meaning of the columns of `cells`."""
    identity = IDENTITY_LEGEND.format(points=100 / content["compared_on"]["count"]) if content["pytorch"] else ""
    return LEGEND + identity


def cells(content: Mapping[str, Any]) -> list[list[str]]:
    """The headings, then rows for PyTorch, for its folded form, and for each target and precision. Without a
    recogniser there are no columns of identity."""
    before, folded = content["pytorch"], content["folding"]["whole"]
    identity = IDENTITY if before else {}
    times = f"{folded['pytorch_ms']:.1f} ms before, {folded['ms']:.1f} after"
    rows = [
        [*HEADINGS[:-1], *identity, HEADINGS[-1]],
        ["PyTorch", "fp32", "", "", "", "", "", "1.00", *_identity(before, identity), ""],
        ["PyTorch, folded", "fp32", "", "", *_differences(folded), *[""] * len(identity), times],
    ]
    for row in content["targets"]:
        whole, mb = row["models"]["whole"], row["mb"]
        original = ORIGINAL_MB.get((row["target"], row["precision"]))
        beside = f" (original {original})" if original and content["student"]["name"] == "mobilefsgan" else ""
        rows.append([
            row["target"], row["precision"], f"{mb['whole']:.2f}{beside}",
            f"{mb['identity_encoder']:.2f} + {mb['generator']:.2f}", *_differences(whole | {"max_abs": row["max_abs"]}),
            *_identity(row, identity), row["runs_in"],
        ])  # fmt: skip
    return rows


def _differences(facts: Mapping[str, Any]) -> list[str]:
    ratio = f"{facts['ratio']:.2f}" if "ratio" in facts else "–"
    return [f"{facts['max_abs']:.1e}", f"{facts['mean_abs']:.1e}", f"{facts['psnr_db']:.0f}", ratio]


def _identity(row: Mapping[str, Any], columns: Mapping[str, tuple[str, int]]) -> list[str]:
    return [f"{row[key]:.{decimals}f}" for key, decimals in columns.values()]
