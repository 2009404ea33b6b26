"""What a picture looks like as a short vector, and all pictures as points of a plane."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from competition.backbones import get_backbone
from competition.common.console import progress

BATCH_SIZE = 128
# Below this side keras.applications builds no backbone.
MINIMUM_SIDE = 32
# Side in pixels at which principal components of pixels are taken; more shows no more of the whole picture.
PIXEL_SIDE = 32
NUM_COMPONENTS = 50
# After so many of t-SNE's iterations its progress is shown.
ITERATIONS_A_STEP = 25
# On a map of fewer pictures, threads wait for one another longer than they work.
MINIMUM_FOR_THREADS = 5_000
# Fitting the components needs no more pictures than this; all are then projected batch by batch.
MAXIMUM_FITTED = 10_000
# How far a picture's neighbours are is measured among so many.
MAXIMUM_NEIGHBOURS = 5_000


def embed(images: np.ndarray, backbone: str, weights: Path | None, seed: int) -> np.ndarray:
    """Return one row of features per picture: (n, h, w, 3) uint8 -> (n, d) float32.

    With `weights`, the pooled output of the ImageNet `backbone`; without, the principal components of the pixels.
    Raises UserError for an unknown backbone or weights of another one.
    """
    if weights is None:
        return _reduce(lambda part: _read_pixels(images[part]), len(images), seed)
    return _embed_by_backbone(images, backbone, weights)


def take_components(features: np.ndarray, seed: int, number: int = NUM_COMPONENTS) -> np.ndarray:
    """Return the first principal components of (n, d) features, fitted to some of many: (n, up to number) float32."""
    return _reduce(features.__getitem__, len(features), seed, number)


def lay_out(
    points: np.ndarray, perplexity: float, iterations: int, maximum: int, seed: int
) -> np.ndarray:
    """Return a t-SNE map (van der Maaten and Hinton, 2008) of (n, d) points, d small: (n, 2) float32.

    By openTSNE (Poličar et al., 2024), a quarter of the iterations with early exaggeration. Of more than `maximum`
    pictures only as many, drawn at random, are laid out; each other one gets the place of the one nearest to it.
    """
    from openTSNE import TSNE

    if len(points) < 4:
        return np.zeros((len(points), 2), np.float32)
    drawn = np.sort(np.random.default_rng(seed).permutation(len(points))[:maximum])
    steps = iter(
        progress(range(0, iterations, ITERATIONS_A_STEP), "laying out the map", unit="step")
    )

    def advance(*_: object) -> None:  # what is true would stop the work
        next(steps, None)

    tsne = TSNE(
        perplexity=min(perplexity, (len(drawn) - 1) / 3),
        early_exaggeration_iter=iterations // 4,
        n_iter=iterations - iterations // 4,
        random_state=seed,
        n_jobs=-1 if len(drawn) >= MINIMUM_FOR_THREADS else 1,
        callbacks=advance,
        callbacks_every_iters=ITERATIONS_A_STEP,
    )
    places = np.zeros((len(points), 2), np.float32)
    places[drawn] = tsne.fit(points[drawn])
    rest = np.setdiff1d(np.arange(len(points)), drawn)
    places[rest] = places[drawn[_find_nearest(points[rest], points[drawn])]]
    return places


def find_distances(points: np.ndarray, neighbour: int, seed: int) -> np.ndarray:
    """Return the distance of each of (n, d) points to the `neighbour`-th nearest other one: (n,) float32.

    Of many points, only some are looked at as neighbours, so that the time grows with n and not with its square.
    """
    drawn = points[np.random.default_rng(seed).permutation(len(points))[:MAXIMUM_NEIGHBOURS]]
    rank = min(neighbour, len(drawn) - 1)  # the nearest of all is the point itself
    powers = np.square(drawn).sum(1)
    nearest = [
        np.partition(powers - 2 * part @ drawn.T, rank, 1)[:, rank] + np.square(part).sum(1)
        for part in batches(points, "measuring distances")
    ]
    return np.sqrt(np.maximum(np.concatenate(nearest), 0))


def shrink(images: np.ndarray, side: int) -> np.ndarray:
    """Average blocks of pixels until the shorter side has about `side` of them: (n, h, w, 3) uint8 -> float32."""
    factor = max(1, min(images.shape[1:3]) // side)
    height, width = (length // factor for length in images.shape[1:3])
    total = np.zeros((len(images), height, width, 3), np.float32)
    for row in range(factor):
        for column in range(factor):
            total += images[:, row : height * factor : factor, column : width * factor : factor]
    return total / factor**2


def batches(rows: np.ndarray, what: str, size: int = BATCH_SIZE) -> Iterator[np.ndarray]:
    """Yield the rows (pictures, indices) `size` at a time, with a progress bar."""
    for start in progress(range(0, len(rows), size), what, unit="batch"):
        yield rows[start : start + size]


def _read_pixels(images: np.ndarray) -> np.ndarray:
    return shrink(images, PIXEL_SIDE).reshape(len(images), -1)


def _reduce(
    read: Callable[[np.ndarray], np.ndarray], count: int, seed: int, number: int = NUM_COMPONENTS
) -> np.ndarray:
    """Return the first principal components, fitted to some of many, of rows (n, d) that `read` gives for indices.

    Returns (count, up to number) float32.
    """
    from sklearn.decomposition import PCA

    drawn = np.sort(np.random.default_rng(seed).permutation(count)[:MAXIMUM_FITTED])
    fitted = np.concatenate(
        [read(part) for part in batches(drawn, "looking for principal components")]
    )
    if count < 2:
        return fitted.astype(np.float32)
    components = min(number, *fitted.shape)
    pca = PCA(components, svd_solver="randomized", random_state=seed).fit(fitted)
    parts = [
        pca.transform(read(part)) for part in batches(np.arange(count), "principal components")
    ]
    return np.concatenate(parts).astype(np.float32)


def _find_nearest(points: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return for each of (n, d) points the index of the nearest of (m, d) places: (n,) int64."""
    powers = np.square(places).sum(1)
    nearest = [
        (powers - 2 * part @ places.T).argmin(1) for part in batches(points, "placing the rest")
    ]
    return np.concatenate([np.zeros(0, np.int64), *nearest])


def _embed_by_backbone(images: np.ndarray, backbone: str, weights: Path) -> np.ndarray:
    import keras

    from competition.networks.submission_model import build_backbone
    from competition.networks.weights import Weights, load_backbone

    enlargement = -(-MINIMUM_SIDE // min(images.shape[1:3]))
    height, width = (length * enlargement for length in images.shape[1:3])
    entry = get_backbone(backbone)
    network = build_backbone(entry.builder, entry.arguments, (height, width, 3))
    load_backbone(network, Weights(weights, "imagenet"))
    pooled = keras.Model(network.input, keras.layers.GlobalAveragePooling2D()(network.output))
    enlarged = (
        batch.repeat(enlargement, 1).repeat(enlargement, 2)
        for batch in batches(images, "embedding")
    )
    features = np.empty((len(images), pooled.output_shape[-1]), np.float32)
    for start, batch in zip(range(0, len(images), BATCH_SIZE), enlarged, strict=True):
        features[start : start + BATCH_SIZE] = pooled.predict_on_batch(batch.astype(np.float32))
    return features
