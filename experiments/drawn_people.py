"""Check the drawn people of the synthetic benchmark against networks that were trained on photographs:

python experiments/drawn_people.py photographs [--people 256] [--size 256] [--weights FOLDER] [--photos FOLDER]
python experiments/drawn_people.py order DRAWN PHOTOGRAPHS [--swappers NAME ...]
python experiments/drawn_people.py identity [--pairs 1024] [--gallery 64] [--sizes 64 96 128]

photographs: how a face detector (YuNet) and two pose estimators (3DDFA_V2, FSA-Net) read drawn people, whose landmarks
and angles are known. --photos adds what they read in aligned photographs, where no truth is known.

order: whether the benchmark puts swappers into the same order as photographs do. DRAWN and PHOTOGRAPHS are outputs of
`python -m distill.evaluate` (folders, or their metrics.json) with the same swappers, named in the same order.

identity: retrieval of people never seen: with all numbers, with the paint held equal, with the shape held equal.

Each prints a table and writes a JSON file.
"""

import argparse
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from swapcore import start

start.command(__name__)

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor
from tqdm import tqdm

from distill import build, config
from distill.data import faces, synthetic
from distill.data.photos import Photos
from distill.evaluate import pairs as lists
from distill.evaluate.differences import each_of, people_of, to_reference
from distill.evaluate.recognisers import read_people
from eval import table_values
from eval.estimators import Estimator, Estimators
from eval.evaluation import Evaluation
from eval.measured import check_column
from eval.metric import Value
from eval.pairs import Pairs
from swapcore import terminal, weights
from swapcore.files import read_record, write_json
from swapcore.hardware import environment
from swapcore.images import to_float, to_uint8
from teachers.exact import GEOMETRY, IDENTITY, PAINT, pose_deg, render
from teachers.exact.face import BUILD

SPLIT = "drawn people"  # seeds of its own: nobody of it is in an experiment or in the training of a network
BATCH = 32
POINTS = ("left eye", "right eye", "nose tip", "left mouth corner", "right mouth corner")
ANGLES = ("yaw", "pitch", "roll")
POSE_NETWORKS = ("3ddfa_v2_mb05", "fsanet")
# The border of a picture is repeated by this share of its side on each side: the crop ends close to the chin and the
# crown, and a detector expects surroundings. Without it the landmarks of photographs change by 0.1 % of the eyes'
# distance.
MARGIN = 0.5
DETECTED, WEAKEST = 0.7, 0.1  # confidence that counts as a detection (the product's), and the lowest one looked at
RECOGNISERS, POSE = ("synthetic_recogniser", "synthetic_identity"), "synthetic_pose"  # the last one trains students
IMAGES = 5  # pictures of each person, one of them in the gallery
# Skin, brows, beard, wrinkles and make-up follow from the build (origin, sex, age) too, so it is held with the paint.
HELD = {"nothing": (), "paint": (*BUILD, *PAINT), "shape": GEOMETRY}  # numbers that all people share


def estimator(role: str, name: str, folders: Sequence[str] = ()) -> Estimator:
    """A recogniser or pose estimator by the name of its card. Raises ConfigError, WeightsError."""
    metric = {"recogniser": "id_retrieval", "pose": "pose_error"}[role]
    chosen = {f"eval.{role}": name, "eval.metrics": [metric], "weights": list(folders)}
    return build.estimators(config.default("drawn_people", chosen.items())).need(role)


@torch.inference_mode()
def read(network: Estimator, images: Tensor) -> np.ndarray:
    """Readings (N, D) float64 of pictures (N, 3, H, H) uint8."""
    return torch.cat([network(to_float(some)).double() for some in images.split(BATCH)]).numpy()


def drawn(identity: Tensor, attributes: Tensor, size: int, title: str) -> tuple[Tensor, Tensor]:
    """Pictures (N, 3, size, size) uint8 and landmarks (N, 5, 2) in pixels of people, given by their numbers."""
    pictures, points = [], []
    with tqdm(total=len(identity), desc=title, unit="picture") as bar:
        for some in zip(identity.split(BATCH), attributes.split(BATCH), strict=True):
            made = render(*some, size)
            pictures.append(to_uint8(made.image))
            points.append(made.landmarks)
            bar.update(len(pictures[-1]))
    return torch.cat(pictures), torch.cat(points)


# photographs


def find(detector: faces.Detector, image: Tensor, truth: np.ndarray | None) -> tuple[np.ndarray, float] | None:
    """Landmarks (5, 2) in pixels and confidence of the face in a picture (3, H, H) uint8 with repeated borders.

    Of several faces, the one nearest to the true landmarks counts, if it is nearer than half the distance of the eyes;
    without truth, the most confident one."""
    margin = round(MARGIN * image.shape[-1])
    padded = np.pad(image.permute(1, 2, 0).numpy(), ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    found = [(points - margin, score) for points, score in detector.scored(padded)]
    if truth is None:
        return max(found, key=lambda face: face[1], default=None)
    eyes = np.linalg.norm(truth[1] - truth[0])
    near = [(np.linalg.norm(face[0] - truth, axis=1).mean(), i) for i, face in enumerate(found)]
    distance, best = min(near, default=(np.inf, 0))
    return found[best] if distance < eyes / 2 else None


def detection(scores: np.ndarray) -> dict[str, float]:
    """The share of faces found, and their confidence, (N,), 0 where none was found."""
    share, low = 100 * (scores >= DETECTED).mean(), np.percentile(scores, 5)
    return {"detected_pct": round(share, 2), "score_mean": round(scores.mean(), 4), "score_p05": round(low, 4)}


def landmark_errors(found: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Mean distances of landmarks (N, 5, 2) to the true ones in % of the true distance of the eyes, over all and for
    each point, as they are and without the mean offset of each point, which is a matter of definition."""
    unit = np.linalg.norm(truth[:, 1] - truth[:, 0], axis=1)[:, None, None] / 100
    error, offset = (found - truth) / unit, ((found - truth) / unit).mean(0)
    kinds = {"as found": error, "without offset": error - offset}
    sizes = {kind: np.linalg.norm(values, axis=2) for kind, values in kinds.items()}
    means = {kind: [size.mean(), *size.mean(0)] for kind, size in sizes.items()}
    named = {kind: dict(zip(("mean", *POINTS), np.round(values, 2).tolist(), strict=True))
             for kind, values in means.items()}  # fmt: skip
    return {**named, "offset": dict(zip(POINTS, offset.round(2).tolist(), strict=True))}


def angle_fit(reading: np.ndarray, truth: np.ndarray) -> dict[str, dict[str, float]]:
    """By angle, of readings and true angles (N, 3) in degrees: correlation; slope and offset of the line reading =
    slope * truth + offset; mean absolute error as it is, and without the mean difference."""
    fits = {}
    for i, name in enumerate(ANGLES):
        slope, offset = np.polyfit(truth[:, i], reading[:, i], 1)
        error = reading[:, i] - truth[:, i]
        numbers = {
            "correlation": np.corrcoef(reading[:, i], truth[:, i])[0, 1], "slope": slope, "offset_deg": offset,
            "error_deg": np.abs(error).mean(), "error_no_mean_deg": np.abs(error - error.mean()).mean(),
        }  # fmt: skip
        fits[name] = {key: round(float(value), 3) for key, value in numbers.items()}
    return fits


def load_networks(folders: Sequence[str]) -> tuple[faces.Detector | None, dict[str, Estimator], dict[str, str]]:
    """The detector, the pose estimators by name, and the reason by name for each that is absent.

    Raises ConfigError where all are."""
    detector, pose, absent = None, {}, {}
    try:
        detector = faces.Detector(weights.find(faces.YUNET, folders), WEAKEST)
    except ValueError as error:
        absent[faces.YUNET.name] = str(error)
    for name in POSE_NETWORKS:
        try:
            pose[name] = estimator("pose", name, folders)
        except ValueError as error:
            absent[name] = str(error)
    if detector is None and not pose:
        raise config.ConfigError(f"none of the networks is here: {'; '.join(absent.values())}")
    return detector, pose, absent


def photographs(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Numbers for JSON, and tables."""
    config.check_weights(args.weights)
    detector, networks, absent = load_networks(args.weights)
    identity, attributes = synthetic.people(SPLIT, args.seed, args.people, 1)
    images, points = drawn(identity, attributes, args.size, "draw people")
    truth, points = pose_deg(attributes).double().numpy(), points.double().numpy()
    sets: dict[str, Any] = {"drawn": read_by(detector, networks, images, points, truth)}
    if args.photos:
        photos, _ = read_people(args.photos, "test", args.size)
        step = max(1, len(photos) // args.people)  # spread over the people
        chosen = photos.load(range(0, len(photos), step)[: args.people])
        sets["photographs"] = read_by(detector, networks, chosen)
    padding = f"the border repeated by {MARGIN:g} of the side on each side"
    protocol = {"people": args.people, "size": args.size, "seed": args.seed, "detector_padding": padding}
    protocol["networks"] = {name: network.as_dict() for name, network in networks.items()}
    if detector:
        protocol["networks"][detector.name] = {"weight_hash": detector.weight_hash, "detected_from": DETECTED}
    numbers = {"renderer": synthetic.RENDERER, "protocol": protocol, **sets, "not_measured": absent}
    return numbers, tables_of(sets, absent)


def read_by(detector: faces.Detector | None, networks: Mapping[str, Estimator], images: Tensor,
            points: np.ndarray | None = None, truth: np.ndarray | None = None) -> dict[str, Any]:  # fmt: skip
    """What the networks read in pictures, and its error against true landmarks (N, 5, 2) and angles (N, 3) if given."""
    result: dict[str, Any] = {"pictures": len(images)}
    if detector:
        true = [None] * len(images) if points is None else points
        found = [find(detector, image, own) for image, own in zip(images, true, strict=True)]
        result["detection"] = detection(np.array([face[1] if face else 0.0 for face in found]))
        at = [i for i, face in enumerate(found) if face]
        if points is not None and at:
            result["landmarks_pct_of_eye_distance"] = landmark_errors(np.stack([found[i][0] for i in at]), points[at])
    readings = {name: read(network, images) for name, network in networks.items()}
    if truth is not None:
        result["pose"] = {name: angle_fit(values, truth) for name, values in readings.items()}
    if len(readings) == 2:  # as if the first were the truth
        result["second_pose_against_first"] = angle_fit(*reversed(readings.values()))
    return result


def tables_of(sets: Mapping[str, Any], absent: Mapping[str, str]) -> str:
    rows = [["faces", "found %", "score", "5 % below"]]
    rows += [[name, *map(str, one["detection"].values())] for name, one in sets.items() if "detection" in one]
    parts = [terminal.text_table(rows)] if len(rows) > 1 else []
    if errors := sets["drawn"].get("landmarks_pct_of_eye_distance"):
        rows = [["landmarks, % of eyes", "as found", "no offset", "offset x", "offset y"]]
        for point in ("mean", *POINTS):
            cells = errors["as found"][point], errors["without offset"][point], *errors["offset"].get(point, ("", ""))
            rows.append([point, *map(str, cells)])
        parts.append(terminal.text_table(rows))
    pair, keys = "second_pose_against_first", ("correlation", "slope", "offset_deg", "error_deg", "error_no_mean_deg")
    rows = [["angles", "correlation", "slope", "offset °", "error °", "no mean °"]]
    fits = sets["drawn"]["pose"] | {f"2nd to 1st, {name}": one[pair] for name, one in sets.items() if pair in one}
    for (name, fit), angle in itertools.product(fits.items(), ANGLES):
        rows.append([f"{name}, {angle}", *(f"{fit[angle][key]:.2f}" for key in keys)])
    parts.append(terminal.text_table(rows))
    return "\n\n".join([*parts, *(f"not measured: {name}: {reason}" for name, reason in absent.items())])


# order


def order(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Numbers for JSON, and a table. Raises ConfigError where fewer than three swappers are in both results."""
    contents = {side: results(getattr(args, side)) for side in ("drawn", "photographs")}
    common = [name for name in contents["drawn"]["rows"] if name in contents["photographs"]["rows"]]
    names = args.swappers or common
    if missing := [name for name in names if name not in common]:
        raise config.ConfigError(f"--swappers: not in both results: {', '.join(missing)}; known: {', '.join(common)}")
    if len(names) < 3:
        raise config.ConfigError(f"an order needs three swappers, in both results there are {len(names)}: {names}")
    rows = {side: {name: content["rows"][name] for name in names} for side, content in contents.items()}
    values = [value for value in table_values(rows["drawn"][names[0]]) if comparable(value, rows)]
    if not values:
        raise config.ConfigError("no mean over pairs was measured of every swapper in both results")
    sure = {side: sure_differences(contents[side], rows[side]) for side in rows}
    metrics = {value.key: compared(value, rows, sure) for value in values}
    facts = {side: {k: content["pairs"][k] for k in ("name", "hash", "count", "gallery")}
             for side, content in contents.items()}  # fmt: skip
    table = [["", "Spearman", "sure pairs", "same way", *names]]
    for value in values:
        one, text = metrics[value.key], value.format.format
        both = [f"{text(one['drawn'][name])} | {text(one['photographs'][name])}" for name in names]
        rank = "–" if one["spearman"] is None else f"{one['spearman']:+.2f}"
        table.append([value.title, rank, str(one["sure_pairs"]), str(one["sure_pairs_same_way"]), *both])
    numbers = {"swappers": names, "pairs": facts, "metrics": metrics}
    return numbers, f"each cell: drawn | photographs\n{terminal.text_table(table)}"


def results(path: Path) -> dict[str, Any]:
    """The content of an evaluation's metrics.json, given by its folder or by its path."""
    path = path / "metrics.json" if path.is_dir() else path
    if not path.is_file():
        raise config.ConfigError(f"{path}: no such file; write it with python -m distill.evaluate SWAPPER ... --out")
    return read_record(path)


def comparable(value: Value, rows: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a value is a mean over pairs and was measured of all swappers on both sides. Raises ValueError where
    swappers of one side were measured by different protocols."""
    for of_side in rows.values():
        if not all(row.get(value.key, {}).get("each") for row in of_side.values()):
            return False
        check_column(value.key, {name: row[value.key] for name, row in of_side.items()})
    return True


def sure_differences(content: Mapping[str, Any], rows: Mapping[str, Any]) -> dict[tuple[str, str, str], float]:
    """(swapper, other, key) -> the difference of two swappers on the same pairs, where its 95 % intervals exclude 0."""
    each, people, sure = {name: each_of(row) for name, row in rows.items()}, people_of(content["pairs"]) or (), {}
    for name in rows:
        for other, keys in to_reference(each, name, people).items():
            sure |= {(name, other, key): one.value for key, one in keys.items() if one.sure}
    return sure


def compared(value: Value, rows: Mapping[str, Any], sure: Mapping[str, Mapping]) -> dict[str, Any]:
    """A value of the swappers on both sides, the rank correlation (None where all are equal on a side), the number of
    pairs of swappers that both sides surely tell apart, and how many of these have the same order on both."""
    sides = {side: {name: row[value.key]["value"] for name, row in of_side.items()} for side, of_side in rows.items()}
    first, second = (list(side.values()) for side in sides.values())
    constant = len(set(first)) == 1 or len(set(second)) == 1
    couples = [(a, b, value.key) for a, b in itertools.combinations(sides["drawn"], 2)]
    both = [couple for couple in couples if all(couple in of_side for of_side in sure.values())]
    same = sum(sure["drawn"][couple] * sure["photographs"][couple] > 0 for couple in both)
    rank = None if constant else round(float(spearmanr(first, second).statistic), 3)
    return {**sides, "spearman": rank, "sure_pairs": len(both), "sure_pairs_same_way": same}


# identity


def drawn_pairs(size: int, people: int, count: int, seed: int, held: Sequence[str]) -> Pairs:
    """`count` pairs of `people` drawn people, as an experiment draws its test pairs, with one picture of each person in
    the gallery. Numbers of the identity named by `held` are in everybody those of the person nearest to the median."""
    identity, attributes = synthetic.people(SPLIT, seed, people, IMAGES)
    if columns := [IDENTITY.index(name) for name in held]:
        ours = identity[:, columns]
        off = (ours - ours.median(0).values) / ours.std(0).clamp(min=1e-6)
        identity[:, columns] = ours[off.square().sum(1).argmin()]  # not the median, which might be nobody's face
    identity = identity.repeat_interleave(IMAGES, 0)
    images, _ = drawn(identity, attributes, size, f"draw people at {size}")
    numbers = {"identity": identity.tolist(), "attributes": attributes.tolist()}
    rows = [{"file": str(i), "person": f"{i // IMAGES:05d}", **{key: column[i] for key, column in numbers.items()}}
            for i in range(len(images))]  # fmt: skip
    listing = lists.by_people(f"drawn people, {size}", Photos(Path(), rows, size), count, seed, lists.SYNTHETIC)
    source, target = ([int(pair[side]) for pair in listing["pairs"]] for side in ("source", "target"))
    gallery = [int(entry["file"]) for entry in listing["gallery"]]
    person = torch.arange(len(images)) // IMAGES
    exact = lists.exact_swaps([rows[i] for i in source], [rows[i] for i in target], size)
    return Pairs(
        name=listing["name"], source=images[source], target=images[target], exact=exact,
        source_person=person[source], target_person=person[target], gallery=images[gallery],
        gallery_person=person[gallery], target_pose_deg=pose_deg(attributes[target]),
        protocol={**listing["protocol"], "gallery": listing["gallery_definition"], "held fixed": list(held)},
    )  # fmt: skip


def identity(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Numbers for JSON, and a table: top-1 in the gallery of swaps that bound every table, and errors of the pose."""
    recognisers = {name: estimator("recogniser", name, args.weights) for name in args.recognisers}
    pose, found, table = estimator("pose", POSE, args.weights), {}, []
    for held, size in itertools.product(args.hold, args.sizes):
        pairs = drawn_pairs(size, args.gallery, args.pairs, args.seed, HELD[held])
        columns = {"exact": pairs.exact, "copy-source": pairs.source, "copy-target": pairs.target}
        top1: dict[str, Any] = {}
        for name, network in recognisers.items():
            evaluation = Evaluation(pairs, Estimators(recogniser=network), interval="people")
            measured = {row: evaluation.measure(row, ["id_retrieval"], swaps=images) for row, images in columns.items()}
            one = {row: values["id_retrieval_top1_pct"] for row, values in measured.items()}
            top1[name] = {row: {"value": v.value, "interval": v.interval} for row, v in one.items()}
            table.append([f"{size} px, held: {held}, {name}", *(f"{value.value:.1f}" for value in one.values())])
        error = np.abs(read(pose, pairs.target) - pairs.target_pose_deg.double().numpy()).mean(0).round(2)
        angles = dict(zip(ANGLES, error.tolist(), strict=True))
        found.setdefault(held, {})[str(size)] = {"id_top1_pct": top1, "pose_error_deg": angles}
        table.append([f"  {POSE}, {', '.join(ANGLES)} °", *(f"{value:.2f}" for value in angles.values())])
    head = [f"top-1 % of {args.gallery} people", *columns]
    protocol = {"pairs": args.pairs, "gallery": args.gallery, "seed": args.seed, "chance_pct": 100 / args.gallery}
    protocol |= {"pose": pose.as_dict(), "held": {held: list(HELD[held]) for held in args.hold}}
    protocol["recognisers"] = {name: network.as_dict() for name, network in recognisers.items()}
    numbers = {"renderer": synthetic.RENDERER, "protocol": protocol, "held": found}
    return numbers, terminal.text_table([head, *table])


COMMANDS = {"photographs": photographs, "order": order, "identity": identity}


def main(arguments: list[str] | None = None) -> int:
    parser = terminal.parser(__doc__)
    kinds = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = terminal.Parser(add_help=False)
    common.add_argument("--out", type=Path, metavar="FILE", help="default: runs/drawn_people/COMMAND.json")
    drawing = terminal.Parser(add_help=False, parents=[common])
    drawing.add_argument("--seed", type=terminal.whole(0), default=0, help="seed of people and pairs; default: 0")
    drawing.add_argument("--weights", nargs="+", default=[], metavar="FOLDER", help="folders of weight files")
    one = kinds.add_parser("photographs", parents=[drawing], help="networks of photographs read drawn people")
    one.add_argument("--people", type=terminal.whole(3), default=256, help="one picture of each; default: 256")
    one.add_argument("--size", type=terminal.whole(64, 4096), default=256, help="side in pixels; default: 256")
    one.add_argument("--photos", type=Path, metavar="FOLDER", help="aligned photographs to compare with")
    one = kinds.add_parser("order", parents=[common], help="compare the order of swappers with that on photographs")
    one.add_argument("drawn", type=Path, metavar="DRAWN", help="output of python -m distill.evaluate on drawn people")
    one.add_argument("photographs", type=Path, metavar="PHOTOGRAPHS", help="its output on photographs")
    one.add_argument("--swappers", nargs="+", metavar="NAME", help="rows to compare; default: all that both have")
    one = kinds.add_parser("identity", parents=[drawing], help="tell people apart by shape and by paint")
    one.add_argument("--pairs", type=terminal.whole(1), default=1024, help="default: 1024")
    one.add_argument("--gallery", type=terminal.whole(2), default=64, help="number of people; default: 64")
    one.add_argument("--sizes", type=terminal.whole(16, 4096), nargs="+", default=[64, 96, 128], help="sides in pixels")
    one.add_argument("--hold", nargs="+", choices=HELD, default=list(HELD), help="what all people share; default: each")
    one.add_argument("--recognisers", nargs="+", metavar="NAME", default=list(RECOGNISERS), help="names of cards")
    args = parser.parse_args(arguments)
    return terminal.run_command(lambda: write(args))


def write(args: argparse.Namespace) -> None:
    numbers, table = COMMANDS[args.command](args)
    path = args.out or Path("runs") / "drawn_people" / f"{args.command}.json"
    write_json(path, {"command": args.command, **numbers, "environment": environment()})
    print(f"{table}\n{path}")


if __name__ == "__main__":
    sys.exit(main())
