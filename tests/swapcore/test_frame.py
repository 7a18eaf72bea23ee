"""The canonical frame: templates, similarity transforms, crops taken and pasted back."""

import math

import pytest
import torch
from torch.nn import functional as F

from swapcore.frame import CANONICAL, TEMPLATES, Crop, similarity


def test_template_holds_the_arcface_crop():
    arcface = torch.tensor(
        [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
    )
    expected = (arcface * 218 / 112 + 19) / 256
    assert torch.allclose(torch.tensor(TEMPLATES["faceshifter_256"]), expected, atol=1e-5)


def test_a_similarity_is_recovered():
    cos, sin = 1.3 * math.cos(0.4), 1.3 * math.sin(0.4)
    linear, shift = torch.tensor([[cos, -sin], [sin, cos]]), torch.tensor([0.2, -0.1])
    points = torch.tensor(CANONICAL)
    transform = similarity(points, points @ linear.T + shift)
    assert torch.allclose(transform, torch.cat([linear, shift[:, None]], 1).double(), atol=1e-6)


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_crop_pasted_back_changes_nothing_but_its_sharpness(template):
    coarse = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images = F.interpolate(coarse, (128, 128), mode="bilinear", align_corners=True)
    crop = Crop(template, 160)
    pasted = crop.paste(crop.take(images), images)
    assert crop.take(images).shape == (2, 3, 160, 160) and pasted.shape == images.shape
    assert (pasted - images).abs().mean() < 0.01


def test_the_points_of_a_face_lie_on_the_template():
    """A bright spot at each canonical point is at the template's point after cropping."""
    for template in TEMPLATES:
        for point, wanted in zip(CANONICAL, TEMPLATES[template], strict=True):
            axis = (torch.arange(256) + 0.5) / 256
            spot = torch.exp(-(((axis[None] - point[0]) ** 2 + (axis[:, None] - point[1]) ** 2) / 0.02**2))
            taken = Crop(template, 256).take(spot.expand(1, 3, -1, -1))[0, 0]
            y, x = divmod(int(taken.argmax()), 256)
            # The five points of two templates cannot all coincide under a similarity.
            assert math.dist(((x + 0.5) / 256, (y + 0.5) / 256), wanted) < 0.06


def test_unknown_templates_are_named():
    with pytest.raises(ValueError, match="unknown template 'ffhq', known: canonical, arcface"):
        Crop("ffhq", 64)
