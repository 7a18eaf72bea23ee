"""Networks that compare whole pictures: LPIPS, and the features for Frechet and kernel distances.

Their packages would download weights by themselves; here they get only the content of a verified file.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swapcore import terminal
from swapcore.images import IMAGENET_MEAN, IMAGENET_STD

LPIPS_VERSION = "0.1"


class Lpips(nn.Module):
    """LPIPS (Zhang et al., CVPR 2018, arXiv:1801.03924) by the authors' package `lpips`, version 0.1 of its heads.

    net: alex, vgg or squeeze (AlexNet, VGG16, SqueezeNet 1.1 of torchvision). Meaningless until both states of `states`
    are loaded. Raises ValueError without the package.
    """

    def __init__(self, net: str) -> None:
        super().__init__()
        try:
            import lpips
        except ImportError as error:
            raise ValueError(f"estimator 'lpips_{net}' needs the package lpips: {terminal.install()}") from error
        with warnings.catch_warnings():
            # lpips passes torchvision a deprecated option to load no weights.
            warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
            self.network = lpips.LPIPS(pretrained=False, net=net, pnet_rand=True, verbose=False)
        self.heads_file = Path(lpips.__file__).parent / "weights" / f"v{LPIPS_VERSION}" / f"{net}.pth"

    def states(
        self, backbone: Mapping[str, Tensor], heads: Mapping[str, Tensor]
    ) -> list[tuple[nn.Module, dict[str, Tensor]]]:
        """Each part of the network with its state dict. backbone: torchvision's state dict. heads: the package's."""
        ours = {"features." + name.split(".", 1)[1]: name for name in self.network.net.state_dict()}
        features = {ours.get(k, k): v for k, v in backbone.items() if not k.startswith("classifier.")}
        return [(self.network.net, features), (self.network.lins, {k.removeprefix("lin"): v for k, v in heads.items()})]

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Two batches (N, 3, H, W) in [-1, 1] to their distances (N,), 0 for equal images."""
        return self.network(a, b).flatten()


def imagenet_frame(images: Tensor) -> Tensor:
    """The whole frame to 224 x 224, antialiased bilinear, normalised by ImageNet's mean and deviation."""
    images = F.interpolate(images, (224, 224), mode="bilinear", align_corners=False, antialias=True)
    mean, std = (images.new_tensor(each).view(1, 3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    return ((images + 1) / 2 - mean) / std


def mean_over_positions(maps: Tensor) -> Tensor:
    """Mean over positions: (N, C, h, w) to (N, C)."""
    return maps.mean((2, 3))


class Inception(nn.Module):
    """The Inception v3 of FID (Heusel et al., NeurIPS 2017, arXiv:1706.08500) as ported to PyTorch by torch-fidelity.

    Resizes by itself to 299 x 299 as TensorFlow 1 did. Raises ValueError without the package,
    RuntimeError on another state.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise ValueError(f"estimator 'inception_fid' needs torch-fidelity: {terminal.install('fid')}") from error
        # The package unpickles its file unsafely, so it gets a copy of tensors that were read safely.
        file = io.BytesIO()
        torch.save(dict(state), file)  # a plain dict has no version: batch counters may be absent
        file.seek(0)
        self.network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=file)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 images (N, 3, H, W) to features (N, 2048)."""
        return self.network(images)[0]
