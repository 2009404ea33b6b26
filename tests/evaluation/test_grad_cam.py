"""Grad-CAM: its weights are the gradients, and the mistakes it explains are the most confident."""

from pathlib import Path

import keras
import numpy as np

from competition.evaluation.grad_cam import MISTAKES, confident_mistakes, draw_grad_cam
from competition.networks.layers import find_backbone
from tests.factories import IMAGES, make_run


def test_the_map_weighs_channels_by_the_gradient_of_the_class(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    network = make_run(tmp_path, "tiny_cnn")[1]
    images, classes = IMAGES[:6], np.array([0, 1, 2, 0, 1, 2])
    place = network.layers.index(find_backbone(network)) + 1
    reader = keras.Model(network.input, network.layers[place].input)
    maps = np.asarray(reader(images.astype(np.float32)))

    def answer(changed: np.ndarray) -> np.ndarray:
        """Return the logit of each image's class."""
        x = network.layers[place](changed)
        for layer in network.layers[place + 1 : -1]:
            x = layer(x)
        logits = np.asarray(x, np.float64) @ network.layers[-1].get_weights()[0]
        return np.asarray(logits[np.arange(len(classes)), classes])

    step = 2e-4  # small, so that no unit of the head switches on or off
    gradients = np.empty(maps.shape[::3])
    for channel in range(maps.shape[-1]):
        change = np.zeros(maps.shape[-1], np.float32)
        change[channel] = step
        gradients[:, channel] = (answer(maps + change) - answer(maps - change)) / (2 * step)
    expected = np.maximum(np.einsum("nhwc,nc->nhw", maps, gradients), 0)
    expected *= 255 / np.maximum(expected.max(axis=(1, 2), keepdims=True), 1e-12)
    drawn = draw_grad_cam(network, images, classes)
    assert drawn.max() == 255
    nothing = draw_grad_cam(network, images[:0], classes[:0])
    assert nothing.shape == (0, *drawn.shape[1:]), "a run without a mistake has no maps"
    np.testing.assert_allclose(drawn, expected, atol=8)


def test_mistakes_are_the_most_confident_wrong_answers_the_worst_first() -> None:
    confidence = np.linspace(0.6, 0.9, 40)
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    labels = np.arange(40) % 2  # the odd ones are mistakes
    expected = np.arange(39, 0, -2)[:MISTAKES]
    np.testing.assert_array_equal(confident_mistakes(labels, probabilities), expected)
    assert confident_mistakes(np.zeros(40, int), probabilities).size == 0
