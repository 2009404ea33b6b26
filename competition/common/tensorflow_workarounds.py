"""Workarounds for TensorFlow and Keras; each function names symptom, measurement and version.

Measured with TensorFlow 2.21 and Keras 3.15. The tests of this module fail where one can go.
"""

import gc
from collections.abc import Callable, Iterator, Mapping
from functools import partial, wraps
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


def fuse_batch_norm(network: keras.Model) -> None:
    """Let the BatchNorm layers of `network` that learn statistics use TensorFlow's fused operation.

    Keras computes them from single operations: a training step of MobileNetV3Large or
    EfficientNetB0 at 96 pixels on two cores takes 1.26 times as long.
    """
    if keras.backend.backend() != "tensorflow":
        return
    for layer in network._flatten_layers(include_self=False):
        if isinstance(layer, keras.layers.BatchNormalization) and layer.axis in (-1, 3):
            layer.call = partial(_normalize_batch, layer)


def _normalize_batch(
    layer: keras.layers.BatchNormalization,
    inputs: Any,
    training: bool | None = None,
    mask: Any = None,
) -> Any:
    import tensorflow

    is_plain = len(inputs.shape) == 4 and mask is None and layer.compute_dtype == "float32"
    if not (training and layer.trainable and is_plain):
        return type(layer).call(layer, inputs, training=training, mask=mask)
    nothing = tensorflow.zeros([0])
    outputs, mean, variance, *_ = tensorflow.raw_ops.FusedBatchNormV3(
        x=inputs,
        scale=layer.gamma,
        offset=layer.beta,
        mean=nothing,
        variance=nothing,
        epsilon=layer.epsilon,
    )
    count = tensorflow.cast(tensorflow.size(inputs) / inputs.shape[-1], mean.dtype)
    variance *= (count - 1) / count  # the operation's own divides by one less, Keras' does not
    for moving, new in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
        moving.assign(layer.momentum * moving + (1 - layer.momentum) * new)
    return outputs


def stream(
    batches: Callable[[], Iterator[Batch]], shapes: list[tuple[tuple[int | None, ...], Any]]
) -> Any:
    """Return the input of `fit`: batches that are prepared while others are trained on.

    shapes: (shape without the batch's axis, dtype) of each array of a batch.
    Keras makes a tensorflow.data pipeline of a generator, and that tunes itself in a thread.
    The end of each epoch waits for it: up to 2 s, half the time of a trial of the custom CNN.
    """
    if keras.backend.backend() != "tensorflow":
        return batches()
    import tensorflow

    signature = tuple(tensorflow.TensorSpec((None, *shape), kind) for shape, kind in shapes)
    dataset = tensorflow.data.Dataset.from_generator(batches, output_signature=signature)
    options = tensorflow.data.Options()
    options.autotune.enabled = False
    return dataset.prefetch(2).with_options(options)


_programs: dict[Callable[..., Any], Callable[..., Any]] = {}
"""The functions that `fused` compiled since `compile_apart` was last called."""


def compile_apart(
    function: Callable[..., Any], *kinds: tuple[tuple[int | None, ...], str]
) -> Callable[..., Any]:
    """Compile a pure `function` of arrays apart from all models.

    kinds: their shapes (None: any size) and dtypes, which TensorFlow needs.
    TensorFlow compiles the programs within a tf.function anew after each
    `keras.utils.clear_session`, and keeps those before: 0.6 s and 5 MB for the augmentation; within
    a model, half a second and 2.4 MB for each model. So it has a TensorFlow session of its own,
    which runs on the processor and is freed with the returned callable, if no trace within remains:
    35 MB.
    """
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow

    _programs.clear()
    gc.collect()  # a session that is out of use
    specs = [tensorflow.TensorSpec(shape, dtype) for shape, dtype in kinds]
    traced = tensorflow.function(function, autograph=False).get_concrete_function(*specs)
    with tensorflow.Graph().as_default() as graph, tensorflow.device("CPU"):
        inputs = [tensorflow.compat.v1.placeholder(spec.dtype, spec.shape) for spec in specs]
        results = traced(*inputs)
    call: Callable[..., Any] = tensorflow.compat.v1.Session(graph=graph).make_callable(
        results, inputs
    )
    return call


def fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile `function` on its own by XLA on TensorFlow, which runs a fit on a CPU without it.

    One program for all functions would be slower: XLA then computes a pixel anew for each pixel
    that reads it.
    """

    @wraps(function)
    def call(*arguments: Any) -> Any:
        if keras.backend.backend() != "tensorflow":
            return function(*arguments)
        import tensorflow

        if function not in _programs:
            _programs[function] = tensorflow.function(function, jit_compile=True, autograph=False)
        return _programs[function](*arguments)

    return call
