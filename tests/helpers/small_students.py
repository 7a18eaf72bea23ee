"""Small students for the tests of export, their statistics as training leaves them, and pictures to run them on."""

import torch
import torch.nn.functional as F
from torch import nn

import students
from students.identity_encoder import load_identity_encoder
from swapcore.weights import PACKAGED

OPTIONS = {"compact": {"width": 8}, "mobilefsgan": {"width": 8}, "mobilefaceswap": {"width": 4}}


def stirred(network):
    """Statistics and gains far from 0 and 1, so that a forgotten one is seen."""
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
    options = {"resolution": 64, "embedding_dim": 56, **OPTIONS[name]}
    if getattr(students.STUDENTS[name], "needs_map", False):
        options["map_shape"] = list(encoder.map_shape)
    torch.manual_seed(0)
    return students.StudentSwapper(stirred(students.build(name, **options)), encoder).eval()


def pictures(n, side, seed=1):
    """(n, 3, side, side) smooth pictures in [-1, 1]."""
    made = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return F.interpolate(made, side, mode="bicubic").clamp(-1, 1)


def inputs(model, n):
    """Inputs of one of a student's models by name: smooth pictures, unit embeddings, maps."""
    torch.manual_seed(1)
    made = {}
    for seed, (key, example) in enumerate(model.inputs.items()):
        values = torch.randn(n, *example.shape[1:])
        if example.ndim == 4 and example.shape[1] == 3:
            values = pictures(n, example.shape[-1], seed)
        made[key] = F.normalize(values) if key == "embedding" else values
    return made


def expected(model, given):
    """What the model gives in PyTorch, by name."""
    with torch.inference_mode():
        out = model.module(*given.values())
    return dict(zip(model.outputs, out if isinstance(out, tuple) else (out,), strict=True))
