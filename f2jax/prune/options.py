"""What `f2jax prune` is told: the smaller shape, how importance is measured, and what is kept."""

from dataclasses import dataclass, field
from typing import Literal

from f2jax.errors import check_choices

Rule = Literal["importance", "first", "random"]


@dataclass(frozen=True)
class Calibration:
    """Calibration: the texts that importance is measured on."""

    data: tuple[str, ...] = ()  # files, globs, folders or built-in sets of rows; (): nothing is measured
    samples: int = 1024  # number of texts, drawn evenly from all sources (Minitron's number)
    max_length: int = 1024  # tokens of a text, where the model's context is not shorter
    seed: int = 0  # seed of the draw, and of random choices


@dataclass(frozen=True)
class Scoring:
    """Importance: how activations become scores; the defaults are Minitron's (the reference's are unknown, recipe 1).

    Raises:
        UserError: unknown name.
    """

    # over the tokens of a text: mean of |x|, l2 (root of the mean square), or variance
    token_score: Literal["mean", "l2", "variance"] = "mean"
    text_score: Literal["l2", "mean", "variance"] = "l2"  # over the texts
    # where channels are measured: norms (RMSNorm outputs before attention and MLP), stream (residual), final (output)
    measure: Literal["norms", "stream", "final"] = "norms"

    def __post_init__(self):
        check_choices(self)


@dataclass(frozen=True)
class ChannelChoice:
    """Choice: what is kept.

    Raises:
        UserError: unknown name.
    """

    channels: Rule = "importance"  # channels of the width: by score, the first (as Matryoshka orders them), or random
    neurons: Rule = "importance"  # neurons of the MLP
    order: Literal["original", "importance"] = "original"  # order of kept channels: as they were, or best first
    # the first layers (as the reference, recipe 1), evenly spaced ones, those that change the norm most, random ones
    layers_by: Literal["first", "even", "norm_change", "random"] = "first"
    keep_layers: tuple[int, ...] = ()  # these layers, counted from 0, instead: 0 2 5 or 0,2,5
    seed: int = 0  # seed of random choices

    def __post_init__(self):
        check_choices(self)


@dataclass(frozen=True)
class PruneOptions:
    """Shape: a known size, or any of width, mlp and layers; 0 leaves an axis as it is."""

    size: str = ""  # 330m, 160m, 80m, or another name in f2jax/model/sizes.py
    width: int = 0  # hidden size, which is the dimension of the embeddings
    mlp: int = 0  # inner size of the MLP
    layers: int = 0  # number of layers
    rescale: bool = True  # scale the RMSNorms to make up for the channels that go; the reference seems not to
    trim_vocab: tuple[str, ...] = ()  # sources whose tokens stay in the token table; (): all tokens stay
    calibration: Calibration = field(default_factory=Calibration)
    scoring: Scoring = field(default_factory=Scoring)
    choice: ChannelChoice = field(default_factory=ChannelChoice)
