"""The other networks that torch-fidelity offers: VGG-16, CLIP's image towers, DINOv2; channels and resizing as it does.

Each is built on weights that were read as plain tensors (CLIP's are published as TorchScript archives, whose hash is known
and checked), from torch-fidelity's own addresses or from a file; features equal torch-fidelity's.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from bench.metrics.networks import NetworkFeatures, as_photograph, fitting, read_archive, read_weights
from bench.metrics.vit import VisionTransformer

_IMAGENET = torch.tensor((0.485, 0.456, 0.406)) * 255, torch.tensor((0.229, 0.224, 0.225)) * 255
_CLIP = (
    torch.tensor((0.48145466, 0.4578275, 0.40821073)) * 255,
    torch.tensor((0.26862954, 0.26130258, 0.27577711)) * 255,
)


def _rule(side: str, means: str, what: str) -> str:
    return (
        f"grey repeated to 3 channels, resized to {side} as TensorFlow 1 did (bilinear, not antialiased), channel means and "
        f"deviations of {means} taken out; {what}"
    )


class _Wrapped(nn.Module):
    """A network that has features and no logits, as a trunk."""

    def __init__(self, network: nn.Module, *, rectified: bool = False) -> None:
        super().__init__()
        self.network, self.rectified = network, rectified

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> tuple[Float[Tensor, "n d"], None]:
        found = self.network(x)
        return (F.relu(found) if self.rectified else found), None


class VGG16Features(NetworkFeatures):
    """4,096 numbers of VGG-16 trained on ImageNet: torch-fidelity's default for precision and recall."""

    name: ClassVar[str] = "vgg16"
    version: ClassVar[str] = "1"
    rule = _rule("224x224", "ImageNet", "rectified second fully connected layer (4096) of torchvision's VGG-16")
    dimensions = 4096

    def _build(self, path: Path) -> nn.Module:
        from torchvision.models import vgg16

        state = read_weights(self.name, path)
        with fitting(self.name, path):
            with torch.device("meta"):  # the weights it would draw are replaced at once
                network = vgg16()
            network.load_state_dict(state, assign=True)
        network.classifier = network.classifier[:4]
        return _Wrapped(network.float(), rectified=True)

    def _prepare(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n 3 224 224"]:
        return as_photograph(images, 224, *_IMAGENET)


class _CLIPFeatures(NetworkFeatures):
    """The image side of one of CLIP's networks (Radford et al. 2021)."""

    version: ClassVar[str] = "1"
    rule = _rule("the network's own size", "CLIP", "the projected image embedding of OpenAI's CLIP, not normalised")
    _side: int = 224

    def _build(self, path: Path) -> nn.Module:
        from torch_fidelity.feature_extractor_clip import build_model

        state = read_archive(self.name, path)
        with fitting(self.name, path):
            tower = build_model(state, torch.float32).visual
        with fitting(self.name, path):
            if tower.output_dim != self.dimensions or tower.input_resolution != self._side:
                raise ValueError(
                    f"{tower.output_dim} numbers from {tower.input_resolution} pixels, not {self.dimensions} from {self._side}"
                )
        return _Wrapped(tower)

    def _prepare(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n 3 s s"]:
        return as_photograph(images, self._side, *_CLIP)


class CLIPResNet50(_CLIPFeatures):
    """1,024 numbers of CLIP RN50."""

    name: ClassVar[str] = "clip-rn50"
    dimensions = 1024


class CLIPResNet101(_CLIPFeatures):
    """512 numbers of CLIP RN101."""

    name: ClassVar[str] = "clip-rn101"
    dimensions = 512


class CLIPResNet50x4(_CLIPFeatures):
    """640 numbers of CLIP RN50x4, on 288x288."""

    name: ClassVar[str] = "clip-rn50x4"
    dimensions = 640
    _side = 288


class CLIPResNet50x16(_CLIPFeatures):
    """768 numbers of CLIP RN50x16, on 384x384."""

    name: ClassVar[str] = "clip-rn50x16"
    dimensions = 768
    _side = 384


class CLIPResNet50x64(_CLIPFeatures):
    """1,024 numbers of CLIP RN50x64, on 448x448."""

    name: ClassVar[str] = "clip-rn50x64"
    dimensions = 1024
    _side = 448


class CLIPViTB32(_CLIPFeatures):
    """512 numbers of CLIP ViT-B/32."""

    name: ClassVar[str] = "clip-vit-b-32"
    dimensions = 512


class CLIPViTB16(_CLIPFeatures):
    """512 numbers of CLIP ViT-B/16."""

    name: ClassVar[str] = "clip-vit-b-16"
    dimensions = 512


class CLIPViTL14(_CLIPFeatures):
    """768 numbers of CLIP ViT-L/14."""

    name: ClassVar[str] = "clip-vit-l-14"
    dimensions = 768


class CLIPViTL14Large(_CLIPFeatures):
    """768 numbers of CLIP ViT-L/14 on 336x336, the network of CMMD (Jayasumana et al. 2024)."""

    name: ClassVar[str] = "clip-vit-l-14-336px"
    dimensions = 768
    _side = 336


class _DINOv2Features(NetworkFeatures):
    """The class token of one of DINOv2's vision transformers (Oquab et al. 2023), patches of 14."""

    version: ClassVar[str] = "1"
    rule = _rule("224x224", "ImageNet", "normalised class token of DINOv2, patches of 14")
    _depth: int = 12
    _heads: int = 12
    _gated: bool = False

    def _build(self, path: Path) -> nn.Module:
        state = read_weights(self.name, path)
        with fitting(self.name, path):
            with torch.device("meta"):
                network = VisionTransformer(self.dimensions, depth=self._depth, heads=self._heads, gated=self._gated)
            network.load_state_dict(state, assign=True)
        return _Wrapped(network.float())

    def _prepare(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n 3 224 224"]:
        return as_photograph(images, 224, *_IMAGENET)


class DINOv2Small(_DINOv2Features):
    """384 numbers of DINOv2 ViT-S/14."""

    name: ClassVar[str] = "dinov2-vit-s-14"
    dimensions = 384
    _heads = 6


class DINOv2Base(_DINOv2Features):
    """768 numbers of DINOv2 ViT-B/14."""

    name: ClassVar[str] = "dinov2-vit-b-14"
    dimensions = 768


class DINOv2Large(_DINOv2Features):
    """1,024 numbers of DINOv2 ViT-L/14: the features of FD-DINOv2 (Stein et al. 2023)."""

    name: ClassVar[str] = "dinov2-vit-l-14"
    dimensions = 1024
    _depth, _heads = 24, 16


class DINOv2Giant(_DINOv2Features):
    """1,536 numbers of DINOv2 ViT-g/14: 1.1 billion weights."""

    name: ClassVar[str] = "dinov2-vit-g-14"
    dimensions = 1536
    _depth, _heads, _gated = 40, 24, True
