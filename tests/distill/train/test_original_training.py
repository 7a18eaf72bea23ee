"""The original's training as experiments/mobilefsgan.yaml has it: two steps at small size in four processes."""

import pytest
from conftest import ROOT, script
from helpers.line import launch, told

import students
from distill import config
from distill.train.monitor import read_log

SMALL = [
    "data.kind=synthetic", "data.resolution=64", "data.train_people=2", "data.val_people=2", "data.test_people=2",
    "data.test_images=2", "data.workers=0", "student.options={width: 4}", "student.identity_encoder=synthetic_identity",
    "train.steps=2", "train.batch_size=2", "train.log_steps=1", "loss.perceptual_network=identity_encoder",
    "loss.discriminator={ndf: 4, layers: 2}", "stages=[data, train]", "tracking.uri=none", "threads=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def triplets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fstriplets")
    command = ROOT / "datasets" / "make_fstriplets.py"
    done = script(command, folder, "--people", 2, "--images", 2, "--size", 64)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_original_loss_weights_and_shares_are_in_the_file():
    exp = config.load(ROOT / "experiments" / "mobilefsgan.yaml", ["data.photos=x", "data.fstriplets=y"])
    assert exp.loss.adversarial == (1, 0.02, 0.02) and exp.loss.identity == (20, 20, 20)
    assert exp.loss.reconstruction == (10, 0, 0) and exp.loss.perceptual == 4 and exp.loss.identity_margin == 0.02
    assert exp.loss.adversarial_batch == "sum" and exp.train.betas == (0, 0.999) and exp.train.lr == 1e-4
    assert sum(config.to_dict(exp.train.fstriplets).values()) == pytest.approx(1)


@pytest.mark.slow
def test_two_steps_in_four_processes(tmp_path, triplets):
    overrides = [*SMALL, f"data.fstriplets={triplets}", f"runs={tmp_path}"]
    drawn = told(ROOT / "experiments" / "mobilefsgan.yaml", *overrides, "stages=[data]")  # once, not by each process
    assert drawn.returncode == 0, drawn.stderr
    done = launch(str(ROOT / "experiments" / "mobilefsgan.yaml"), *overrides, processes=4)
    assert done.returncode == 0, done.stderr
    assert "FSTriplets: vanilla 4, vanilla_same 4, edited_target 4, beard" in done.stdout
    log = [row for row in read_log(tmp_path / "mobilefsgan" / "train") if "identity" in row]
    assert [row["step"] for row in log] == [1, 2]
    assert log[0].keys() >= {"adversarial", "discriminator", "identity", "perceptual", "reconstruction", "grad_norm"}
    student = students.load(tmp_path / "mobilefsgan" / "train" / "student.safetensors", expected="mobilefsgan")
    assert student.options["width"] == 4


def test_a_folder_that_lacks_a_branch_stops_before_the_first_step(tmp_path, triplets):
    (triplets / "source_as_gt" / "fat").rename(triplets / "fat_elsewhere")
    try:
        done = told(
            ROOT / "experiments" / "mobilefsgan.yaml", *SMALL, f"data.fstriplets={triplets}", f"runs={tmp_path}"
        )
    finally:
        (triplets / "fat_elsewhere").rename(triplets / "source_as_gt" / "fat")
    assert done.returncode == 2 and "fat" in done.stderr and "Traceback" not in done.stderr
