"""A swapper of two networks, whose parameters and operations can be counted by hand."""

from torch import nn


class TwoParts(nn.Module):
    """A convolution after a linear layer that is applied to the source: countable by hand."""

    name = "two parts"

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(3, 5)
        self.generator = nn.Conv2d(3, 3, 3, padding=1, bias=False)

    @property
    def parts(self):
        return {"generator": self.generator, "encoder": self.encoder}

    def forward(self, source, target):
        return self.generator(target) * 0 + self.encoder(source.mean((2, 3))).mean() * 0 + target
