"""Features of the Inception network that FID is usually taken with, as torch-fidelity has it ('inception-v3-compat').

The network and its resizing are torch-fidelity's; here it is made faster without other numbers. A weights file is read as
plain tensors only: nothing in it is ever executed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
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
    """What follows resizing and normalisation in torch-fidelity's network: its blocks, in its order.

    On a processor the first ones run on a few images at a time: what they make of a whole batch is ten times its cache.
    """

    _STEM = 7
    """Blocks up to the second pooling; their maps are large, their weights small."""
    _AT_ONCE = 4

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
        stem, rest = self.blocks[: self._STEM], self.blocks[self._STEM :]
        parts = x.split(self._AT_ONCE if x.device.type == "cpu" else len(x))
        features = torch.flatten(rest(torch.cat([stem(part) for part in parts])), 1)
        return features, features.mm(self.weight.T)


class _Convolution(nn.Module):
    """A convolution and its ReLU: on a processor both in one pass, by oneDNN, on weights that are laid out for it once.

    The operator is the one that torch's own compiler calls, and gives the same bits as the two passes. Where it can't be
    had, on other devices and while compiling, the two passes are made.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution
        self._packed: dict[torch.dtype, tuple[Tensor, Tensor] | None] = {}
        self._packed_of: tuple[int, ...] = ()

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k i j"]:
        if torch.compiler.is_compiling() or x.device.type != "cpu" or torch.is_grad_enabled():
            return F.relu(self.convolution(x), inplace=True)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        if self._packed_of != (own := self._state()):  # other weights were loaded
            self._packed, self._packed_of = {}, own
        if dtype not in self._packed:
            self._packed[dtype] = self._pack(x, dtype)
        if (packed := self._packed[dtype]) is None:
            return F.relu(self.convolution(x), inplace=True)
        return self._both(x.to(dtype), *packed)

    def _state(self) -> tuple[int, ...]:
        """What changes whenever the weights do, in place or by another tensor."""
        return tuple(
            part
            for own in (self.convolution.weight, self.convolution.bias)
            for part in (own._version, own.data_ptr())  # type: ignore[union-attr]
        )

    def _pack(self, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
        own = self.convolution
        try:
            weight, bias = own.weight.to(dtype), own.bias.to(dtype)  # type: ignore[union-attr]
            geometry = own.padding, own.stride, own.dilation, own.groups
            packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *geometry, list(x.shape))
            self._both(x.to(dtype), packed, bias)
        except (AttributeError, RuntimeError, TypeError):  # a torch without it
            return None
        return packed, bias

    def _both(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        own = self.convolution
        geometry = own.padding, own.stride, own.dilation, own.groups
        return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *geometry, "relu", [], "")


def weights_at_hand() -> bool:
    """Whether weights are named by the environment or lie in torch's cache, so that nothing needs to be downloaded."""
    return bool(os.environ.get(variable("inception"))) or cache_file("inception").is_file()


def _fold(network: nn.Module) -> None:
    """Fold each batch norm into its convolution, in float64: fewer passes over memory, features equal to about 1e-6."""
    for module in network.modules():
        for name, child in module.named_children():
            convolution, norm = getattr(child, "conv", None), getattr(child, "bn", None)
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                folded = fuse_conv_bn_eval(convolution.double(), norm.double()).float().requires_grad_(False)
                setattr(module, name, _Convolution(folded))
