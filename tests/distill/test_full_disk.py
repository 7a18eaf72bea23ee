"""Every kind of file on a full disk: one line names the file and the remedy; the old file stays and nothing is left."""

import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from helpers.full_disk import small_files
from helpers.line import experiment, in_process
from helpers.videos import write_video

import students
from distill import run
from distill.pseudo_gt.shards import append
from distill.pseudo_gt.store import Store
from distill.swap.__main__ import save_photograph
from distill.train.monitor import Log
from distill.video import frames as video
from students.export import targets
from students.export.models import Model
from swapcore.files import DiskFull, write_json
from swapcore.images import save_png

LEAST = 4096  # bytes that still fit into a file
NOISE = np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8)


def shard(path):
    with (
        Store(path.parent).whole(path.name) as temporary, open(temporary, "wb") as file,
        tarfile.open(fileobj=file, mode="w") as tar, ThreadPoolExecutor(1) as pool,
    ):  # fmt: skip
        append(tar, [("0", [NOISE] * 3, {})], pool)


def log(path):
    Log(path, 0, enabled=True).write(1, {f"loss {i}": 0.5 for i in range(1000)})


def swapped_video(path):
    for _ in video.convert(path.with_name("source.mp4"), path, lambda image: image):
        pass


def exported(name):
    """A writer of one convolution."""
    network = torch.nn.Conv2d(3, 64, 5).eval().requires_grad_(False)
    model = Model("part", network, {"target": torch.zeros(1, 3, 8, 8)}, ("swap",))
    return lambda path: targets.TARGETS[name].write(model, path, "fp32", {})


WRITERS = {
    "a.json": lambda path: write_json(path, list(range(3000))),
    "a.png": lambda path: save_png(NOISE, path),
    "a.jpg": lambda path: save_photograph(NOISE, path),
    "a.safetensors": lambda path: students.save(students.build("compact"), path),
    "shard-00000.tar": shard,
    "log.jsonl": log,
    "out.mp4": swapped_video,
    "a.onnx": exported("onnx"),
    "a.tnnmodel": lambda path: exported("tnn")(path.with_suffix(".tnnproto")),
}


@pytest.mark.parametrize("name", WRITERS)
def test_one_line_names_the_file(tmp_path, name):
    if name == "out.mp4":
        write_video(tmp_path / "source.mp4", [NOISE] * 12)
    path, write = tmp_path / name, WRITERS[name]
    write(path)
    before = path.read_bytes()
    assert path.is_file() and len(before) > LEAST
    with small_files(LEAST), pytest.raises(DiskFull) as raised:
        write(path)
    text = str(raised.value)
    assert text.startswith(f"{path}: cannot be written: File too large (") and "free some space" in text
    assert "\n" not in text and "source.mp4" not in text
    hidden = [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]
    assert not hidden and (name == "log.jsonl" or path.read_bytes() == before)


def test_a_checkpoint_keeps_the_older_one_and_training_goes_on(tmp_path, capsys):
    path = experiment(tmp_path, "full", train={"steps": 4, "checkpoint_steps": 2, "preview_steps": 100})
    in_process(path, "stages=[data, pseudo_gt]")
    in_process(path, "stages=[train]", "train.steps=2")
    state = tmp_path / "runs" / "full" / "train" / "state"
    (checkpoint,) = state.iterdir()
    capsys.readouterr()
    with small_files(checkpoint.stat().st_size // 2):
        assert run.main([str(path), "stages=[train]"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {state}/step-0000004.pt: cannot be written: File too large (")
    assert [p.name for p in state.iterdir()] == ["step-0000002.pt"]
    assert run.main([str(path), "stages=[train]"]) == 0
    assert [p.name for p in state.iterdir()] == ["step-0000004.pt"]


def test_an_unreadable_source_of_a_video_is_still_named(tmp_path):
    pytest.importorskip("av", reason='pip install -e ".[video]"')
    (tmp_path / "source.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match="source.mp4: not a readable video"):
        swapped_video(tmp_path / "out.mp4")
    assert [p.name for p in tmp_path.iterdir()] == ["source.mp4"]
