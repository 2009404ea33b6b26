"""Each workaround is still needed, and what it binds of Keras is still there."""

import gc
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
from keras.src.optimizers.base_optimizer import BaseOptimizer
from keras.src.trainers.data_adapters.generator_data_adapter import GeneratorDataAdapter

from competition.common.tensorflow_workarounds import (
    UPDATES,
    Batch,
    compile_apart,
    fuse_batch_norm,
    fused,
    stream,
    update_without_strategy,
)

on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="about TensorFlow alone"
)
SHAPES: list[Any] = [((4,), np.float32), ((3,), np.float32)]


def draw() -> Iterator[Batch]:
    for number in range(5):
        yield np.full((2, 4), number, np.float32), np.eye(3, dtype=np.float32)[:2]


def make_model(optimizer: keras.optimizers.Optimizer) -> keras.Model:
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(3, "softmax")(inputs))
    model.compile(optimizer, "categorical_crossentropy")
    return model


def fit_once(prepare: Callable[[keras.optimizers.Optimizer], None]) -> None:
    optimizer = keras.optimizers.AdamW()
    prepare(optimizer)
    make_model(optimizer).fit(*next(draw()), verbose=0)


def count_graphs() -> int:
    gc.collect()
    known = [item for item in gc.get_objects() if type(item).__name__ == "FuncGraph"]
    return sum(graph.name == "one_step_on_data" for graph in known)


@on_tensorflow
def test_keras_own_update_still_leaves_its_graph_in_memory_and_ours_does_not() -> None:
    before = count_graphs()
    fit_once(lambda optimizer: update_without_strategy(optimizer, {}))
    assert count_graphs() == before
    fit_once(lambda optimizer: None)
    assert count_graphs() > before, "Keras' update leaves nothing behind: UPDATES can go."


def test_what_is_bound_of_keras_optimisers_is_still_theirs() -> None:
    for name in UPDATES:
        assert callable(getattr(BaseOptimizer, name))
        if keras.backend.backend() == "tensorflow":
            assert getattr(keras.optimizers.AdamW, name) is not getattr(BaseOptimizer, name)


def test_an_update_takes_the_rate_times_the_factor_of_its_variable() -> None:
    optimizer = keras.optimizers.Lion(0.1)
    fast, slow = (keras.Variable(np.ones(2, np.float32), name=name) for name in ("fast", "slow"))
    update_without_strategy(optimizer, {slow.path: 0.25})
    optimizer.apply([keras.ops.ones(2), keras.ops.ones(2)], [fast, slow])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(fast), 1 - 0.1, rtol=1e-6)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(slow), 1 - 0.025, rtol=1e-6)


@on_tensorflow
def test_keras_own_pipeline_of_a_generator_still_tunes_itself_and_ours_does_not() -> None:
    own = GeneratorDataAdapter(draw()).get_tf_dataset()
    assert own.options().autotune.enabled is not False, "Keras tunes nothing: stream can go."
    ours = stream(draw, SHAPES)
    assert ours.options().autotune.enabled is False
    assert [int(images[0, 0]) for images, _ in ours] == [0, 1, 2, 3, 4]


@on_tensorflow
def test_batches_are_prepared_while_others_are_trained_on() -> None:
    drawn: list[int] = []

    def note() -> Iterator[Batch]:
        for number, batch in enumerate(draw()):
            drawn.append(number)
            yield batch

    batches = iter(stream(note, SHAPES))
    next(batches)
    deadline = time.monotonic() + 20
    while len(drawn) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(drawn) >= 3


def make_normalizing_model() -> keras.Model:
    inputs = keras.Input((5, 6, 3))
    inner = keras.Sequential([keras.Input((5, 6, 3)), keras.layers.BatchNormalization()])
    return keras.Model(inputs, inner(inputs))


@on_tensorflow
def test_fused_batch_norm_gives_the_same_outputs_gradients_and_statistics_as_keras_own() -> None:
    import tensorflow

    images = np.random.default_rng(0).normal(2.0, 3.0, (4, 5, 6, 3)).astype(np.float32)
    results = []
    for prepare in (fuse_batch_norm, lambda network: None):
        model = make_normalizing_model()
        prepare(model)
        with tensorflow.GradientTape() as tape:
            outputs = model(images, training=True)
            loss = tensorflow.reduce_sum(outputs**3)
        gradients = tape.gradient(loss, model.trainable_variables)
        results.append([outputs, *gradients, *model.variables, model(images, training=False)])
    for ours, own in zip(*results, strict=True):
        np.testing.assert_allclose(ours, own, rtol=1e-4, atol=1e-3)


@on_tensorflow
def test_batch_norm_that_keeps_its_statistics_is_left_as_keras_computes_it() -> None:
    model = make_normalizing_model()
    fuse_batch_norm(model)
    model.trainable = False
    images = np.full((4, 5, 6, 3), 7.0, np.float32)
    np.testing.assert_allclose(model(images, training=True), images / np.sqrt(1.001), rtol=1e-5)
    assert all(float(keras.ops.max(item)) == 0 for item in model.variables if "mean" in item.path)


@on_tensorflow
def test_keras_own_batch_norm_is_still_not_fused() -> None:
    import tensorflow

    def operations(model: keras.Model) -> set[str]:
        step = tensorflow.function(lambda images: model(images, training=True))
        graph = step.get_concrete_function(tensorflow.TensorSpec((4, 5, 6, 3))).graph
        return {operation.type for operation in graph.get_operations()}

    model = make_normalizing_model()
    assert "FusedBatchNormV3" not in operations(model), "fuse_batch_norm can go."
    fuse_batch_norm(model)
    assert "FusedBatchNormV3" in operations(model)


def many_operations(matrix: Any) -> Any:
    for number in range(300):
        matrix = matrix * 0.5 + number
    return matrix


def seconds_of(function: Callable[..., Any]) -> float:
    started = time.perf_counter()
    function(np.eye(8, dtype=np.float32))
    return time.perf_counter() - started


def clear_and_time(function: Callable[..., Any]) -> float:
    keras.utils.clear_session()
    return seconds_of(function)


@on_tensorflow
def test_a_tf_function_is_still_compiled_anew_after_clear_session_and_ours_is_not() -> None:
    import tensorflow

    plain = tensorflow.function(fused(many_operations), autograph=False)
    ours = compile_apart(fused(many_operations), ((8, 8), "float32"))
    after_clearing = {}
    for function in (plain, ours):
        seconds_of(function)
        after_clearing[function] = min(clear_and_time(function) for _ in range(4))
    message = "It stays compiled: compile_apart can go."
    assert after_clearing[plain] > 5 * after_clearing[ours], message


@on_tensorflow
def test_a_program_out_of_use_is_freed_and_one_in_use_works_on() -> None:
    kind = (8, 8), "float32"
    first = compile_apart(fused(many_operations), kind)
    result = first(np.eye(8, dtype=np.float32))
    freed = weakref.ref(compile_apart(fused(lambda matrix: matrix + 1.0), kind))
    compile_apart(fused(lambda matrix: matrix + 2.0), kind)
    assert freed() is None
    np.testing.assert_array_equal(first(np.eye(8, dtype=np.float32)), result)
