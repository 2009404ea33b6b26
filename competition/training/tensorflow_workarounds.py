"""What TensorFlow and Keras need to be told; each function names symptom, number and version.

Measured with TensorFlow 2.21 and Keras 3.15. The tests of this module fail where one can go.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import keras
import numpy as np
from keras.src.optimizers.base_optimizer import BaseOptimizer

Batch = tuple[np.ndarray, ...]
# Private methods of Keras' optimisers that are bound anew.
UPDATES = ("_backend_update_step", "_apply_weight_decay")


def update_without_strategy(
    optimizer: keras.optimizers.Optimizer, factors: Mapping[str, float]
) -> None:
    """Let `optimizer` update one variable after the other, its rate times the variable's factor.

    factors: by the variable's path; 1 where there is none. Keras has no rates per layer.
    On TensorFlow, Keras updates through a distribution strategy, after which the graph and all
    variables stay in memory for good: 5 MB per head that a search tries, 50 MB per MobileNet.
    """
    original = optimizer.update_step

    def update_step(gradient: Any, variable: Any, learning_rate: Any) -> None:
        original(gradient, variable, learning_rate * factors.get(variable.path, 1.0))

    if factors:
        optimizer.update_step = update_step
    if keras.backend.backend() == "tensorflow":
        for name in UPDATES:
            setattr(optimizer, name, partial(getattr(BaseOptimizer, name), optimizer))


def stream(
    batches: Callable[[], Iterator[Batch]], shapes: list[tuple[tuple[int | None, ...], Any]]
) -> Any:
    """Return what `fit` takes: batches that are prepared while others are trained on.

    shapes: (shape without the batch's axis, dtype) of each array of a batch.
    The tensorflow.data pipeline that Keras makes of a generator tunes itself in a thread, and the
    end of each epoch waits for that thread: up to 2 s, half the time of a trial of the custom CNN.
    """
    if keras.backend.backend() != "tensorflow":
        return batches()
    import tensorflow

    signature = tuple(tensorflow.TensorSpec((None, *shape), kind) for shape, kind in shapes)
    dataset = tensorflow.data.Dataset.from_generator(batches, output_signature=signature)
    options = tensorflow.data.Options()
    options.autotune.enabled = False
    return dataset.prefetch(2).with_options(options)
