"""Protocols by name: what a paper's code measures, applied to a run of `python -m distill.evaluate`.

A protocol is an entry of eval/protocols.yaml. It names metrics, the values that it prints, estimators and gallery, and
says in words what its numbers depend on. The estimators' weights are files that the user brings.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from distill.config import ConfigError, Experiment
from distill.report import tables
from eval import METRICS
from eval.cards import CARDS
from eval.metric import Value
from eval.pairs import Pairs
from swapcore import weights
from swapcore.terminal import markdown_table, nearest

FILE = weights.ROOT / "eval" / "protocols.yaml"
OURS = "ours"
GALLERIES = ("list", "sources")
NO_MASKS = (
    "the list has no parsing maps, by which this protocol masks faces; write it again: datasets/make_pairs.py, "
    "--masks FOLDER"
)
FACTS = ("recogniser", "alignment", "flip", "gallery", "pairs", "pose", "expression", "colour order")
# The facts that a value depends on, by the role of the estimator that reads it; retrieval depends on `gallery` too.
EXPLAINED_BY = {
    "recogniser": ("recogniser", "alignment", "flip"),
    "pose": ("pose", "colour order"),
    "expression": ("expression", "colour order"),
}


@dataclass(frozen=True)
class Protocol:
    """An entry of protocols.yaml; the file explains the keys."""

    name: str
    title: str
    code: str
    metrics: Mapping[str, Sequence[str]]
    estimators: Mapping[str, str]
    flip: bool
    masks: bool
    gallery: str
    facts: Mapping[str, str]
    quirks: Sequence[str]
    unmeasured: Mapping[str, str]
    differs: Sequence[str]

    @property
    def values(self) -> frozenset[str] | None:
        """The keys of the values that it prints; None for all."""
        return frozenset(key for keys in self.metrics.values() for key in keys) or None


@functools.cache
def read(path: Path = FILE) -> dict[str, Protocol]:
    """All protocols by name. Raises ConfigError naming protocol and key."""
    keys = [field.name for field in fields(Protocol) if field.name != "name"]
    try:
        book = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    known = {}
    for name, entry in book.items() if isinstance(book, dict) else ():
        where = f"{path.name}: {name}"
        for key in keys:
            if not isinstance(entry, dict) or key not in entry:
                raise ConfigError(f"{where}: lacks '{key}'")
        for key in entry:
            if key not in keys:
                raise ConfigError(f"{where}: unknown key '{key}'{nearest(key, keys)}")
        known[name] = Protocol(name=name, **entry)
        _check(where, known[name])
    if not known:
        raise ConfigError(f"{path}: expected protocols by name")
    return known


def _check(where: str, protocol: Protocol) -> None:
    for metric, keys in protocol.metrics.items():
        if metric not in METRICS:
            raise ConfigError(f"{where}: metrics: unknown metric '{metric}'{nearest(metric, METRICS)}")
        declared = [value.key for value in METRICS[metric].values]
        for key in keys:
            if key not in declared:
                raise ConfigError(f"{where}: metrics: {metric} has no value '{key}'{nearest(key, declared)}")
        role = METRICS[metric].needs
        if role is not None and role not in protocol.estimators:
            raise ConfigError(f"{where}: estimators: lacks '{role}', which {metric} needs")
    for role, card in protocol.estimators.items():
        if card not in CARDS:
            raise ConfigError(f"{where}: estimators.{role}: unknown card '{card}'{nearest(card, CARDS)}")
    for key in ("flip", "masks"):
        if not isinstance(getattr(protocol, key), bool):
            raise ConfigError(f"{where}: {key}: expected true or false, got {getattr(protocol, key)!r}")
    if protocol.gallery not in GALLERIES:
        raise ConfigError(f"{where}: gallery: expected {' or '.join(GALLERIES)}, got '{protocol.gallery}'")
    for key in FACTS:
        if not isinstance(protocol.facts.get(key), str):
            raise ConfigError(f"{where}: facts: lacks '{key}' in words")


def named(names: Sequence[str]) -> list[Protocol]:
    """The protocols of these names, each once. Raises ConfigError for an unknown name."""
    known = read()
    for name in names:
        if name not in known:
            raise ConfigError(f"--protocol: unknown protocol '{name}'{nearest(name, known)}")
    return [known[name] for name in dict.fromkeys(names)]


def applied(
    protocol: Protocol, exp: Experiment, pairs: Pairs, metrics: Sequence[str] | None
) -> tuple[Experiment, dict[str, str]]:
    """The experiment with the protocol's metrics, estimators and flip, and the metrics that cannot be measured because
    a file is missing, or the masks of the pairs, each with the message that names it and its source.

    metrics: those that the user named, None for all of the protocol's. Raises ConfigError where none of them is left.
    """
    if not protocol.metrics:
        return exp, {}
    chosen = [metric for metric in protocol.metrics if metrics is None or metric in metrics]
    if not chosen:
        raise ConfigError(
            f"--metrics: protocol {protocol.name} has none of them; it has: {', '.join(protocol.metrics)}"
        )
    missing = {}
    for metric in chosen:
        role = METRICS[metric].needs
        if protocol.masks and role == "recogniser" and pairs.target_parsing is None:
            missing[metric] = NO_MASKS
        elif role is not None:
            try:
                weights.find_all(CARDS[protocol.estimators[role]].files, exp.weights)
            except weights.WeightsError as error:
                reason = str(error).partition("; weights are searched in")[0]
                missing[metric] = f"{reason}; name its folder with --weights"
    left = tuple(metric for metric in chosen if metric not in missing)
    changes = {**protocol.estimators, "metrics": left, "flip": protocol.flip, "reference": exp.eval.reference}
    return replace(exp, eval=replace(exp.eval, **changes)), missing


def with_gallery(protocol: Protocol, pairs: Pairs) -> Pairs:
    """The pairs as the protocol has them: with its gallery, and with its name in everything that values depend on.

    Raises ValueError as Pairs does, as where the sources show one person only.
    """
    if protocol.name == OURS:
        return pairs
    named_pairs = replace(pairs, protocol={**pairs.protocol, "measured_by": protocol.name})
    if protocol.gallery == "list":
        return named_pairs
    first = {person: i for i, person in reversed(list(enumerate(pairs.source_person.tolist())))}
    people = sorted(first)
    rows = torch.tensor([first[person] for person in people])
    columns = {key: getattr(pairs, f"source_{key}") for key in ("landmarks", "parsing")}
    beside = {f"gallery_{key}": column[rows] for key, column in columns.items() if column is not None}
    return replace(
        named_pairs,
        gallery=pairs.source[rows],
        gallery_person=torch.tensor(people),
        gallery_holds_sources=True,
        protocol={**named_pairs.protocol, "gallery": "the first source of each person, by the protocol"},
        **beside,
    )


def warnings(protocol: Protocol, pairs: Pairs) -> list[str]:
    """Why the numbers of a protocol mean little on these pairs."""
    if protocol.name == OURS and pairs.target_landmarks is not None:
        return [
            f"{OURS} reads canonical crops, but the pictures of {pairs.name} are whole ones: write a second list with "
            f"--align for it"
        ]
    return []


def remedy(protocol: Protocol) -> str:
    """The end of a message on a missing file: what else than the file helps."""
    if protocol.metrics:
        return ""
    return f"; by --protocol {OURS} alone, --recogniser, --pose and --expression name other networks"


def page(results: Mapping[str, Mapping[str, Any]], pairs: Pairs, left_out: Mapping[str, str] | None = None) -> str:
    """Markdown of a run by several protocols: a table for each, never two protocols in one, then the reasons why their
    numbers differ, and the texts to which the values link. results: the content of metrics.json by protocol. pairs: as
    they were given. left_out: protocols by which nothing was measured, with the reason."""
    known, lines = read(), ["# One set of swaps, measured by several protocols", ""]
    for name, content in results.items():
        lines += [f"## {known[name].title}", "", _measured_with(content), ""]
        lines += [tables.as_markdown(content["rows"], content["differences"], f"#{name}"), ""]
        unmeasured = {**content["not_measured"], **known[name].unmeasured}
        notes = [*content["verdicts"], *tables.notes({**content, "not_measured": unmeasured})]
        notes = [f"**{warning}**" for warning in warnings(known[name], pairs)] + [
            note.replace("*", r"\*")
            for note in notes  # which would begin a list
        ]
        lines += [f"- {note}" for note in notes] + [""]
    for name, reason in (left_out or {}).items():
        lines += [f"## {known[name].title}", "", f"Left out: {reason}.", ""]
    if len(results) > 1:
        lines += ["## Why the numbers differ", "", *differences(results), ""]
    return "\n".join([*lines, *(line for name in results for line in text(known[name]))])


def _measured_with(content: Mapping[str, Any]) -> str:
    """The line over a table: pairs, what is missing of them, gallery, the networks, and the unit of the intervals."""
    pairs, facts = content["pairs"], []
    cells = [cell for row in content["rows"].values() for cell in row.values()]
    for role in EXPLAINED_BY:
        used = [cell["protocol"] for cell in cells if role in cell["protocol"]]
        names = dict.fromkeys(f"{one[role]['name']} ({one[role]['weight_hash']})" for one in used)
        mirrored = " with mirrored features" if role == "recogniser" and any(u["flip"] != "none" for u in used) else ""
        facts += [f"{role} {name}{mirrored}" for name in names]
    if skipped := pairs["skipped"]:
        named = ", ".join([*(one["what"] for one in skipped[:3]), *(["..."] if len(skipped) > 3 else [])])
        facts.insert(0, f"{len(skipped)} left out ({named})")
    units = dict.fromkeys(tables.unit_of(cell) for cell in cells if cell.get("interval"))
    brackets = f"In brackets: 95 % intervals by {', '.join(units)}." if units else ""
    first = f"{pairs['count']} pairs of {pairs['name']} ({pairs['hash']}), gallery of {pairs['gallery']} people"
    known = {"alignment": "Pictures", "landmarks": "Landmarks", "swaps of others": "Swaps"}
    of_list = [f"{what} {pairs['protocol'][key]}" for key, what in known.items() if key in pairs["protocol"]]
    return f"{'; '.join([first, *facts])}. {'. '.join([*of_list, ''])}{brackets}".strip()


def differences(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Number by number, in plain sentences: the values that two protocols have of one thing, and what differs."""
    known, names, lines = read(), list(results), []
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            for role, a in _measured(results[first]["rows"]):
                for other_role, b in _measured(results[second]["rows"]):
                    if role != other_role or not _same_thing(role, a, b):
                        continue
                    keys = (*EXPLAINED_BY[role], *(["gallery"] if a.unit == "%" else []))
                    facts = [(key, known[first].facts[key], known[second].facts[key]) for key in keys]
                    shown = [f"{key}: {x} ({first}); {y} ({second})" for key, x, y in facts if x != y]
                    both = f"{_numbers(first, a, results)}, {_numbers(second, b, results)}"
                    lines.append(f"- {both}. {'. '.join(shown)}.")
    return lines or ["No value has a counterpart in another protocol."]


def _same_thing(role: str, a: Value, b: Value) -> bool:
    """Whether two values stand for one thing, though their definitions differ: pose in degrees and in logits, a cosine
    over all pairs and over the first."""
    firsts = {metric.values[0].key for metric in METRICS.values()}
    alike = a.better == b.better and (a.unit == b.unit or role == "pose") and {a.key, b.key} <= firsts
    return a.key == b.key or alike


def _measured(rows: Mapping[str, Any]) -> list[tuple[str, Value]]:
    """The values in rows that an estimator of EXPLAINED_BY reads, each with its role."""
    keys = {key for row in rows.values() for key in row}
    metrics = [metric for metric in METRICS.values() if metric.needs in EXPLAINED_BY]
    return [(metric.needs, value) for metric in metrics for value in metric.values if value.key in keys]


def _numbers(name: str, value: Value, results: Mapping[str, Mapping[str, Any]]) -> str:
    rows = {row: cells[value.key] for row, cells in results[name]["rows"].items() if value.key in cells}
    numbers = ", ".join(f"{row} {value.format.format(cell['value'])}" for row, cell in rows.items())
    return f"{value.title} by [{name}](#{name}): {numbers}"


def text(protocol: Protocol) -> list[str]:
    """The protocol in words, as Markdown under a heading to which values link."""
    lines = [f"## {protocol.name}", "", f"{protocol.title}: {protocol.code}.", ""]
    lines += [
        markdown_table([["fact", "as the code has it"], *([key, fact] for key, fact in protocol.facts.items())]),
        "",
    ]
    for title, entries in (
        ("What a reader would not expect", protocol.quirks),
        ("Not measured here", [f"{what}: {why}." for what, why in protocol.unmeasured.items()]),
        ("Where this program differs from the code", protocol.differs),
    ):
        if entries:
            lines += [f"{title}:", "", *(f"- {entry}" for entry in entries), ""]
    return lines


def rewritten(page: str) -> str:
    """A page with the texts of all protocols between its lines `<!-- protocols -->` and `<!-- /protocols -->`.

    Raises ConfigError where it lacks them."""
    before, start, rest = page.partition("<!-- protocols -->\n")
    _, end, after = rest.partition("<!-- /protocols -->\n")
    if not (start and end):
        raise ConfigError("no place for the protocols: mark it by lines <!-- protocols --> and <!-- /protocols -->")
    lines = [line for protocol in read().values() for line in text(protocol)]
    return before + start + "\n" + "\n".join(lines) + "\n" + end + after
