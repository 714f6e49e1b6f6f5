"""Features of the Inception network that FID is usually taken with, as torch-fidelity has it ('inception-v3-compat').

The network and its resizing are torch-fidelity's; here it is made faster without other numbers. A weights file is read as
plain tensors only: nothing in it is ever executed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bench.metrics.features import three_channels
from bench.metrics.networks import NetworkFeatures, fitting, read_weights, replaced, tensorflow_resize
from bench.metrics.weights import cache_file, variable
from bench.seeds import forked


class InceptionFeatures(NetworkFeatures):
    """2,048 numbers and 1,008 logits of Inception v3 trained on photographs: the features of published FIDs."""

    name: ClassVar[str] = "inception"
    version: ClassVar[str] = "1"
    rule = (
        "grey repeated to 3 channels, resized to 299x299 as TensorFlow 1 did (bilinear, not antialiased), pixels in "
        "[-1, 1]; pool features (2048) and logits without bias (1008) of torch-fidelity's inception-v3-compat"
    )
    dimensions = 2048
    has_logits = True

    def _build(self, path: Path) -> nn.Module:
        """Build torch-fidelity's network on these weights.

        Its constructor reads a named file by unpickling whatever is in it, so it is given tensors that were read safely,
        in place of the ones it would download.
        """
        from torch_fidelity import feature_extractor_inceptionv3 as inception

        state = read_weights(self.name, path)
        given = replaced(inception, "load_state_dict_from_url", lambda *_, **__: state)
        with given, forked(0, "inception"), fitting(self.name, path):
            network = inception.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], verbose=False)
        _fold(network)
        return _Trunk(network)

    def _prepare(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n 3 299 299"]:
        three_channels(images)  # checks; a grey image is resized once, not three times
        return three_channels((tensorflow_resize(images, 299) - 128) / 128)


class _Trunk(nn.Module):
    """What follows resizing and normalisation in torch-fidelity's network: its blocks, in its order."""

    _BLOCKS = (
        *(
            "Conv2d_1a_3x3",
            "Conv2d_2a_3x3",
            "Conv2d_2b_3x3",
            "MaxPool_1",
            "Conv2d_3b_1x1",
            "Conv2d_4a_3x3",
            "MaxPool_2",
        ),
        *("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
        *("Mixed_7a", "Mixed_7b", "Mixed_7c", "AvgPool"),
    )

    weight: Tensor

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(getattr(network, name) for name in self._BLOCKS))
        self.register_buffer("weight", network.fc.weight.detach())

    def forward(self, x: Float[Tensor, "n 3 299 299"]) -> tuple[Float[Tensor, "n 2048"], Float[Tensor, "n 1008"]]:
        features = torch.flatten(self.blocks(x), 1)
        return features, features.mm(self.weight.T)


def weights_at_hand() -> bool:
    """Whether weights are named by the environment or lie in torch's cache, so that nothing needs to be downloaded."""
    return bool(os.environ.get(variable("inception"))) or cache_file("inception").is_file()


def _fold(network: nn.Module) -> None:
    """Fold each batch norm into its convolution, in float64: fewer passes over memory, features equal to about 1e-6."""
    for module in network.modules():
        convolution, norm = getattr(module, "conv", None), getattr(module, "bn", None)
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            module.conv = fuse_conv_bn_eval(convolution.double(), norm.double()).float().requires_grad_(False)
            module.bn = nn.Identity()
