"""Adam, AdamW and Lion that update all variables as one vector: far fewer operations for TensorFlow to trace."""

from typing import Any

import keras
import numpy as np
from keras import ops


class Fused:
    """Mixed into an element-wise Keras optimiser: gradients and variables are joined, updated once, and cut again.

    A backbone has some 170 variables, and Keras adds about twenty operations for each to the graph of a training step;
    joined, the first step takes less than half the time and a later one some 5 % more (`benchmarks/optimizers.py`), for
    the same numbers: what short trainings and searches gain. The optimiser's own state is one vector.
    """

    def build(self, variables: list[Any]) -> None:
        self.parts = list(variables)
        self.ends = np.cumsum([int(np.prod(variable.shape)) for variable in self.parts]).tolist()
        flat = keras.Variable(np.zeros(self.ends[-1], "float32"), name="joined")
        super().build([flat])  # type: ignore[misc]

    def apply(self, grads: list[Any], trainable_variables: list[Any] | None = None) -> None:
        if not self.built:  # type: ignore[attr-defined]
            self.build(trainable_variables or [])
        (flat,) = self._trainable_variables  # type: ignore[attr-defined]
        flat.assign(_join(self.parts))
        super().apply([_join(grads)], [flat])  # type: ignore[misc]
        for variable, piece in zip(self.parts, ops.split(flat, self.ends[:-1]), strict=True):
            variable.assign(ops.reshape(piece, variable.shape))


def _join(tensors: list[Any]) -> Any:
    return ops.concatenate([ops.reshape(tensor, (-1,)) for tensor in tensors])


class FusedAdam(Fused, keras.optimizers.Adam):
    """`keras.optimizers.Adam`, joined."""


class FusedAdamW(Fused, keras.optimizers.AdamW):
    """`keras.optimizers.AdamW`, joined; the decay holds for all variables, as it does by default in Keras."""


class FusedLion(Fused, keras.optimizers.Lion):
    """`keras.optimizers.Lion`, joined."""


_PLAIN = {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW, "lion": keras.optimizers.Lion}
_FUSED = {"adam": FusedAdam, "adamw": FusedAdamW, "lion": FusedLion}


def get_optimizer(name: str, learning_rate: Any) -> keras.optimizers.Optimizer:
    """Return the optimiser `name`: joined on TensorFlow; as Keras has it on JAX, whose compiler joins by itself."""
    table = _FUSED if keras.backend.backend() == "tensorflow" else _PLAIN
    return table[name](learning_rate)
