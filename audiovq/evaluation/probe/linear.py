"""Linear probes: what can be read off a representation without thinking (Alain and Bengio 2017)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from audiovq.evaluation.statistics import Mean, Score, mean_of

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Weights of the squared norm that are tried."""


def probe(
    train: tuple[np.ndarray, Sequence[str]],
    validation: tuple[np.ndarray, Sequence[str]],
    test: tuple[np.ndarray, Sequence[str]],
) -> Mean:
    """Accuracy on ``test`` of a logistic regression fitted to ``train``, regularised as is best on ``validation``.

    Each part: features (N, D) and N labels. Every class counts alike, however many items it has.
    """
    classes = sorted(set(train[1]))
    mean, scale = train[0].mean(axis=0), train[0].std(axis=0) + 0.1 * train[0].std() + 1e-9
    parts = [
        ((x - mean) / scale, np.array([classes.index(label) for label in y])) for x, y in (train, validation, test)
    ]
    best, chosen = -1.0, (np.zeros((parts[0][0].shape[1], len(classes))), np.zeros(len(classes)))
    for strength in STRENGTHS:
        weights = _fit(*parts[0], len(classes), strength)
        reached = float(np.mean(_balanced(_hits(*parts[1], *weights), parts[1][1])))
        if reached > best:
            best, chosen = reached, weights
    return accuracy(_hits(*parts[2], *chosen), parts[2][1])


def vote(
    train: tuple[Sequence[np.ndarray], Sequence[str]], test: tuple[Sequence[np.ndarray], Sequence[str]], size: int
) -> Mean:
    """Accuracy frame by frame when each code says the class it is most often used by.

    Each part: codes (F,) of N stretches below ``size``, and their labels. Classes count alike. Unlike a whole stretch,
    a single frame hardly gives a voice away by its words or its language.
    """
    classes = sorted(set(train[1]))
    counts = np.zeros((len(classes), size))
    for codes, label in zip(*train, strict=True):
        counts[classes.index(label)] += np.bincount(codes, minlength=size)
    says = (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)).argmax(axis=0)
    scores = [
        Score(float((says[codes] == classes.index(label)).mean()) if label in classes else 0.0, len(codes))
        for codes, label in zip(*test, strict=True)
    ]
    found = mean_of(scores)
    assert found is not None
    return found


def majority(train: Sequence[str], test: Sequence[str]) -> float:
    """Share of the test's largest class of training: what saying always the same reaches."""
    most = Counter(train).most_common(1)[0][0]
    return sum(label == most for label in test) / len(test)


def accuracy(hits: np.ndarray, labels: np.ndarray) -> Mean:
    """Mean over the items."""
    found = mean_of([Score(float(hit)) for hit in hits])
    assert found is not None
    return found


def _hits(x: np.ndarray, labels: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return (x @ weight + bias).argmax(axis=1) == labels


def _balanced(hits: np.ndarray, labels: np.ndarray) -> list[float]:
    """Accuracy within each class."""
    return [float(hits[labels == label].mean()) for label in np.unique(labels)]


def _fit(x: np.ndarray, labels: np.ndarray, n_classes: int, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights (D, n_classes) and bias of a multinomial logistic regression, by L-BFGS from zero."""
    import torch
    import torch.nn.functional as F

    features, targets = torch.from_numpy(x).float(), torch.from_numpy(labels)
    counts = torch.bincount(targets, minlength=n_classes).clamp_min(1)
    weight = torch.zeros(x.shape[1], n_classes, requires_grad=True)
    bias = torch.zeros(n_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(features @ weight + bias, targets, weight=len(targets) / (n_classes * counts.float()))
        value = value + strength * weight.square().sum() / 2
        value.backward()
        return value

    optimizer.step(loss)
    return weight.detach().numpy(), bias.detach().numpy()
