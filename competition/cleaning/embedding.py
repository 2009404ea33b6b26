"""Images as short vectors, and as points of a plane."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from competition.backbones import get_backbone
from competition.common.console import progress

BATCH_SIZE = 128
# Below this side keras.applications builds no backbone.
MINIMUM_SIDE = 32
# Side in pixels at which principal components of pixels are taken; more adds nothing.
PIXEL_SIDE = 32
NUM_COMPONENTS = 50
ITERATIONS_PER_STEP = 25  # of t-SNE; then its progress is shown
# On a map of fewer images, threads wait for one another longer than they work.
MINIMUM_FOR_THREADS = 5_000
# Fitting the components needs no more images than this; all are then projected batch by batch.
MAXIMUM_FITTED = 10_000
# Distances to neighbours are measured among so many images.
MAXIMUM_NEIGHBOURS = 5_000


def embed(
    images: np.ndarray, backbone: str, weights: Path | None, seed: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return features and, with `weights`, textures: (n, h, w, 3) uint8 -> (n, d) float32 each.

    With `weights`, the features are the pooled output of the ImageNet `backbone`, and the textures
    those of its middle blocks. Without, the features are the principal components of the pixels.
    Beside features that come by wheel stand those of the pixels, as each overlooks what the other
    sees. Raises UserError for an unknown backbone or weights of another one.
    """
    if weights is None:
        return _reduce(lambda part: _read_pixels(images[part]), len(images), seed), None
    features, textures = _embed_by_backbone(images, backbone, weights)
    if get_backbone(backbone).by_wheel:
        pixels, _ = embed(images, backbone, None, seed)
        both = take_components(features, seed), pixels
        features = np.concatenate([_scale(points) for points in both], axis=1)
    return features, textures


def describe_features(backbone: str, weights: Path | None) -> str:
    """Return in words how `embed` describes images."""
    if weights is None:
        return "pixels"
    entry = get_backbone(backbone)
    return f"{entry.title} features{' and pixels' if entry.by_wheel else ''}"


def take_components(features: np.ndarray, seed: int, number: int = NUM_COMPONENTS) -> np.ndarray:
    """Return the first principal components of (n, d) features: (n, up to number) float32.

    They are fitted to MAXIMUM_FITTED rows at most.
    """
    return _reduce(features.__getitem__, len(features), seed, number)


def lay_out(
    points: np.ndarray, perplexity: float, iterations: int, maximum: int, seed: int
) -> np.ndarray:
    """Return a t-SNE map of (n, d) points, d small: (n, 2) float32.

    t-SNE (van der Maaten and Hinton, 2008) by openTSNE (Poličar et al., 2024), a quarter of the
    iterations in early exaggeration. Of more than `maximum` points, only as many, drawn at random,
    are laid out; each other one gets the place of the nearest of these.
    """
    from openTSNE import TSNE
    from sklearn.metrics import pairwise_distances_argmin

    if len(points) < 4 or np.allclose(points, points[0]):  # t-SNE finds no place for equal points
        return np.zeros((len(points), 2), np.float32)
    drawn = np.sort(np.random.default_rng(seed).permutation(len(points))[:maximum])
    steps = range(0, iterations, ITERATIONS_PER_STEP)
    bar = iter(progress(steps, "laying out the map", unit="step"))

    def advance(*_: object) -> None:  # returning something true would stop the work
        next(bar, None)

    tsne = TSNE(
        perplexity=min(perplexity, (len(drawn) - 1) / 3),
        early_exaggeration_iter=iterations // 4,
        n_iter=iterations - iterations // 4,
        random_state=seed,
        n_jobs=-1 if len(drawn) >= MINIMUM_FOR_THREADS else 1,
        callbacks=advance,
        callbacks_every_iters=ITERATIONS_PER_STEP,
    )
    places = np.zeros((len(points), 2), np.float32)
    places[drawn] = tsne.fit(points[drawn])
    rest = np.setdiff1d(np.arange(len(points)), drawn)
    if len(rest):
        places[rest] = places[drawn[pairwise_distances_argmin(points[rest], points[drawn])]]
    return places


def find_distances(points: np.ndarray, neighbour: int, seed: int) -> np.ndarray:
    """Return the distance of each of (n, d) points to its `neighbour`-th nearest: (n,) float32.

    Only MAXIMUM_NEIGHBOURS points count as neighbours, so that the time grows with n and not with
    its square.
    """
    from sklearn.neighbors import NearestNeighbors

    drawn = points[np.random.default_rng(seed).permutation(len(points))[:MAXIMUM_NEIGHBOURS]]
    rank = min(neighbour, len(drawn) - 1)  # the nearest of all is the point itself
    distances, _ = NearestNeighbors(algorithm="brute").fit(drawn).kneighbors(points, rank + 1)
    return np.asarray(distances[:, rank])


def shrink(images: np.ndarray, side: int) -> np.ndarray:
    """Average blocks of pixels until the shorter side has about `side` of them.

    (n, h, w, 3) uint8 -> (n, h', w', 3) float32.
    """
    factor = max(1, min(images.shape[1:3]) // side)
    height, width = (length // factor for length in images.shape[1:3])
    total = np.zeros((len(images), height, width, 3), np.float32)
    for row in range(factor):
        for column in range(factor):
            total += images[:, row : height * factor : factor, column : width * factor : factor]
    return total / factor**2


def batches(rows: np.ndarray, title: str, size: int = BATCH_SIZE) -> Iterator[np.ndarray]:
    """Yield the rows (images, indices) `size` at a time, with a progress bar."""
    for start in progress(range(0, len(rows), size), title, unit="batch"):
        yield rows[start : start + size]


def _scale(points: np.ndarray) -> np.ndarray:
    """Return (n, d) centred points at a mean distance of 1 from the origin."""
    return np.asarray(points / max(1e-6, float(np.sqrt(np.square(points).sum(1).mean()))))


def _read_pixels(images: np.ndarray) -> np.ndarray:
    return shrink(images, PIXEL_SIDE).reshape(len(images), -1)


def _reduce(
    read: Callable[[np.ndarray], np.ndarray], count: int, seed: int, number: int = NUM_COMPONENTS
) -> np.ndarray:
    """Return the first principal components (count, up to number) float32 of rows.

    read: returns the rows (m, d) of some indices (m,).
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


def _embed_by_backbone(
    images: np.ndarray, backbone: str, weights: Path
) -> tuple[np.ndarray, np.ndarray]:
    import keras

    from competition.networks.layers import block_borders
    from competition.networks.submission_model import build_backbone
    from competition.networks.weights import Weights, load_backbone

    enlargement = -(-MINIMUM_SIDE // min(images.shape[1:3]))
    height, width = (length * enlargement for length in images.shape[1:3])
    entry = get_backbone(backbone)
    network = build_backbone(entry.builder, entry.arguments, (height, width, 3))
    load_backbone(network, Weights(weights, "imagenet"))
    borders = block_borders(network)
    outer = len(borders) // 5  # the first fifth sees edges, the last one objects
    middle = [network.layers[border - 1].output for border in borders[outer : len(borders) - outer]]
    pool = keras.layers.GlobalAveragePooling2D()
    pooled = keras.Model(network.input, [pool(x) for x in (network.output, *middle)])
    enlarged = (
        batch.repeat(enlargement, 1).repeat(enlargement, 2)
        for batch in batches(images, "embedding")
    )
    widths = [output.shape[-1] for output in pooled.outputs]
    features = np.empty((len(images), widths[0]), np.float32)
    textures = np.empty((len(images), sum(widths[1:])), np.float32)
    for start, batch in zip(range(0, len(images), BATCH_SIZE), enlarged, strict=True):
        last, *others = pooled.predict_on_batch(batch.astype(np.float32))
        features[start : start + BATCH_SIZE] = last
        textures[start : start + BATCH_SIZE] = np.concatenate(others, axis=1)
    return features, textures
