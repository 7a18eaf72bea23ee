"""The networks of the synthetic benchmark: those shipped measure unseen people, and the command trains new ones."""

import json
import sys

import pytest
import torch
from torch.nn import functional as F

from distill import pretrain
from distill.data import synthetic
from eval.cards import CARDS as ESTIMATOR_CARDS
from eval.estimators import build_network, load_estimator
from eval.networks import FaceRegressor
from students import identity_encoder as encoders
from swapcore import weights
from teachers.exact import PAINT, pose_deg, render, sample_identities
from teachers.exact.face import BUILD

CARDS = {
    "synthetic_identity": encoders.CARDS["synthetic_identity"],
    "synthetic_recogniser": ESTIMATOR_CARDS["synthetic_recogniser"],
    "synthetic_pose": ESTIMATOR_CARDS["synthetic_pose"],
}


@pytest.fixture(scope="module")
def faces():
    """48 people whom no network has seen, two pictures each, at a size none was trained at."""
    identity, attributes = synthetic.people("tests", 1, 48, 2)
    return render(identity.repeat_interleave(2, 0), attributes, 128).image, attributes


@pytest.mark.parametrize("name", CARDS)
def test_shipped_weights_are_those_of_their_card(name):
    path = weights.find(CARDS[name])
    facts = json.loads(path.with_suffix(".json").read_text())
    assert facts["sha256"] == CARDS[name].sha256 == weights.sha256(path)
    assert facts["renderer"] == synthetic.RENDERER, "trained on the pictures that are drawn now"
    assert path.stat().st_size < 5e6


@pytest.mark.parametrize("name", ["synthetic_identity", "synthetic_recogniser"])
def test_people_never_seen_are_known_again(faces, name):
    path = weights.find(CARDS[name])
    known = encoders.load_identity_encoder(name, path) if name == "synthetic_identity" else load_estimator(name, path)
    with torch.inference_mode():
        embeddings = F.normalize(known(faces[0]))
    hits = (embeddings[1::2] @ embeddings[0::2].T).argmax(1).eq(torch.arange(48)).float().mean()
    assert hits > 0.85


def test_pose_of_people_never_seen_is_read(faces):
    estimator = load_estimator("synthetic_pose", weights.find(CARDS["synthetic_pose"]), "pose")
    error = estimator(faces[0]) - pose_deg(faces[1])
    assert error.norm(dim=1).mean() < 5 and pose_deg(faces[1]).norm(dim=1).mean() > 12


def test_the_encoder_that_trains_is_not_the_one_that_judges():
    recipes = pretrain.RECIPES
    assert recipes["identity_encoder"].seed != recipes["recogniser"].seed
    assert CARDS["synthetic_identity"].architecture == "small_resnet"
    assert isinstance(build_network(CARDS["synthetic_recogniser"]), FaceRegressor)


@pytest.mark.slow
def test_the_command_writes_weights_and_card(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "TEST_PEOPLE", 64)
    arguments = ["pretrain", "recogniser", "--people", "64", "--steps", "8", "--batch", "16", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    pretrain.main()
    facts = json.loads((tmp_path / "synthetic_recogniser.json").read_text())
    path = tmp_path / "synthetic_recogniser.safetensors"
    assert facts["sha256"] == weights.sha256(path) and facts["recipe"]["people"] == 64
    assert 0 <= facts["on_people_never_seen"]["retrieval_top1_of_64_pct"] <= 100
    load_estimator("synthetic_recogniser", path)


def test_looks_are_standardised_and_depend_on_the_identity_only():
    identity = sample_identities(80, 3)
    identity[1] = identity[0]
    looks = pretrain.looks(identity)
    assert looks.shape == (80, pretrain.AXES + len(BUILD) + len(PAINT)) and torch.isfinite(looks).all()
    assert looks.mean(0).abs().max() < 1e-4
    assert torch.allclose(looks[0], looks[1], atol=1e-4) and (looks[0] - looks[2]).abs().max() > 0.1
    varied = looks.std(0)
    assert ((varied - 1).abs() < 1e-3).all()


def test_recognition_rewards_embeddings_near_their_own_person():
    torch.manual_seed(0)
    truth, index = torch.randn(400, 12), torch.arange(32)
    loss = pretrain.Recognition(truth, 24, seed=1)
    own = loss.place(truth[index])
    assert loss(own, index) < loss(own.roll(1, 0), index) - 1
    people = pretrain.Recognition(truth[:3], 24, seed=1)  # all others are one of these three: none counts as another
    assert torch.isfinite(people(torch.randn(6, 24), torch.tensor([0, 1, 2, 0, 1, 2])))


def test_retrieval_counts_first_places():
    people = torch.eye(64)
    assert pretrain.retrieval_pct(people.repeat_interleave(2, 0)) == 100
    wrong = torch.stack([people, people.roll(1, 0)], 1).flatten(0, 1)
    assert pretrain.retrieval_pct(wrong) == 0
