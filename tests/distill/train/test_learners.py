"""The registry of learners, the check of names before a run, and the keys of a checkpoint."""

import pytest
import torch
from helpers.line import experiment, in_process

import students
from distill import build, config
from distill.config import ConfigError
from distill.train.learners import LEARNERS, AEINetLearner, StudentLearner, learner_of

KEYS = {
    "format", "step", "seconds", "rng", "scaler", "student", "average", "discriminator", "adapters", "optimiser",
    "optimiser_d", "sums", "reported",
}  # fmt: skip


def test_a_name_trains_its_learner_and_every_other_a_student():
    assert learner_of("faceshifter") is AEINetLearner and learner_of("compact") is StudentLearner
    assert not LEARNERS.keys() & students.STUDENTS.keys()


def test_one_line_adds_a_learner(tmp_path, monkeypatch):
    monkeypatch.setitem(LEARNERS, "toy", {"train": AEINetLearner})
    quiet = {"adversarial": [0, 0, 0], "perceptual": 0, "identity": [1, 0, 0], "reconstruction": [1, 0, 0]}
    student, short = {"name": "toy", "options": {"width": 2}}, {"steps": 1, "batch_size": 2}
    path = experiment(tmp_path, "toy", student=student, loss=quiet, train=short, stages=["data", "pseudo_gt", "train"])
    folder = in_process(path)
    assert (folder / "train" / "teacher.safetensors").is_file()
    state = torch.load(next((folder / "train" / "state").glob("*.pt")), weights_only=True)
    assert state.keys() == KEYS and state["optimiser_d"] is None
    with pytest.raises(ConfigError, match="student.name: expected faceshifter"):
        build.check_names(config.load(path, ["stages=[train, refine]"]))


def test_names_are_checked_without_loading_weights(tmp_path, monkeypatch):
    def load(*_arguments):
        raise AssertionError("weights are loaded")

    monkeypatch.setattr(build, "load_identity_encoder", load)
    monkeypatch.setattr(build, "load_estimator", load)
    build.check_names(config.load(experiment(tmp_path)))
    with pytest.raises(ConfigError, match="student.name, student.options: .*has no option 'widht'"):
        build.check_names(config.load(experiment(tmp_path, student={"options": {"widht": 8}})))
    with pytest.raises(
        ConfigError, match="eval.expression: 'fsanet' gives pose, not 'expression'; known: synthetic_pose"
    ):
        build.check_names(config.load(experiment(tmp_path, eval={"expression": "fsanet"})))


@pytest.mark.parametrize(
    ("metric", "choice", "package"),
    [
        ("lpips", {"perceptual": "lpips_squeeze"}, "lpips"),
        ("pose_error", {"pose": "fsanet"}, "onnxruntime"),
        ("fid", {"features": "inception_fid"}, "torch-fidelity"),
    ],
)
def test_estimators_that_need_an_absent_package_are_named_before_the_run(
    metric, choice, package, tmp_path, monkeypatch
):
    monkeypatch.setattr(build, "find_spec", lambda name: None)
    exp = config.load(experiment(tmp_path, eval={"metrics": [metric], **choice}))
    ((role, name),) = choice.items()
    with pytest.raises(ConfigError, match=f"eval.{role}: '{name}' needs the package {package}: pip install -e "):
        build.check_names(exp)
