"""What is told of an exported student: card.json for programs, equality.md for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from eval.pairs import Pairs
from students import StudentSwapper
from swapcore.hardware import environment

# The original's sizes, MB (README of HoiM/MobileFSGAN @478175b), by target and precision.
ORIGINAL_MB = {("coreml", "fp32"): 15.0, ("tnn", "fp32"): 14.8}
HEADINGS = (
    "target", "precision", "MB", "encoder + generator MB", "max difference", "mean difference", "PSNR dB",
    "time of PyTorch's", "run in",
)  # fmt: skip
IDENTITY = {  # name in a row, and decimals
    "cosine to source": ("id_similarity", 3),
    "same as PyTorch's": ("same_as_pytorch", 3),
    "ID top-1 %": ("id_top1_percent", 1),
}
LEGEND = """\
Differences are from PyTorch: the largest of any output, mean and PSNR of the swaps, in [-1, 1]. Time is the share of
PyTorch's for the whole model, in turns on one core: smaller is faster; – where no device's runtime ran it.
"""
JUDGED = """\
Identity is that of the exported encoder and generator together: cosine to the source, cosine to PyTorch's swap (1 is
the same face), and how often the source is found in the gallery (one pair is {points:.1f} points).
"""
USE = " ".join(
    """\
embedding = identity_encoder(source), to be kept as long as the source is the same; then, for each frame, swap =
generator(target, embedding). Or at once: swap = whole(source, target). Batches of one, but for onnx-batch. Inputs and
outputs are float32 at every precision. From pixels of 0 to 255: x / 127.5 - 1, and back: (x + 1) * 127.5.
""".split()
)
FRAME = " ".join(
    """\
FFHQ-like, of 256 pixels (scale by pixels / 256; x to the right, y down): eyes near (96, 121) and (159, 121), nose tip
(127, 161), mouth corners (99, 188) and (156, 188). distill/faces.py finds faces, aligns them and lays them back.
""".split()
)


def card(
    student: StudentSwapper,
    pairs: Pairs,
    rows: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
    metrics: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What card.json holds: what goes in and comes out, what was compared on what, file by file (`feed` tells how each
    runtime is handed its inputs)."""
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
            "told": "the list of pairs, its hash as in metrics.json, how many, and among how many people each source "
            "is looked for",
        },
        "pytorch": facts["pytorch"],
        "folding": facts["folding"],
        "targets": list(rows),
        "refused": facts["refused"],
        "metrics": metrics,
        "environment": environment(),
    }  # fmt: skip


def table(content: Mapping[str, Any]) -> str:
    """equality.md: what `cells` tells, and what was refused."""
    student, on, where = content["student"], content["compared_on"], content["environment"]
    head, *rows = cells(content)
    lines = [
        f"{student['name']} {_options(student['options'])}, {on['count']} pairs of {on['pairs']}, gallery of "
        f"{on['gallery']}; {where['processor']}, one core, torch {torch.__version__}, commit {where['commit']}",
        "",
        _line(head),
        "|" + "---|" * len(head),
        *map(_line, rows),
        "",
        LEGEND + JUDGED.format(points=100 / on["count"]) if content["pytorch"] else LEGEND,
    ]
    return "\n".join([*lines, *(f"Refused: {' '.join(why.split())}.\n" for why in content["refused"].values())])


def cells(content: Mapping[str, Any]) -> list[list[str]]:
    """The headings, a row for PyTorch, one for its folded form, one for each target and precision. Without a judge
    there are no columns of identity."""
    before, folded = content["pytorch"], content["folding"]["whole"]
    judged = IDENTITY if before else {}
    after = f"{folded['pytorch_ms']:.1f} ms before, {folded['ms']:.1f} after"
    made = [
        [*HEADINGS[:-1], *judged, HEADINGS[-1]],
        ["PyTorch", "fp32", "", "", "", "", "", "1.00", *_identity(before, judged), ""],
        ["PyTorch, folded", "fp32", "", "", *_differences(folded), *[""] * len(judged), after],
    ]
    for row in content["targets"]:
        whole, mb = row["models"]["whole"], row["mb"]
        original = ORIGINAL_MB.get((row["target"], row["precision"]))
        beside = f" (original {original})" if original and content["student"]["name"] == "mobilefsgan" else ""
        made.append([
            row["target"], row["precision"], f"{mb['whole']:.2f}{beside}",
            f"{mb['identity_encoder']:.2f} + {mb['generator']:.2f}", *_differences(whole | {"max_abs": row["max_abs"]}),
            *_identity(row, judged), row["runs_in"],
        ])  # fmt: skip
    return made


def _differences(facts: Mapping[str, Any]) -> list[str]:
    ratio = f"{facts['ratio']:.2f}" if "ratio" in facts else "–"
    return [f"{facts['max_abs']:.1e}", f"{facts['mean_abs']:.1e}", f"{facts['psnr_db']:.0f}", ratio]


def _identity(row: Mapping[str, Any], judged: Mapping[str, tuple[str, int]]) -> list[str]:
    return [f"{row[name]:.{decimals}f}" for name, decimals in judged.values()]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items())
