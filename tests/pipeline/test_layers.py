from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.models.layers import Conv3d, InstanceNorm


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_equals_torch_in_value_and_gradient(channels: int, stride: int) -> None:
    torch.manual_seed(channels)
    image = torch.randn(2, channels, 9, 6, 5)
    ours = Conv3d(channels, 7, (3, 3, 1), stride=stride, padding=(1, 1, 0))
    theirs = nn.Conv3d(channels, 7, (3, 3, 1), stride=stride, padding=(1, 1, 0))
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(image), theirs(image), rtol=1e-5, atol=1e-5)
    cotangent = torch.randn_like(theirs(image))
    for conv in (ours, theirs):
        conv(image).backward(cotangent)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert mine.grad is not None
        assert mine.grad.shape == mine.shape
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-4)
    with torch.inference_mode():
        torch.testing.assert_close(ours(image), theirs(image), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("samples", [1, 3])
def test_instance_normalisation_equals_torch(layout: torch.memory_format, samples: int) -> None:
    torch.manual_seed(0)
    maps = (torch.randn(samples, 6, 5, 4, 7) * 3 + 2).contiguous(memory_format=layout).requires_grad_()
    ours, theirs = InstanceNorm(6), nn.InstanceNorm3d(6, affine=True)
    with torch.no_grad():
        ours.weight.uniform_(0.5, 2)
        ours.bias.uniform_(-1, 1)
    theirs.load_state_dict(ours.state_dict())
    for training in (True, False):  # there are no running statistics
        found = ours.train(training)(maps)
        torch.testing.assert_close(found, theirs.train(training)(maps), rtol=1e-5, atol=1e-5)
    # Of each sample and map: mean = bias, deviation = weight.
    torch.testing.assert_close(found.mean(dim=(2, 3, 4)), ours.bias.expand(samples, 6), rtol=0, atol=1e-5)
    deviation = found.std(dim=(2, 3, 4), correction=0)
    torch.testing.assert_close(deviation, ours.weight.expand(samples, 6), rtol=1e-4, atol=1e-4)
    assert found.is_contiguous(memory_format=layout)
    # torch's own gradient is wrong for one channels-last sample, so the formula itself is the reference.
    cotangent = torch.randn_like(found)
    exact = maps.double()
    variance, mean = torch.var_mean(exact, dim=(2, 3, 4), keepdim=True, correction=0)
    scale, shift = (part.double().view(1, 6, 1, 1, 1) for part in (ours.weight, ours.bias))
    formula = (exact - mean) / torch.sqrt(variance + 1e-5) * scale + shift
    inputs = [maps, ours.weight, ours.bias]
    wanted = torch.autograd.grad(formula, inputs, cotangent.double())
    for mine, other in zip(torch.autograd.grad(ours(maps), inputs, cotangent), wanted, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_the_images_of_one_slice() -> None:
    maps = torch.randn(2, 4, 8, 6)
    torch.testing.assert_close(InstanceNorm(4)(maps), nn.InstanceNorm2d(4, affine=True)(maps))
