"""The weights of a model in the form of its parameter tree, and in the form that encodes fastest on a CPU."""

import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from f2jax.checkpoints.hf import input_axes


class Weights:
    """Holds the weights of a model, and gives them in either form.

    In the parameter tree the weights of all layers are stacked. A CPU copies those of a layer out of the stack in every
    call, which takes longer than the products of a few texts; and it multiplies a few texts up to twice as fast by
    matrices whose contracted axes are the last ones. So they are converted when they are first used to encode, one name
    after the other, and the stack is dropped, so that the memory holds little more than one of both.
    """

    def __init__(self, params, dtype, mesh: Mesh | None = None):
        """Takes the parameter tree, the type in which the model computes, and the devices that share the weights.

        The tree may be empty, for a model that only lends its programs to others (`Embedder.with_weights`).
        """
        self._others = {name: x for name, x in params.items() if name != "layers"}
        self._stacked: dict[str, Any] = dict(params.get("layers", {}))
        self._names = list(self._stacked)
        self._apart: dict[str, list[jax.Array]] = {}  # for each name one array a layer
        self._dtype, self._lock = jnp.dtype(dtype), threading.Lock()
        self._converts = mesh is None and jax.default_backend() == "cpu"

    @property
    def tree(self) -> dict:
        """The parameter tree; a copy, if the layers have been converted."""
        with self._lock:
            return self._others | {"layers": {name: self._stack(name) for name in self._names}}

    @property
    def to_encode(self) -> dict:
        """The weights as `program.make_embed` reads them fastest on this platform."""
        if not self._converts:
            return self.tree
        with self._lock:
            for name in [name for name in self._names if name not in self._apart]:
                self._apart[name] = self._convert(name)
                if self._apart[name][0].dtype == self._stacked[name].dtype:
                    del self._stacked[name]
            layers = [dict(zip(self._apart, arrays, strict=True)) for arrays in zip(*self._apart.values(), strict=True)]
            return self._others | {"layers": layers}

    def _convert(self, name: str) -> list[jax.Array]:
        stack = self._stacked[name]
        if stack.ndim > 2:  # others are norms, which are computed in float32
            stack = stack.astype(self._dtype)
        first = range(input_axes((name,), stack.ndim - 1))
        last = [i - len(first) for i in first]
        return [jax.device_put(np.ascontiguousarray(np.moveaxis(x, first, last))) for x in np.asarray(stack)]

    def _stack(self, name: str):
        if name in self._stacked:
            return self._stacked[name]
        stack = np.stack(self._apart[name])
        first = range(1, 1 + input_axes((name,), stack.ndim - 1))
        return jnp.asarray(np.moveaxis(stack, [i - 1 - len(first) for i in first], first))
