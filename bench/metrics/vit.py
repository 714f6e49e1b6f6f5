"""The vision transformer of DINOv2, to be read and run without downloading anybody's code.

torch.hub would fetch and run whatever the authors' repository holds that day; the network itself is short. The names of the
parameters are those of the published files (Oquab et al. 2023, arXiv 2304.07193).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

PATCH = 14
TRAINED_SIDE = 37
"""Patches along a side of the images it was last trained on (518 pixels)."""


class VisionTransformer(nn.Module):
    """Images -> the normalised class token.

    Args:
        width: of a token.
        depth: number of blocks.
        heads: of the attention.
        gated: SwiGLU in place of GELU between the two linear maps, as the largest network has.
    """

    def __init__(self, width: int, *, depth: int, heads: int, gated: bool = False) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + TRAINED_SIDE**2, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # in the files, of use in training only
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, PATCH, stride=PATCH)
        self.blocks = nn.ModuleList(_Block(width, heads, gated) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n width"]:
        """Return the class token of images whose sides are multiples of 14."""
        patches = self.patch_embed.proj(images)  # type: ignore[operator]
        x = patches.flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = x + self._positions(patches.shape[2], patches.shape[3])
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]

    def _positions(self, rows: int, columns: int) -> Float[Tensor, "1 tokens width"]:
        """Positions for another grid than the trained one: bicubic; a tenth is added to the grid, as in the source."""
        if rows == columns == TRAINED_SIDE:
            return self.pos_embed
        grid = self.pos_embed[:, 1:].reshape(1, TRAINED_SIDE, TRAINED_SIDE, -1).permute(0, 3, 1, 2).float()
        scale = ((rows + 0.1) / TRAINED_SIDE, (columns + 0.1) / TRAINED_SIDE)
        resized = F.interpolate(grid, scale_factor=scale, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "n t width"]) -> Float[Tensor, "n t width"]:
        n, t, width = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, width))


class _MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "n t width"]) -> Float[Tensor, "n t width"]:
        return self.fc2(F.gelu(self.fc1(x)))


class _GatedMLP(nn.Module):
    """SwiGLU (Shazeer 2020); two thirds of the usual width, rounded up to a multiple of 8."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = (int(4 * width * 2 / 3) + 7) // 8 * 8
        self.w12, self.w3 = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "n t width"]) -> Float[Tensor, "n t width"]:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class _Scale(nn.Module):
    """A learned factor per channel (layer scale, Touvron et al. 2021)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "n t width"]) -> Float[Tensor, "n t width"]:
        return x * self.gamma


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, gated: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = _Attention(width, heads), (_GatedMLP if gated else _MLP)(width)
        self.ls1, self.ls2 = _Scale(width), _Scale(width)

    def forward(self, x: Float[Tensor, "n t width"]) -> Float[Tensor, "n t width"]:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))
