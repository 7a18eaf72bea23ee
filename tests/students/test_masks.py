"""The mask by which a student blends, read while it swaps."""

import pytest
import torch
from helpers.small_students import OPTIONS, pictures, swapper

import students
from students import masks

BLENDING = sorted(set(OPTIONS) - {"mobilefsgan"})


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_the_swap_is_the_same_with_its_mask_and_no_hook_stays(name):
    model, source, target = swapper(name), pictures(2, 64, 1), pictures(2, 64, 2)
    with torch.inference_mode():
        swap, mask = model.with_mask(source, target)
        assert torch.equal(swap, model(source, target))
    if name in BLENDING:
        assert mask.shape == (2, 1, 64, 64) and mask.min() >= 0 and mask.max() <= 1 and mask.std() > 0
    else:
        assert mask is None
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("name", "more"), [("compact", {}), ("unet", {}), ("unet", {"heads": True}), ("timm_unet", {})]
)
def test_the_mask_is_the_one_that_blends(name, more):
    """A head that draws white everywhere: the swap is nearer to white by the mask, and by what it cannot close."""
    generator = students.build(name, **{**OPTIONS[name], "resolution": 64, "embedding_dim": 8, **more}).eval()
    layer, _ = generator.mask_layer()
    target, embedding = pictures(1, 64), torch.nn.functional.normalize(torch.ones(1, 8))
    least = 0.15 if name == "compact" else 0.02
    with torch.no_grad():
        layer.weight.zero_()
        for logit, opened in ((-30.0, 0.0), (-1.0, 0.5), (30.0, 1.0)):
            faces, each = (3, 1) if name != "compact" else (12, 4)  # compact: four pixels at once
            layer.bias.copy_(torch.tensor([30.0] * faces + [logit] * each))
            with masks.recorded(generator) as found:
                swap = generator(target, embedding)[0]
            assert len(found) == 1 and torch.allclose(found[0], torch.full((1, 1, 64, 64), opened), atol=1e-6)
            weight = least + (1 - least) * found[0]
            torch.testing.assert_close(swap, target + weight * (1 - target), atol=1e-5, rtol=0)


def test_mobilefaceswap_gives_the_mask_of_its_small_network():
    model, source, target = swapper("mobilefaceswap"), pictures(2, 64, 1), pictures(2, 64, 2)
    with torch.inference_mode():
        _, mask = model.with_mask(source, target)
        kernels = model.generator.kernels(*model.identity_encoder.embed(source))
        assert torch.equal(mask, model.generator.swap((target + 1) / 2, kernels)[1])


def test_no_hook_stays_where_the_swap_fails():
    model = swapper("unet")
    with pytest.raises(ValueError, match="target: expected"):
        model.with_mask(pictures(1, 64), pictures(1, 32))
    assert not any(module._forward_hooks for module in model.modules())
