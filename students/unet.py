"""UNet: a modulated U-Net that draws the face itself, down to single pixels.

`Compact` blends a face that starts as the target with the target, at a quarter of the resolution and by sub-pixel
convolution. Its swaps keep the target's edges below the source's. This network draws the face from features alone
(`modulated.FaceHead`), resizes bilinearly before it convolves, and has blocks at half and at full resolution.
experiments/ablation_sharpness.yaml compares both.
"""

from __future__ import annotations

from torch import Tensor, nn

from .contract import check_inputs, check_options
from .masks import MaskLayer
from .modulated import Decoder, ModulatedBlock, Stem, Style, style_dim_of


class UNet(nn.Module):
    """An encoder over 1/2 to 1/16 of the resolution, modulated as well, and a `modulated.Decoder`.

    Options: width, channels at 1/4 (a multiple of 16), embedding_dim, resolution (a multiple of 32, at least 64), heads
    (see `Decoder`), style_dim, numbers of the source that modulate every block (None: `style_dim_of`). Wrong options
    raise ValueError.
    """

    name = "unet"

    def __init__(
        self,
        width: int = 48,
        embedding_dim: int = 512,
        resolution: int = 256,
        heads: bool = False,
        style_dim: int | None = None,
    ) -> None:
        super().__init__()
        style_dim = style_dim_of(width) if style_dim is None else style_dim
        check_options(resolution, width=width, embedding_dim=embedding_dim, style_dim=style_dim)
        if width % 16:
            raise ValueError(f"width: expected a multiple of 16, got {width}")
        self.options = {
            "width": width, "embedding_dim": embedding_dim, "resolution": resolution, "heads": heads,
            "style_dim": style_dim,
        }  # fmt: skip
        self.style = Style(embedding_dim, style_dim)
        channels = (width // 2, width, 2 * width, 2 * width)  # at 1/2, 1/4, 1/8 and 1/16
        self.stem = Stem(channels[0], resolution)
        self.downs = nn.ModuleList(
            nn.Conv2d(c, deep, 3, stride=2, padding=1) for c, deep in zip(channels, channels[1:], strict=False)
        )
        self.blocks = nn.ModuleList(ModulatedBlock(c, style_dim) for c in channels[:-1])
        self.decoder = Decoder(width, style_dim, heads)

    def forward(self, target: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Target (N, 3, R, R) in [-1, 1] and unit embedding (N, D) to swaps in [-1, 1] of R, R/2 and R/4 pixels.

        Raises ValueError on other shapes.
        """
        check_inputs(target, embedding, self.options["resolution"], self.options["embedding_dim"])
        style = self.style(embedding)
        x = self.stem(target)
        maps = []
        for block, down in zip(self.blocks, self.downs, strict=True):
            maps.append(block(x, style))
            x = down(maps[-1])
        return self.decoder([*maps, x], style, target)

    def mask_layer(self) -> MaskLayer:
        """Where `masks.recorded` finds the mask of the swap of full resolution."""
        return self.decoder.heads[0].mask_layer()
