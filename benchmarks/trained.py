"""The trained network that the benchmarks shrink."""

import os
from pathlib import Path

from safetensors.torch import load_file
from torch import nn
from torchvision.models import resnet18


def cifar10_resnet18() -> nn.Module:
    """Torchvision's ResNet-18 with a stem for small images, trained on CIFAR-10.

    Reads ``weights/resnet18_cifar10.safetensors`` in the folder that ``PIE_TEST_DATA`` names.
    """
    model = resnet18(num_classes=10)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    state = load_file(Path(os.environ["PIE_TEST_DATA"], "weights", "resnet18_cifar10.safetensors"))
    model.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in state.items()})
    return model.eval()
