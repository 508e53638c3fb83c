"""The importance of channels, neurons and layers, from activations on a calibration set in one forward pass.

The method is Minitron's (https://arxiv.org/abs/2407.14679): each channel gets a score for each text, over its tokens,
and then one over all texts. The pass stores a few numbers per channel, whatever the number of texts.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from f2jax.errors import UserError
from f2jax.model.qwen3 import Qwen3
from f2jax.prune.options import Scoring

TOKENS = 2_048  # of one device batch


@dataclass(frozen=True)
class Importance:
    """The results of the calibration pass. Streams are the inputs of the RMSNorms before attention and MLP."""

    channels_ld: np.ndarray  # score of each channel of the width in each layer; a single row where it has no layers
    neurons_lf: np.ndarray  # score of each neuron of the MLP
    attention_energy_ld: np.ndarray  # mean square of each channel of the stream
    mlp_energy_ld: np.ndarray
    final_energy_d: np.ndarray

    @property
    def norm_change_l(self) -> np.ndarray:
        """The relative change of the norm of the stream by each layer."""
        norm_l = np.sqrt([*self.attention_energy_ld.sum(axis=1), self.final_energy_d.sum()])
        return np.abs(np.diff(norm_l)) / norm_l[:-1]


class _Running:
    """Accumulates mean and mean square over sequences, in float64."""

    def __init__(self):
        self.count = 0
        self.total = self.squares = np.zeros(())

    def add(self, x_s) -> None:
        """Adds an array whose first axis runs over sequences."""
        x_s = np.asarray(x_s, np.float64)
        self.count += len(x_s)
        self.total = self.total + x_s.sum(axis=0)
        self.squares = self.squares + np.square(x_s).sum(axis=0)

    def result(self, score: str) -> np.ndarray:
        mean, square = self.total / self.count, self.squares / self.count
        return {"mean": mean, "l2": np.sqrt(square), "variance": np.maximum(square - mean**2, 0)}[score]


def token_score(moments_bf3, score: str):
    """Returns the scores of texts from `qwen3.channel_moments`, whose axis of moments is the one before the last."""
    size, mean, square = (moments_bf3[..., i, :] for i in range(3))
    return {"mean": size, "l2": np.sqrt(square), "variance": np.maximum(square - mean**2, 0)}[score]


def calibrate(
    model: Qwen3, params, sequences: Sequence[np.ndarray], scoring: Scoring, progress: Callable = lambda done: None
) -> Importance:
    """Runs the texts through the model once, and scores its channels and neurons.

    Args:
        sequences: int32 token ids of each text.
        progress: called after each batch with its number of texts.

    Raises:
        UserError: there are no texts.
    """
    if not sequences:
        raise UserError("There are no calibration texts; name other sources with --input.")

    @jax.jit
    def observe(params, tokens_bt, segments_bt, positions_bt):
        return model.apply({"params": params}, tokens_bt, segments_bt, positions_bt, mutable=["moments"])[1]["moments"]

    measured = {
        "norms": ("layers/attention_input", "layers/mlp_input"),
        "stream": ("layers/attention_stream", "layers/mlp_stream"),
        "final": ("final_output",),
    }[scoring.measure]
    streams = ("layers/attention_stream", "layers/mlp_stream", "final_stream")
    scores = {name: _Running() for name in (*measured, "layers/mlp_inner")}
    energies = {name: _Running() for name in streams}
    for batch in _batches(sequences):
        count = len(batch)
        moments = flatten_dict(jax.device_get(observe(params, *_pad(batch))), sep="/")
        moments = {k: np.moveaxis(v, 1, 0) if k.startswith("layers/") else v for k, v in moments.items()}  # texts first
        for name, running in scores.items():
            running.add(token_score(moments[name][:count], scoring.token_score))
        for name, running in energies.items():
            running.add(moments[name][:count, ..., 2, :])
        progress(count)
    channels_ld = np.sum([np.atleast_2d(scores[name].result(scoring.text_score)) for name in measured], axis=0)
    neurons_lf = scores["layers/mlp_inner"].result(scoring.text_score)
    return Importance(channels_ld, neurons_lf, *(energies[name].result("mean") for name in streams))


def _batches(sequences: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Yields texts of similar length together, longest first."""
    order = sorted(sequences, key=len, reverse=True)
    while order:
        count = max(1, TOKENS // _power_of_two(len(order[0])))
        yield order[:count]
        order = order[count:]


def _pad(batch: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns tokens, segments and positions with a text per row, padded to one of a few shapes with empty rows."""
    length = _power_of_two(len(batch[0]))
    shape = (max(1, TOKENS // length), length)
    tokens_bt, segments_bt = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    for b, ids in enumerate(batch):
        tokens_bt[b, : len(ids)], segments_bt[b, : len(ids)] = ids, 1
    return tokens_bt, segments_bt, np.broadcast_to(np.arange(length, dtype=np.int32), shape)


def _power_of_two(n: int) -> int:
    return max(16, 1 << (n - 1).bit_length())
