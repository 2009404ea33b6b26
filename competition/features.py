"""What a picture looks like as a short vector, and all pictures as points of a plane."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from competition.backbones import get_backbone
from competition.console import progress

BATCH_SIZE = 128
# Below this side keras.applications builds no backbone.
MINIMUM_SIDE = 32
# Side in pixels at which principal components of pixels are taken; more shows no more of the whole picture.
PIXEL_SIDE = 32
NUM_COMPONENTS = 50
# On a map of fewer pictures, threads wait for one another longer than they work.
MINIMUM_FOR_THREADS = 5_000
# Fitting the components needs no more pictures than this; all are then projected batch by batch.
MAXIMUM_FITTED = 10_000


def embed(images: np.ndarray, backbone: str, weights: Path | None, seed: int) -> np.ndarray:
    """Return one row of features per picture: (n, h, w, 3) uint8 -> (n, d) float32.

    With `weights`, the pooled output of the ImageNet `backbone`; without, the principal components of the pixels.
    Raises InputError for an unknown backbone or weights of another one.
    """
    if weights is None:
        return _embed_pixels(images, seed)
    return _embed_by_backbone(images, backbone, weights)


def lay_out(features: np.ndarray, perplexity: float, iterations: int, maximum: int, seed: int) -> np.ndarray:
    """Return a t-SNE map (van der Maaten and Hinton, 2008) of (n, d) features: (n, 2) float32.

    Principal components are taken first. Of more than `maximum` pictures only as many, drawn at random, are laid
    out; each other one gets the place of the one nearest to it in the features.
    """
    from sklearn.manifold import TSNE
    from sklearn.neighbors import NearestNeighbors
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    if len(features) < 4:
        return np.zeros((len(features), 2), np.float32)
    points = reduce(features, seed)
    drawn = np.sort(np.random.default_rng(seed).permutation(len(points))[:maximum])
    tsne = TSNE(
        perplexity=min(perplexity, (len(drawn) - 1) / 3),
        max_iter=iterations,
        init="pca",
        random_state=seed,
        n_jobs=-1,
    )
    with threadpool_limits(None if len(drawn) >= MINIMUM_FOR_THREADS else 1):
        places: np.ndarray = tsne.fit_transform(points[drawn]).astype(np.float32)
    if len(drawn) == len(points):
        return places
    nearest = NearestNeighbors(n_neighbors=1).fit(points[drawn]).kneighbors(points, return_distance=False)
    return places[nearest[:, 0]]


def shrink(images: np.ndarray, side: int) -> np.ndarray:
    """Average blocks of pixels until the shorter side has about `side` of them: (n, h, w, 3) uint8 -> float32."""
    factor = max(1, min(images.shape[1:3]) // side)
    height, width = (length // factor for length in images.shape[1:3])
    cut = images[:, : height * factor, : width * factor]
    small: np.ndarray = cut.reshape(len(cut), height, factor, width, factor, 3).mean((2, 4), dtype=np.float32)
    return small


def batches(images: np.ndarray, what: str, size: int = BATCH_SIZE) -> Iterator[np.ndarray]:
    """Yield the pictures `size` at a time, with a progress bar."""
    for start in progress(range(0, len(images), size), what, unit="batch"):
        yield images[start : start + size]


def _embed_pixels(images: np.ndarray, seed: int) -> np.ndarray:
    small = [shrink(batch, PIXEL_SIDE) for batch in batches(images, "reading pixels")]
    return reduce(np.concatenate(small).reshape(len(images), -1), seed)


def reduce(features: np.ndarray, seed: int, components: int = NUM_COMPONENTS) -> np.ndarray:
    """Return the first principal components of (n, d) features, fitted to some of many: (n, components) float32."""
    from sklearn.decomposition import PCA

    if len(features) < 2:
        return features.astype(np.float32)
    drawn = np.sort(np.random.default_rng(seed).permutation(len(features))[:MAXIMUM_FITTED])
    components = min(components, len(drawn), features.shape[1])
    pca = PCA(components, svd_solver="randomized", random_state=seed).fit(features[drawn])
    parts = [pca.transform(features[start : start + 4096]) for start in range(0, len(features), 4096)]
    return np.concatenate(parts).astype(np.float32)


def _embed_by_backbone(images: np.ndarray, backbone: str, weights: Path) -> np.ndarray:
    import keras

    from competition.submission_model import build_backbone
    from competition.weights import Weights, load_backbone

    enlargement = -(-MINIMUM_SIDE // min(images.shape[1:3]))
    height, width = (length * enlargement for length in images.shape[1:3])
    entry = get_backbone(backbone)
    network = build_backbone(entry.builder, entry.arguments, (height, width, 3))
    load_backbone(network, Weights(weights, "imagenet"))
    pooled = keras.Model(network.input, keras.layers.GlobalAveragePooling2D()(network.output))
    enlarged = (batch.repeat(enlargement, 1).repeat(enlargement, 2) for batch in batches(images, "embedding"))
    rows = [pooled.predict_on_batch(batch.astype(np.float32)) for batch in enlarged]
    return np.concatenate(rows).astype(np.float32)
