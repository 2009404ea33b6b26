"""Grad-CAM of the most confident mistakes: where in an image its network saw the wrong class.

Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391. Our networks pool the backbone's last map
and end in two dense layers. So the gradient by that map is a formula, the same on every backend.
"""

import keras
import numpy as np

from competition.networks.layers import find_backbone

MISTAKES = 12  # per version, that the report shows


def confident_mistakes(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the indices of the most confident mistakes, the worst first.

    labels: (n,). probabilities: (n, K).
    """
    confidence = probabilities.max(axis=1)
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    return np.asarray(wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES])


def draw_grad_cam(network: keras.Model, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the Grad-CAM of a class in each image, (n, rows, columns) uint8.

    network: as `build_network` makes it. images: (n, h, w, 3) uint8. classes: (n,). The strongest
    place of an image has 255. A map without any positive place is 0.
    """
    pooling = network.layers[network.layers.index(find_backbone(network)) + 1]
    reader = keras.Model(network.input, pooling.input)
    if not len(images):
        return np.zeros((0, *pooling.input.shape[1:3]), np.uint8)
    maps = np.asarray(reader(images.astype(np.float32), training=False))
    hidden, output = (layer for layer in network.layers if isinstance(layer, keras.layers.Dense))
    weights, bias = hidden.get_weights()
    is_active = maps.mean(axis=(1, 2)) @ weights + bias > 0
    gradient = (is_active * output.get_weights()[0].T[classes]) @ weights.T
    cam = np.maximum(np.einsum("nhwc,nc->nhw", maps, gradient), 0)
    return np.rint(255 * cam / np.maximum(cam.max(axis=(1, 2), keepdims=True), 1e-12)).astype(
        np.uint8
    )
