"""Networks that users bring: which of their layers can be merged, and why the others cannot."""

import pytest
import torch
import torchvision

from compressors.exactness import leave_inexact_dense
from compressors.groups import find_groups

OUTPUTS = "its channels are the model's outputs"
NORM = "a norm takes statistics over its channels"
UNUSED = "it is not used, or in a way that is not understood"
DIVIDED = "its channels are divided by a reshape"

# Per network the number of groups, and of layers left dense per reason.
EXPECTED = {
    "resnet18": (12, {OUTPUTS: 1}),
    "resnet50": (37, {OUTPUTS: 1}),
    "mobilenet_v2": (25, {OUTPUTS: 1}),
    "mobilenet_v3_small": (27, {OUTPUTS: 1}),
    "efficientnet_b0": (40, {OUTPUTS: 1}),
    "densenet121": (120, {OUTPUTS: 1}),
    "googlenet": (57, {OUTPUTS: 1, UNUSED: 6}),  # the auxiliary heads
    "squeezenet1_1": (25, {OUTPUTS: 1}),
    "shufflenet_v2_x1_0": (18, {OUTPUTS: 1, DIVIDED: 21}),
    "regnet_y_400mf": (53, {OUTPUTS: 1}),
    "convnext_tiny": (18, {OUTPUTS: 1, NORM: 40}),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_every_group_is_exact_and_every_gap_has_its_reason(name: str) -> None:
    extra = {"init_weights": False} if name == "googlenet" else {}
    model = torchvision.models.get_model(name, num_classes=5, **extra).eval()
    inputs = torch.rand(1, 3, 64, 64)
    found = find_groups(model, inputs)
    # Merging planted copies and removing unread channels changes no output, in any of the groups.
    assert leave_inexact_dense(model, found, inputs) is found
    reasons = list(found.left_dense.values())
    counts = {reason: reasons.count(reason) for reason in set(reasons)}
    assert (len(found.groups), counts) == EXPECTED[name]
