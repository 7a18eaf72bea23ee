"""The command that measures swappers on videos: synthetic people, films, and what it refuses."""

import html
import json
import re
import shutil

import numpy as np
import pytest
from conftest import ROOT, SHARED, needs_shared
from helpers.portraits import portraits
from helpers.student_files import SIDE, student_file
from helpers.videos import write_video
from PIL import Image

from distill.data import synthetic
from distill.data.photos import read_manifest
from distill.evaluate import clips
from distill.evaluate import video as command
from distill.evaluate.pairs import exact_swaps
from distill.report import tables
from distill.swap.swapper import Swapper
from eval.video import VIDEO_METRICS
from swapcore.images import DataError, to_uint8
from teachers.exact import render, sample_identities, sample_sequence

FRAMES = 4


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Three people, a video of four frames each."""
    folder = tmp_path_factory.mktemp("videos") / "people"
    synthetic.write(folder, {"test": (3, 1)}, SIDE, seed=3, kind=synthetic.Kind(FRAMES), progress=False)
    return folder


def run(out, *arguments):
    return command.main([*map(str, arguments), "--out", str(out)])


def metrics_of(out):
    return json.loads((out / "metrics.json").read_text())


def values_of(row):
    return {key: value["value"] for key, value in row.items()}


def test_references_student_and_finished_swaps_in_one_table(people, tmp_path, capsys):
    videos, finished = clips.DrawnVideos(people), tmp_path / "elsewhere"
    for number, name in enumerate(videos.names):  # the exact swaps, as another program would write them
        for frame, image in enumerate(videos.load(number).truth.exact):
            (finished / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(finished / name / f"{frame:05d}.png")
    out = tmp_path / "out"
    assert run(out, "copy-target", "exact", student_file(tmp_path), finished, "--videos", people) == 0
    content, printed = metrics_of(out), capsys.readouterr().out
    rows = {name: values_of(row) for name, row in content["rows"].items()}
    assert list(rows) == ["copy-target", "exact", "compact", "elsewhere"] and rows["elsewhere"] == rows["exact"]
    assert rows["exact"]["video_exact_error"] == 0 == rows["exact"]["video_error_flicker"]
    assert rows["copy-target"]["flicker_excess"] == 0 == rows["copy-target"]["flicker_exact_excess"]
    assert rows["copy-target"]["video_background"] == 0 < rows["compact"]["video_background"]
    best = max(rows, key=lambda name: rows[name]["video_id_similarity"])
    assert best in ("exact", "elsewhere")
    protocol = content["rows"]["compact"]["flicker_exact"]["protocol"]
    assert protocol["motion"] == "the target's, known" and protocol["data"]["frames_per_second"] == [25]
    assert content["videos"]["frames"] == 3 * FRAMES and content["differences"]["reference"] == "elsewhere"
    assert set(content["rows"]["exact"]["flicker"]["details"]["frames"]) == set(videos.names)
    flow = content["videos"]["clips"]["00000"]["flow"]
    assert 0 < flow["mean_px"] < flow["zero_motion_px"] and "optical flow follows the exact motion" in printed
    assert "flicker of the error ↓" in printed
    assert "not measured: landmark_jitter: no landmarks were read; add --landmarks to read them by 3ddfa" in printed
    with Image.open(out / "strips" / "00000.png") as strip:
        assert "AI-generated" in strip.text["Comment"]
    page = (out / "report.html").read_text()
    assert 'src="strips/00000.png"' in page
    for value in tables.columns(content["rows"]):
        assert f"<tr><td>{tables.heading(value)}</td>" in html.unescape(page) and tables.heading(value) in printed
    for name, row in content["differences"]["rows"].items():
        for key, one in row.items():
            value = next(value for value in tables.columns(content["rows"]) if value.key == key)
            cell = f"{value.format.format(rows[name][key])} {tables.mark(one)}"
            assert cell in page and cell in printed, "page and print have the same marks"


def as_clip(people, videos, folder):
    """The frames of the first clip's target, as its finished swap in a folder."""
    (folder / "00000").mkdir(parents=True)
    for row in videos.videos[videos.pairs[0][1]]:
        shutil.copy(people / row["file"], folder / "00000")
    return folder


def test_a_folder_with_the_name_of_a_reference_is_read(people, tmp_path):
    peer = as_clip(people, clips.DrawnVideos(people), tmp_path / "exact")
    assert run(tmp_path / "out", peer, "exact", "copy-target", "--videos", people, "--pairs", "1") == 0
    rows = {name: values_of(row) for name, row in metrics_of(tmp_path / "out")["rows"].items()}
    assert list(rows) == ["exact-2", "exact", "copy-target"]
    assert rows["exact-2"] == rows["copy-target"] and rows["exact"]["video_exact_error"] == 0


def test_finished_swaps_are_cut_to_the_measured_frames_and_resized(people, tmp_path):
    videos = clips.DrawnVideos(people, most=3)
    folder = as_clip(people, videos, tmp_path / "peer")
    assert (videos.finished(0, folder) == videos.load(0).target).all() and videos.notes == []
    for path in (folder / "00000").iterdir():
        with Image.open(path) as picture:
            picture.resize((2 * SIDE, 2 * SIDE), Image.Resampling.NEAREST).save(path)
    assert (videos.finished(0, folder).float() - videos.load(0).target).abs().mean() < 4
    assert videos.notes == ["00000: 128 x 128 pixels, the target 64 x 64: resized"]
    for path in (folder / "00000").iterdir():
        Image.new("RGB", (96, 64)).save(path)
    with pytest.raises(DataError, match="00000: 3 frames of 96 x 64 pixels; clip 00000 has 3 of 64 x 64"):
        videos.finished(0, folder)


def test_the_tables_of_the_docs_have_the_rows_and_marks_of_the_command():
    values = [value for metric in VIDEO_METRICS.values() for value in metric.values]
    known = [tables.heading(value) for value in values]
    assert len(set(known)) == len(known) and not any(title[0] == " " for title in known), "each says all by itself"
    section = (ROOT / "docs" / "evaluation.md").read_text().split("\n## Video\n")[1].split("\n## ")[0]
    found = [part for part in re.findall(r"(?:^\|.*\n)+", section, re.M) if part.startswith("| | copy-target")]
    assert len(found) == 2
    for table, reference in zip(found, ("student", "smoothed"), strict=True):
        head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
        assert [row[0] for row in rows] == [title for title in known if title in [row[0] for row in rows]]
        for cell, column in ((cell, column) for row in rows for cell, column in zip(row[1:], head[1:], strict=True)):
            assert (cell[-1] in tables.SURE + tables.UNSURE) == (column != reference), (column, cell)


def test_without_a_list_people_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "PEOPLE", 2)
    assert run(tmp_path, "copy-target", "exact", "--frames", "3", "--resolution", "32") == 0
    content = metrics_of(tmp_path)
    assert content["videos"]["frames"] == 6 and content["videos"]["clips"]["00000"]["size"] == [32, 32]


def test_a_clip_of_synthetic_people_knows_its_truth(people):
    videos = clips.DrawnVideos(people, seed=1)
    one = videos.load(0)
    photos = read_manifest(people, "test", SIDE)
    person, (target, number) = videos.pairs[0]
    assert person != target and number == 0
    rows = [row for row in photos.rows if row["person"] == target]
    source = next(row for row in photos.rows if row["person"] == person)
    assert (one.truth.exact == exact_swaps([source] * FRAMES, rows, SIDE)).all()
    assert one.truth.landmarks.numpy() == pytest.approx(np.array([row["landmarks"] for row in rows]), abs=1e-5)
    assert one.seconds == pytest.approx(np.arange(FRAMES) / 25) and one.inner.flatten(1).any(1).all()
    sources = [person for person, _ in videos.pairs]
    assert sorted(sources) == videos.people and videos.pairs == clips.DrawnVideos(people, seed=1).pairs
    assert len(clips.DrawnVideos(people, count=2)) == 2 and len(clips.DrawnVideos(people, most=3).load(0)) == 3
    half = clips.DrawnVideos(people, size=32).load(0)
    assert half.target.shape[2:] == (32, 32) == half.truth.motion.shape[2:]


def test_what_synthetic_videos_are_not_is_refused(people, tmp_path, capsys):
    def message(*arguments):
        assert run(tmp_path / "out", *arguments) == 2
        return capsys.readouterr().err

    pictures = tmp_path / "pictures"
    synthetic.write(pictures, {"test": (2, 2)}, 32, seed=3, progress=False)
    assert "lists pictures, not videos" in message("exact", "--videos", pictures)
    assert "manifest.jsonl: no such file; draw videos" in message("exact", "--videos", tmp_path)
    assert "no such list" in message("exact", "--videos", tmp_path / "nothing.csv")
    (tmp_path / "pairs.txt").write_text("a b\n")
    assert "pairs.txt: no list; name a folder" in message("exact", "--videos", tmp_path / "pairs.txt")
    assert "unknown swapper 'exat'; known: copy-target, exact" in message("exat", "--videos", people)
    assert "names no swapped video for 00000" in message("listed", "--videos", people)
    assert "swapper 'copy-target': named twice" in message("copy-target", "exact", "copy-target", "--videos", people)
    student = student_file(tmp_path)
    assert "compact at 64; measure those of one" in message(student, "--videos", people, "--resolution", "32")
    (tmp_path / "none").mkdir()
    assert "none: clip 00000: no swap of it; expected 00000.mp4" in message(tmp_path / "none", "--videos", people)
    short = tmp_path / "short"
    shutil.copytree(people / "test" / "p00000" / "0", short / "00000")
    (short / "00000" / "00003.png").unlink()
    assert "00000: 3 frames of 64 x 64 pixels; clip 00000 has 4 of 64 x 64" in message(short, "--videos", people)
    assert "no swapper 'x' here" in message("copy-target", "--videos", people, "--against", "x")
    shutil.copytree(people, tmp_path / "damaged")
    next((tmp_path / "damaged").rglob("00002.png")).write_bytes(b"no picture")
    assert "00002.png" in message("copy-target", "--videos", tmp_path / "damaged")


def listing(folder, text, name="list.csv"):
    for file in ("anna.png", "ben.mp4", "swap.mp4"):
        (folder / file).touch()
    (folder / name).write_text(text)
    return folder / name


def test_lists_of_films(tmp_path):
    path = listing(tmp_path, "source,target,swap,source_person\nanna.png,ben.mp4,swap.mp4,anna\nanna.png,swap.mp4,,\n")
    first, second = clips.read_list(path)
    assert first == clips.Entry(
        "ben_anna", tmp_path / "anna.png", tmp_path / "ben.mp4", tmp_path / "swap.mp4", "anna", "ben.mp4"
    )
    assert second.name == "swap_anna" and second.swap is None and second.source_person == "anna.png"
    rows = [{"source": "anna.png", "target": "ben.mp4", "name": "x"}]
    (only,) = clips.read_list(listing(tmp_path, json.dumps(rows), "list.json"))
    assert only.name == "x" and only.target == tmp_path / "ben.mp4"


WRONG = [
    ("source,target\n", "no videos; expected a list with the columns source, target"),
    ("source,target\n,ben.mp4\n", "entry 1: source: empty"),
    ("source,target\nanna.png,carl.mp4\n", "entry 1: target: .*carl.mp4: no such file"),
    ("source,target,sswap\nanna.png,ben.mp4,x\n", "entry 1: unknown column 'sswap'; known: source, target, swap"),
    ("source,target\nanna.png,ben.mp4,x\n", "entry 1: expected texts for source, target"),
    ("source,target\nanna.png,ben.mp4\nanna.png,ben.mp4\n", "entry 2: a second one named 'ben_anna'"),
    ("source,target,name\nanna.png,ben.mp4,../x\n", "entry 1: name: '../x' is no name of a file"),
    ("[1]", "list.json: entry 1: expected texts"),
    ("{}", "list.json: no videos"),
    ("[", "list.json: damaged list"),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[message for _, message in WRONG])
def test_damaged_lists_are_refused_by_line_and_key(text, message, tmp_path):
    with pytest.raises(DataError, match=message):
        clips.read_list(listing(tmp_path, text, f"list.{'json' if text[0] in '[{' else 'csv'}"))


def test_an_unreadable_list_is_refused(tmp_path):
    (tmp_path / "list.csv").write_bytes(b"\xff\xfe\x00source")
    with pytest.raises(DataError, match="list.csv: no text in UTF-8"):
        clips.read_list(tmp_path / "list.csv")


def film_of_somebody(seed=5, frames=6, background=(360, 480)):
    """A synthetic person in front of a grey wall, and the exact swap by another person: frames (H, W, 3) uint8 each."""
    attributes = sample_sequence(frames, seed)
    films = []
    for who in (seed, seed + 1):
        identity = sample_identities(1, who).expand(frames, -1)
        faces = to_uint8(render(identity, attributes, 192).image).permute(0, 2, 3, 1).numpy()
        films.append([])
        for face in faces:
            scene = np.full((*background, 3), 120, np.uint8)
            scene[80:272, 140:332] = face
            films[-1].append(scene)
    return films


@pytest.fixture
def films(tmp_path):
    """A list of one film with its exact swap in the column swap."""
    pytest.importorskip("cv2", reason='pip install -e ".[video]"')
    Image.fromarray(portraits(1, 256, seed=9)[0][0]).save(tmp_path / "source.png")
    film, swap = film_of_somebody()
    write_video(tmp_path / "film.mp4", film)
    write_video(tmp_path / "swap.mp4", swap)
    (tmp_path / "list.csv").write_text("source,target,swap\nsource.png,film.mp4,swap.mp4\n")
    return tmp_path / "list.csv"


WEIGHTS = ["--weights", SHARED / "weights"]


@needs_shared
def test_films_are_swapped_as_distill_swap_does_or_read_from_files(films, tmp_path, capsys):
    own = ["--recogniser", "synthetic_recogniser", "--pose", "synthetic_pose", *WEIGHTS]
    out, folder = tmp_path / "out", tmp_path / "peer"
    folder.mkdir()
    shutil.copy(tmp_path / "swap.mp4", folder / "film_source.mp4")
    student = student_file(tmp_path)
    assert run(out, "copy-target", "listed", student, "landmark_warp", folder, "--videos", films, *own) == 0
    content, printed = metrics_of(out), capsys.readouterr().out
    rows = {name: values_of(row) for name, row in content["rows"].items()}
    assert list(rows) == ["copy-target", "listed", "compact", "landmark_warp", "peer"]
    assert rows["peer"] == rows["listed"]
    assert rows["copy-target"]["flicker"] > 0 == rows["copy-target"]["video_background"]
    for name in ("compact", "landmark_warp"):
        assert rows[name]["video_id_similarity"] != rows["copy-target"]["video_id_similarity"]
    assert any("landmark_warp is measured by a network of its own, the landmarks" in v for v in content["verdicts"])
    assert content["not_measured"] == {"exact_video_error": "the exact swap of films is unknown"}
    assert "landmark_jitter_px" in rows["listed"] and "flicker_exact" not in rows["listed"]
    protocol = content["rows"]["listed"]["flicker"]["protocol"]
    assert protocol["data"]["detector"] == "yunet" and protocol["data"]["frames_per_second"] == [25.0]
    assert "by the target's landmarks" in protocol["alignment_of_swaps"] and "6 frames" in printed


@needs_shared
@pytest.mark.parametrize(("choice", "smoothed"), [("yes", [True]), ("no", [False]), ("both", [True, False])])
def test_students_follow_faces_smoothly_or_not(choice, smoothed, films, tmp_path, monkeypatch):
    made, times = [], []

    class Spy(Swapper):
        def __init__(self, *arguments, smooth):
            super().__init__(*arguments, smooth=smooth)
            made.append(smooth)

        def at(self, time):
            super().at(time)
            times.append(time)

    monkeypatch.setattr(command, "Swapper", Spy)
    own = ["--recogniser", "synthetic_recogniser", "--pose", "synthetic_pose", "--no-landmarks", *WEIGHTS]
    assert run(tmp_path / "out", student_file(tmp_path), "--videos", films, "--smooth", choice, *own) == 0
    assert made == smoothed and times == pytest.approx([t / 25 for t in range(6)] * len(smoothed))
    names = ["compact" if each else "compact-unsmoothed" for each in smoothed]
    assert list(metrics_of(tmp_path / "out")["rows"]) == names


@needs_shared
def test_what_films_do_not_have_is_refused(films, tmp_path, capsys):
    assert run(tmp_path / "out", "exact", "--videos", films, *WEIGHTS) == 2
    assert "exact swap is unknown" in capsys.readouterr().err
    assert run(tmp_path / "out", "copy-target", "--videos", films, *WEIGHTS, "--resolution", "64") == 2
    assert "are for synthetic people" in capsys.readouterr().err
    write_video(tmp_path / "swap.mp4", film_of_somebody()[1][:-1])
    assert run(tmp_path / "out", "listed", "--videos", films, *WEIGHTS) == 2
    assert "swap.mp4: 5 frames, but" in capsys.readouterr().err
    assert run(tmp_path / "out", "listed", "--videos", films, *WEIGHTS, "--frames", "4") == 0
    Image.new("RGB", (64, 64)).save(tmp_path / "source.png")
    assert run(tmp_path / "out", "copy-target", "--videos", films, *WEIGHTS) == 2
    assert "source.png: no face found" in capsys.readouterr().err
