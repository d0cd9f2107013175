"""The baselines of MSAGNet 2D, on the same features and splits.

They are our re-implementations on frozen features, not the published programs:

    ridge   the protocol of the HEST benchmark (Jaume et al., NeurIPS 2024): standardise, 256 principal components,
            ridge regression
    stnet   ST-Net (He et al., Nature Biomedical Engineering 2020): image -> genes by one linear layer, trained by SGD

Features are those of SampleGraph, standardised per slide; labels normalised expression. Floats in, float32 out. The
mean profile of training is baselines.mean.
"""
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.threads import one_thread
from models.sample import SampleGraph

N_COMPONENTS = 256
RIDGE_FACTOR = 100   # alpha = 100 / (components * genes)
LEARNING_RATES = (0.03, 0.01, 0.003, 0.001)
EPOCHS = 50
PATIENCE = 5         # epochs
BATCH_SIZE = 32


def baseline_predictions(graphs: list[SampleGraph], pools: list[Tensor], tested: list[SampleGraph],
                         seed: int) -> dict[str, list[np.ndarray]]:
    """The mean profile of training, ridge and stnet: {method: [(n_spots, n_genes) of each tested graph]}.

    graphs: layers; pools: (n,) bool each, the labels that may be used.
    """
    features, labels = [], []
    for graph, pool in zip(graphs, pools, strict=True):
        if pool.any():
            features.append(graph.feature[pool].numpy())
            labels.append(graph.label[pool].numpy())
    feature, label = np.concatenate(features), np.concatenate(labels)
    profile = np.mean([one.mean(axis=0) for one in labels], axis=0, keepdims=True)  # (1, n_genes)
    parts = [graph.feature.numpy() for graph in tested]
    query, bounds = np.concatenate(parts), np.cumsum([len(one) for one in parts])[:-1]
    predicted = {"mean": np.repeat(profile, len(query), axis=0), "ridge": ridge(feature, label, query),
                 "stnet": stnet(graphs, pools, query, seed)}
    return {method: np.split(values, bounds) for method, values in predicted.items()}


@one_thread()
def ridge(train_feature: np.ndarray, train_label: np.ndarray, query_feature: np.ndarray) -> np.ndarray:
    """(N, D), (N, G), (n, D) -> (n, G).

    The benchmark fits no intercept and scores correlations only. Here an intercept is fitted: it does not change the
    correlations, and the error becomes meaningful.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    n_components = min(N_COMPONENTS, *train_feature.shape)
    regression = Ridge(RIDGE_FACTOR / (n_components * train_label.shape[1]), solver="lsqr", max_iter=1000)
    model = make_pipeline(StandardScaler(), PCA(n_components, random_state=0), regression)
    model.fit(train_feature.astype(np.float64), train_label)
    return model.predict(query_feature.astype(np.float64)).astype(np.float32)


@one_thread()
def stnet(graphs: list[SampleGraph], pools: list[Tensor], query_feature: np.ndarray, seed: int) -> np.ndarray:
    """graphs: layers; pools: (n,) bool each, the labels that may be used; query_feature (m, D) -> (m, G).

    Learning rate and number of epochs are those that best predict the held-out data of a member of MSAGNet 2D (a
    sample, a layer, discs); with them the linear layer is trained on all training data.
    """
    from training.two_d import split
    train, held_out = (gather(graphs, part) for part in split(graphs, pools, 0, seed))
    errors = [train_head(*train, rate, EPOCHS, seed, held_out)[1] for rate in LEARNING_RATES]
    best = int(np.argmin([np.nanmin(one) for one in errors]))
    head, _ = train_head(*gather(graphs, pools), LEARNING_RATES[best], int(np.nanargmin(errors[best])), seed)
    return head(torch.from_numpy(query_feature)).detach().numpy()


def gather(graphs: list[SampleGraph], pools: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Features (N, D) and labels (N, G) of the spots in the pools."""
    parts = list(zip(graphs, pools, strict=True))
    feature = torch.cat([graph.feature[pool] for graph, pool in parts])
    return feature, torch.cat([graph.label[pool] for graph, pool in parts])


def train_head(feature: Tensor, label: Tensor, learning_rate: float, epochs: int, seed: int,
               held_out: tuple[Tensor, Tensor] | None = None) -> tuple[nn.Linear, list[float]]:
    """A linear layer that starts as the mean label.

    With held_out also its error there, at the start and after each epoch; training stops early.
    """
    head, generator = nn.Linear(feature.shape[1], label.shape[1]), torch.Generator().manual_seed(seed)
    nn.init.zeros_(head.weight)
    head.bias.data = label.mean(dim=0)
    optimizer = torch.optim.SGD(head.parameters(), lr=learning_rate, momentum=0.9)

    def error() -> list[float]:
        return [F.mse_loss(head(held_out[0]), held_out[1]).item()] if held_out else []

    errors = error()
    for epoch in range(1, epochs + 1):
        for rows in torch.randperm(len(feature), generator=generator).split(BATCH_SIZE):
            optimizer.zero_grad()
            F.mse_loss(head(feature[rows]), label[rows]).backward()
            optimizer.step()
        errors += error()
        if held_out and epoch - np.nanargmin(errors) >= PATIENCE:
            break
    return head, errors
