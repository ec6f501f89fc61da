"""A network is made smaller while it trains, and all that trains with it follows."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from compressors.apply import edit_model
from compressors.contract import CompressionPlan
from compressors.groups import find_groups
from ssl_models.backbones import Classifier
from ssl_models.objectives import Objective

#: Decides which channels become one: (network, example inputs) -> plan, of which the clusters count.
Decide = Callable[[nn.Module, Tensor], CompressionPlan]

_PREFIX = "surgery/"


class Surgery:
    """Removes channels of a network once, between two steps of its training.

    The network is cut together with the first layer of the projection, whose columns read the embedding:
    they belong to its channels, like those of the classifier. The target network of BYOL begins again as a
    copy of the online one. Nothing is repaired: BatchNorm statistics follow by further training.

    Attributes:
        step: optimizer steps before it.
        clusters: per group the cluster of each channel; empty before.
    """

    def __init__(self, step: int, decide: Decide, example: Tensor) -> None:
        """Nothing is removed yet.

        Args:
            step: optimizer steps before it, from 1.
            decide: is called once.
            example: a batch that the network accepts, on its device.
        """
        self.step = step
        self.clusters: dict[str, Tensor] = {}
        self._decide, self._example = decide, example

    def operate(self, learner: Objective) -> None:
        """Makes the learner's model smaller, in place."""
        plan = self._decide(_Readers(learner), self._example)
        self.clusters = {
            name.removeprefix("model."): torch.from_numpy(clusters)
            for name, clusters in plan.clusters.items()
        }
        self._cut(learner)

    def state(self) -> dict[str, Tensor]:
        """What was done so far, for checkpoints."""
        return {f"{_PREFIX}{name}": clusters for name, clusters in self.clusters.items()}

    def restore(self, learner: Objective, tensors: Mapping[str, Tensor]) -> None:
        """Gives an untrained learner the shapes that it had when ``state`` was asked; not its weights.

        Args:
            learner: changed in place.
            tensors: those of ``state``, among others.
        """
        self.clusters = {n.removeprefix(_PREFIX): t for n, t in tensors.items() if n.startswith(_PREFIX)}
        if self.clusters:
            self._cut(learner)

    def _cut(self, learner: Objective) -> None:
        readers = _Readers(learner)
        clusters = {f"model.{name}": tensor.numpy() for name, tensor in self.clusters.items()}
        edit_model(
            readers, CompressionPlan("surgery", "", clusters), find_groups(readers, self._example).groups
        )
        fit_embedding(learner.model)
        # Also of the layers that are new, as in the rest of the training.
        learner.model.to(memory_format=torch.channels_last)
        learner.after_surgery()


class _Readers(nn.Module):
    """A learner's model, and what else reads its embedding: one trace finds all that has to change."""

    def __init__(self, learner: Objective) -> None:
        super().__init__()
        self.model = learner.model
        projection = learner.projection
        # Its first layer alone: outputs stay as they are, so that no further layer is cut.
        layers = [] if projection is None else [m for m in projection.modules() if isinstance(m, nn.Linear)]
        self.reader = layers[0] if layers else None

    def forward(self, x: Tensor) -> Tensor:
        features = self.model.features(x)
        outputs = self.model.head(features)
        return outputs if self.reader is None else torch.cat([outputs, self.reader(features)], dim=1)


def fit_embedding(model: Classifier) -> None:
    """Makes the encoder say how many features it has after channels were removed, in place."""
    model.encoder.embedding = model.head.in_features
