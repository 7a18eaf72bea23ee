"""The original's augmentation, and occlusions."""

import numpy as np
import pytest
import torch
from PIL import Image

from distill.data import augment as module
from distill.data.augment import Occlusions, augment

SIZE = 64


def draws(n):
    return [np.random.default_rng((0, i)) for i in range(n)]


def test_augmentation_is_what_the_original_does():
    y, x = torch.meshgrid(torch.linspace(0, 1, 32), torch.linspace(0, 1, 32), indexing="ij")
    picture = (torch.stack([40 + 150 * x, 60 + 80 * y, 50 + 100 * x * y])).byte().expand(2000, -1, -1, -1)
    out = augment(picture, draws(2000), grey_share=0.1)
    mirrored = (out[:, 0, 0, 0] > out[:, 0, 0, -1]).float().mean()
    grey = ((out[:, 0].int() - out[:, 1].int()).abs().amax((1, 2)) <= 1).float().mean()
    upright = torch.where((out[:, 0, 0, 0] > out[:, 0, 0, -1]).view(-1, 1, 1, 1), out.flip(-1), out)
    untouched = (upright == picture).flatten(1).all(1).float().mean()
    assert abs(mirrored - 0.5) < 0.05 and abs(grey - 0.1) < 0.03
    assert abs(untouched - 0.7 * 0.9) < 0.05
    assert torch.equal(picture[0], picture[1]), "its input is left as it was"
    jittered = upright[((upright != picture).flatten(1).any(1)) & (out[:, 0] != out[:, 1]).flatten(1).any(1)]
    gain = jittered.float().mean((1, 2, 3)) / picture[0].float().mean()
    assert 0.78 < gain.min() < 0.85 and 1.15 < gain.max() < 1.22, "brightness 1 +- 0.2; the others keep the mean grey"


def test_half_transparent_occlusions_show_what_is_behind(tmp_path):
    Image.new("RGBA", (30, 60), (200, 100, 0, 128)).save(tmp_path / "glass.png")
    out = Occlusions(tmp_path, SIZE).paste(torch.full((8, 2, 3, SIZE, SIZE), 100, dtype=torch.uint8), draws(8))
    values = out[:, 0].permute(1, 0, 2, 3).flatten(1)
    inside = values[:, values[0] > 145]
    assert len(inside[0]) > 200 and inside.float().mean(1).tolist() == pytest.approx([150, 100, 50], abs=2)
    assert torch.equal(out[:, 0], out[:, 1])
    share = (out[:, 0, 0] > 140).flatten(1).float().mean(1)
    assert share.max() < 0.6 * 0.375**2, "padded to a square, not stretched"


def test_occlusions_are_loaded_once_and_few_are_kept(tmp_path, monkeypatch):
    for i in range(4):
        Image.new("RGBA", (8, 8), (i, 0, 0, 255)).save(tmp_path / f"{i}.png")
    monkeypatch.setattr(module, "KEPT_OCCLUSIONS", 2)
    things = Occlusions(tmp_path, SIZE)
    images = torch.zeros(20, 1, 3, SIZE, SIZE, dtype=torch.uint8)
    first = things.paste(images, draws(20))
    assert len(things.loaded) <= 2 and torch.equal(things.paste(images, draws(20)), first)


def test_colours_stay_those_of_torchvision():
    """The same jitter in the same order by torchvision, whose hue is HSV's: less than a level off on average."""
    from torchvision.transforms.v2 import functional as T

    y, x = torch.meshgrid(torch.linspace(0, 1, 32), torch.linspace(0, 1, 32), indexing="ij")
    picture = torch.stack([90 + 60 * x, 80 + 50 * y, 70 + 50 * x * y]).byte()
    compared = 0
    for seed in range(40):
        out = augment(picture[None], [np.random.default_rng(seed)], 0.0)[0]
        rng = np.random.default_rng(seed)
        mirror, _, jitter = rng.random(3) < (0.5, 0.0, module.JITTER_SHARE)
        if not jitter:
            continue
        brightness, contrast, saturation = rng.uniform(0.8, 1.2, 3)
        hue = rng.uniform(-0.01, 0.01)
        wanted = picture.flip(-1) if mirror else picture
        steps = (
            lambda p, k=brightness: T.adjust_brightness(p, k),
            lambda p, k=contrast: T.adjust_contrast(p, k),
            lambda p, k=saturation: T.adjust_saturation(p, k),
            lambda p, k=hue: T.adjust_hue(p, k),
        )
        wanted = wanted.float() / 255
        for step in rng.permutation(4):
            wanted = steps[step](wanted)
        assert (out - wanted * 255).abs().mean() < 1.0
        compared += 1
    assert compared >= 5
