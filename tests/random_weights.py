"""A file of random weights for the Inception network: tests and benchmarks need its arithmetic, not its knowledge."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch_fidelity import feature_extractor_inceptionv3


def write_inception_weights(path: Path) -> Path:
    """Draw weights for torch-fidelity's own network, built without loading anything, and save them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_extractor_inceptionv3, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(nn.Module, "load_state_dict", lambda *_, **__: None)
        network = feature_extractor_inceptionv3.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    rng = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):  # weights of this size keep signals alive through all layers
            fan_in = module.weight[0].numel()
            module.weight.copy_(torch.randn(module.weight.shape, generator=rng) * (2 / fan_in) ** 0.5)
        elif isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(0.1 * torch.randn(module.running_mean.shape, generator=rng))
            module.running_var.copy_(0.8 + 0.4 * torch.rand(module.running_var.shape, generator=rng))
        elif isinstance(module, nn.Linear):
            module.weight.copy_(torch.randn(module.weight.shape, generator=rng))
    torch.save(network.state_dict(), path)
    return path
