"""Pair files of others: how they are read, which swaps belong to them, and what is missing or damaged."""

import json

import numpy as np
import pytest
import torch
from helpers.make_pairs import make
from helpers.student_files import SIDE
from PIL import Image

from distill.config import ConfigError
from distill.evaluate import listed, swappers
from distill.evaluate.pairs import read
from swapcore.frame import CANONICAL
from swapcore.images import DataError

# Five points of a face in a picture of 120 x 90 pixels: a similarity of the canonical ones, 60 pixels wide.
POINTS = np.array(CANONICAL) * 60 + (30, 12)
WIDE, HIGH = 120, 90


def picture(seed, side=(WIDE, HIGH)):
    """A smooth picture, so that resampling changes little."""
    small = np.random.default_rng(seed).integers(40, 220, (6, 8, 3)).astype(np.uint8)
    return Image.fromarray(small).resize(side, Image.Resampling.BICUBIC)


@pytest.fixture
def survey(tmp_path):
    """A folder of the survey's shape with three people, two pictures of each, and its file of pairs."""
    root = tmp_path / "CASIA"
    (root / "faces").mkdir(parents=True)
    (root / "faces_landmarks").mkdir()
    for number, person in enumerate(("0041", "1268", "0007")):
        for frame in (0, 1):
            name = f"{person}-0_{frame}"
            picture(10 * number + frame).save(root / "faces" / f"{name}.png")
            text = "\n".join(f"{x:.3f} {y:.3f}" for x, y in POINTS + number)
            (root / "faces_landmarks" / f"{name}.txt").write_text(text + "\n")
    file = root / "image_pairs_normal.txt"
    file.write_text("0041-0_0.png 1268-0_0.png\n0041-0_1.png 1268-0_1.png\n\n1268-0_1.png 0041-0_1.png\n")
    return root, file


def casia(survey, out, **options):
    root, file = survey
    chosen = listed.casia(root / "faces", file)
    options = {"resolution": SIDE, "landmarks": root / "faces_landmarks", **options}
    return read(listed.write("casia", chosen, root / "faces", out, **options))


def test_the_surveys_file_gives_pairs_people_gallery_and_landmarks(survey, tmp_path):
    pairs, skipped = casia(survey, tmp_path / "list")
    assert len(pairs) == 3 and not skipped and len(pairs.gallery) == 3 and pairs.gallery_holds_sources
    assert [(o.source, o.target) for o in pairs.origins][2] == ("1268-0_1", "0041-0_1")
    assert pairs.protocol["dataset"] == "CASIA FaceSwapping" and pairs.protocol["split"] == "Normal"
    assert pairs.protocol["alignment"] == "as given" and pairs.protocol["landmarks"] == "from files"
    assert pairs.protocol["swaps of others"] == listed.OF_WHOLE
    expected = torch.tensor((POINTS + 1) / (WIDE, HIGH), dtype=torch.float32)
    assert torch.allclose(pairs.target_landmarks[0], expected, atol=1e-4), "1268 is the second person"
    assert pairs.source_person[0] == pairs.source_person[1] == pairs.target_person[2]


def test_swaps_are_recognised_by_the_names_of_their_pictures(survey, tmp_path):
    pairs, _ = casia(survey, tmp_path / "list")
    for pattern, extra in (("{source}-{target}", {}), ("{target}_{source}", {}), ("{source}_{target}", {"pattern": 1})):
        folder = tmp_path / pattern
        folder.mkdir()
        for i, origin in enumerate(pairs.origins):
            name = pattern.replace("{source}", origin.source).replace("{target}", origin.target)
            picture(50 + i, (256, 192)).save(folder / f"{name}.png")
        found = swappers.read_finished(folder, pairs, pattern if extra else None)
        assert found.naming == pattern and not found.missing
        whole = np.asarray(picture(51, (256, 192)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
        assert np.abs(found.swaps[1].numpy().astype(int) - whole).max() <= 1, "any size, resized like the list"
    with pytest.raises(ConfigError, match="--names: expected a pattern with {source} and {target}, got 'x'"):
        swappers.read_finished(tmp_path / "{source}-{target}", pairs, "x")


def test_numbers_may_have_any_number_of_zeros(survey, tmp_path):
    pairs, _ = casia(survey, tmp_path / "list")
    (tmp_path / "reface").mkdir()
    for i in range(3):
        picture(i, (SIDE, SIDE)).save(tmp_path / "reface" / f"{i:012d}.png")
    found = swappers.read_finished(tmp_path / "reface", pairs)
    assert found.naming == swappers.NUMBER and not found.missing
    small = picture(1, (SIDE, SIDE)).resize((SIDE * 2, SIDE * 2), Image.Resampling.NEAREST)
    small.save(tmp_path / "reface" / f"{1:012d}.png")  # whole pictures may have any size
    again = swappers.read_finished(tmp_path / "reface", pairs)
    assert (again.swaps.int() - found.swaps.int()).abs().float().mean() < 3


def test_what_is_missing_is_counted_and_named(survey, tmp_path):
    root, file = survey
    (root / "faces" / "1268-0_0.png").unlink()
    (root / "faces_landmarks" / "0041-0_1.txt").write_text("1 2\n3 4\n")
    file.write_text(file.read_text() + "0007-0_1 0041-0_0\n")
    pairs, skipped = casia(survey, tmp_path / "list")
    reasons = {one["what"]: one["reason"] for one in skipped}
    assert len(pairs) == 1 and len(pairs.gallery) == 2 and pairs.origins[0].source == "0007-0_1"
    assert reasons["0041-0_0 onto 1268-0_0"] == "1268-0_0: no such picture"
    assert "0041-0_1.txt: expected five lines `x y`, got 2" in reasons["0041-0_1 onto 1268-0_1"]
    folder = tmp_path / "swaps"
    folder.mkdir()
    picture(1).save(folder / "a-b.png")
    expected = "holds none of the 1 swaps; expected 00003.png or 0007-0_1-0041-0_0.png or 0041-0_0_0007-0_1.png"
    with pytest.raises(DataError, match=expected):
        swappers.read_finished(folder, pairs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0041-0_0.png\n", "line 1: expected `SOURCE TARGET`, got '0041-0_0.png'"),
        ("a-0_0 b-0_0\nc d e\n", "line 2: expected `SOURCE TARGET`"),
        (
            "0041-0_0 1268/1268_1.png\n",
            "line 1: '1268_1' names no person; the survey's pictures are PERSON-A_B. For pictures of other names",
        ),
        (
            "nobody-0_0 noone-0_0\n",
            "none of 1 pairs is left; the first: nobody-0_0 onto noone-0_0: nobody-0_0: no such",
        ),
    ],
)
def test_damaged_files_of_pairs_name_their_line(survey, tmp_path, text, message):
    survey[1].write_text(text)
    with pytest.raises(DataError, match=message):
        casia(survey, tmp_path / "list")


def test_a_mistyped_file_of_pairs_names_its_neighbours(survey, tmp_path):
    root, file = survey
    for name, message in (
        ("image_pairs_normall.txt", "image_pairs_normall.txt: no such file in .*did you mean 'image_pairs_normal.txt'"),
        ("faces/image_pairs_normal.txt", "no such file in .*faces; there is no .txt or .csv file"),
        ("pairs/image_pairs_normal.txt", "no such file, nor the folder .*pairs; a path is relative to"),
    ):
        with pytest.raises(DataError, match=message):
            listed.casia(root / "faces", root / name)
    with pytest.raises(DataError, match="image_pairs_normal.txt: no list, which is a folder with .* --out LIST"):
        read(file)  # the command once said that it was damaged, and to delete it
    casia(survey, tmp_path / "lists" / "normal")
    with pytest.raises(DataError, match="norml: no such list; did you mean 'normal'"):
        read(tmp_path / "lists" / "norml")
    failed = make("csv", root / "faces", "--pairs", root / "mine.csv", "--out", tmp_path / "list")
    assert failed.returncode == 2 and "mine.csv: no such file" in failed.stderr and "Errno" not in failed.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("from,to\na,b\n", "no column 'source'; expected a header with source, target"),
        ("source,target\na,\n", "line 2: target: empty"),
        ("source,target\na.png,x/a.jpg\n", "line 2: source and target are one person, 'a'"),
    ],
)
def test_a_csv_of_ones_own_names_what_it_lacks(tmp_path, text, message):
    (tmp_path / "mine.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        listed.from_csv(tmp_path / "mine.csv")


def test_a_csv_may_name_people_and_a_gallery(survey, tmp_path):
    mine, known = tmp_path / "mine.csv", tmp_path / "known.csv"
    mine.write_text("source,target,source_person,target_person\n0041-0_1.png,1268-0_1.png,a,b\n0007-0_1,1268-0_0,c,b\n")
    chosen = listed.from_csv(mine)
    assert [(c.source, c.source_person) for c in chosen.couples] == [("0041-0_1", "a"), ("0007-0_1", "c")]
    known.write_text("picture,person\n0041-0_0,a\n0007-0_0,c\n1268-0_0,b\n")
    path = listed.write("mine", listed.from_csv(mine, known), survey[0] / "faces", tmp_path / "l", resolution=SIDE)
    pairs, _ = read(path)
    assert len(pairs.gallery) == 3 and not pairs.gallery_holds_sources and pairs.target_landmarks is None


def test_the_numbered_lists_pair_one_to_one():
    chosen = listed.numbered("celebahq")
    assert len(chosen.couples) == 1000 and chosen.couples[3].source == "29003" and chosen.couples[3].target == "28003"
    assert listed.numbered("ffhq").couples[-1].target == "68999"


def test_whole_swaps_are_aligned_by_the_landmarks_of_their_target(survey, tmp_path):
    pytest.importorskip("cv2", reason='pip install -e ".[video]"')
    pairs, _ = casia(survey, tmp_path / "list", aligned=True)
    assert pairs.protocol["alignment"] == "by landmarks from files" and pairs.target_landmarks is None
    assert pairs.protocol["swaps of others"] == listed.OF_OTHERS
    folder = tmp_path / "swaps"
    folder.mkdir()
    for origin in pairs.origins:
        target = Image.open(survey[0] / "faces" / f"{origin.target}.png")
        target.resize((2 * WIDE, 2 * HIGH), Image.Resampling.BICUBIC).save(
            folder / f"{origin.source}-{origin.target}.png"
        )
    found = swappers.read_finished(folder, pairs)
    difference = (found.swaps.int() - pairs.target.int()).abs().float().mean()
    assert difference < 2, "the target itself, at twice its size, is the target's crop"
    own = tmp_path / "own"
    own.mkdir()
    for i, origin in enumerate(pairs.origins):  # named as the list does, whole and of the target's size
        Image.open(survey[0] / "faces" / f"{origin.target}.png").save(own / f"{i:05d}.png")
    assert (swappers.read_finished(own, pairs).swaps.int() - pairs.target.int()).abs().float().mean() < 2
    picture(1, (WIDE + 2, HIGH)).save(own / "00001.png")
    with pytest.raises(DataError, match="122 x 90 pixels, the pairs have"):
        swappers.read_finished(own, pairs)
    picture(1, (99, 99)).save(folder / "0041-0_0-1268-0_0.png")
    with pytest.raises(
        DataError, match="99 x 99 pixels, the target's picture 1268-0_0 has 120 x 90: a crop of another"
    ):
        swappers.read_finished(folder, pairs)


def test_a_list_may_take_every_second_pair(survey, tmp_path):
    root, file = survey
    assert (
        make("casia", root, "--pairs", file, "--out", tmp_path / "list", "--resolution", SIDE, "--every", 2).returncode
        == 0
    )
    pairs, _ = read(tmp_path / "list")
    assert [o.source for o in pairs.origins] == ["0041-0_0", "1268-0_1"] and pairs.protocol["every"] == 2


def test_the_command_writes_the_surveys_list(survey, tmp_path):
    root, file = survey
    listing = make("casia", root, "--pairs", file, "--out", tmp_path / "list", "--resolution", SIDE)
    content = json.loads((tmp_path / "list" / "pairs.json").read_text())
    assert len(content["pairs"]) == 3 and content["pictures"], listing
    assert content["pairs"][0]["source"].endswith("faces/0041-0_0.png")
