"""Folding keeps the function: every student and identity encoder, with statistics as training leaves them."""

import pytest
import torch
from helpers.small_students import stirred
from torch import nn

import students
from students.export.fold import folded
from students.mobilefacenet import MobileFaceNet

OPTIONS = {
    "mobilefsgan": {"width": 8},
    "compact": {"width": 8},
    "unet": {"width": 16},
    "timm_unet": {"width": 16, "backbone": "repvit_m0_9"},
    "mobilefaceswap": {},
}


def stirred_double(network):
    """In double precision a difference is an error, not rounding."""
    return stirred(network).double()


def norms(network):
    return sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())


@torch.inference_mode()
def test_mobilefsgan_is_the_same_function_with_a_third_of_its_normalisations():
    network = stirred_double(students.build("mobilefsgan", width=8, embedding_dim=16, resolution=64))
    target = torch.rand(2, 3, 64, 64, dtype=torch.float64) * 2 - 1
    embedding = nn.functional.normalize(torch.randn(2, 16, dtype=torch.float64))
    short = folded(network)
    for ours, theirs in zip(short(target, embedding), network(target, embedding), strict=True):
        assert (ours - theirs).abs().max() < 1e-9
    assert norms(short) == 7 and norms(network) == 42  # the seven are before convolutions that pad with zeros


@torch.inference_mode()
def test_mobilefacenet_has_no_normalisation_left():
    network = stirred_double(MobileFaceNet(embedding_dim=16, width=0.25))
    faces = torch.rand(2, 3, 112, 112, dtype=torch.float64) * 2 - 1
    short = folded(network)
    assert (short(faces) - network(faces)).abs().max() < 1e-9 and norms(short) == 0 < norms(network)


@pytest.mark.parametrize("name", students.STUDENTS)
@torch.inference_mode()
def test_every_student_is_the_same_function(name):
    options = {"resolution": 64, "embedding_dim": 16, **OPTIONS[name]}
    if getattr(students.STUDENTS[name], "needs_map", False):
        options["map_shape"] = [8, 4, 4]
    network = stirred_double(students.build(name, **options))
    inputs = [torch.rand(1, 3, 64, 64).double() * 2 - 1, nn.functional.normalize(torch.randn(1, 16).double())]
    if "map_shape" in options:
        inputs.append(torch.randn(1, 8, 4, 4).double())
    assert (folded(network)(*inputs)[0] - network(*inputs)[0]).abs().max() < 1e-9


def test_a_planted_error_is_seen():
    """The comparison above can fail: a shift that is left out changes the swap."""
    network = stirred_double(students.build("mobilefsgan", width=8, embedding_dim=16, resolution=64))
    short = folded(network)
    short.attribute.scales[0][0].conv1x1.bias.data.zero_()
    target, embedding = torch.rand(1, 3, 64, 64).double(), nn.functional.normalize(torch.randn(1, 16).double())
    with torch.inference_mode():
        assert (short(target, embedding)[0] - network(target, embedding)[0]).abs().max() > 1e-4


def test_networks_in_training_are_refused():
    with pytest.raises(ValueError, match="training mode cannot be folded"):
        folded(students.build("mobilefsgan", width=8, embedding_dim=16, resolution=64).train())
