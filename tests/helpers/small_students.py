"""Small students for the tests of export, with statistics as after training, and pictures to run them on."""

import torch
import torch.nn.functional as F
from torch import nn

import students
from students.identity_encoder import load_identity_encoder
from swapcore.weights import PACKAGED

OPTIONS = {
    "compact": {"width": 8},
    "unet": {"width": 16},
    "timm_unet": {"width": 16, "backbone": "mobilenetv4_conv_small_050"},
    "mobilefsgan": {"width": 8},
    "mobilefaceswap": {"width": 4},
}


def stirred(network):
    """The network in evaluation mode, its statistics and gains far from 0 and 1, so that tests see a forgotten one."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.normal_(std=0.3)
    return network.eval()


def swapper(name):
    """A student of 64 pixels with fresh weights behind the synthetic benchmark's encoder."""
    encoder = load_identity_encoder("synthetic_identity", PACKAGED[0] / "synthetic_identity.safetensors")
    torch.manual_seed(0)
    generator = students.build_for(encoder, name, resolution=64, **OPTIONS[name])
    return students.StudentSwapper(stirred(generator), encoder).eval()


def pictures(n, side, seed=1):
    """(n, 3, side, side) smooth pictures in [-1, 1]."""
    coarse = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return F.interpolate(coarse, side, mode="bicubic").clamp(-1, 1)


def inputs(model, n):
    """Inputs of one of a student's models by name: smooth pictures, unit embeddings, maps."""
    torch.manual_seed(1)
    tensors = {}
    for seed, (key, example) in enumerate(model.inputs.items()):
        values = torch.randn(n, *example.shape[1:])
        if example.ndim == 4 and example.shape[1] == 3:
            values = pictures(n, example.shape[-1], seed)
        tensors[key] = F.normalize(values) if key == "embedding" else values
    return tensors


def expected(model, inputs):
    """The model's outputs in PyTorch, by name."""
    with torch.inference_mode():
        out = model.module(*inputs.values())
    return dict(zip(model.outputs, out if isinstance(out, tuple) else (out,), strict=True))
