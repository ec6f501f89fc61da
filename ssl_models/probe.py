"""Linear probes: logistic regression on the features of a frozen encoder."""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ssl_models.predict import batches

#: Inverse strength of the L2 penalty on standardised features.
_C = 0.1


class Probed(Protocol):
    """A network whose last layer is linear."""

    @property
    def head(self) -> nn.Linear:
        """The last layer, with a bias."""
        ...

    def features(self, x: Tensor) -> Tensor:
        """Maps images (N, C, H, W) in [0, 1] to what the last layer takes, (N, D)."""
        ...


def fit_probe(model: Probed, images: Tensor, labels: NDArray[np.int64]) -> None:
    """Fits the classifier's linear layer on the encoder's features, in place.

    Scikit-learn's multinomial logistic regression on standardised features; the standardisation is
    folded into the layer's weights.

    Args:
        model: only its head is changed.
        images: shape (N, C, H, W), uint8, on the model's device.
        labels: class indices, shape (N,), every class at least once.
    """
    weight, bias = logistic_regression(extract_features(model, images), labels)
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(weight))
        model.head.bias.copy_(torch.from_numpy(bias))


def extract_features(model: Probed, images: Tensor) -> NDArray[np.float64]:
    """Features of uint8 images (N, C, H, W), shape (N, D)."""
    with torch.inference_mode():
        return torch.cat([model.features(b).float().cpu() for b in batches(images)]).double().numpy()


def logistic_regression(
    features: NDArray[np.float64], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fits multinomial logistic regression with an L2 penalty on standardised features.

    Args:
        features: shape (N, D).
        labels: shape (N,), in [0, C), every class at least once.

    Returns:
        Weight (C, D) and bias (C,) for the features as given; of two classes, the first has zeros.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features)
    fit = LogisticRegression(C=_C, max_iter=2000).fit(scaler.transform(features), labels)
    weight, bias = fit.coef_, fit.intercept_
    if len(fit.classes_) == 2:  # scikit-learn keeps one row: the log odds of the second class
        weight, bias = np.vstack([np.zeros_like(weight), weight]), np.append(0.0, bias)
    weight = weight / scaler.scale_
    return weight, bias - weight @ scaler.mean_
