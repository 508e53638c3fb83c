"""The options of `f2jax prune`: the smaller shape, how importance is measured, and what is kept."""

from dataclasses import dataclass, field
from typing import Literal

from f2jax.errors import check_choices

Rule = Literal["importance", "first", "random"]


@dataclass(frozen=True)
class Calibration:
    """Calibration: the texts that importance is measured on."""

    # files, globs, folders or built-in sets with rows; (): measure nothing
    data: tuple[str, ...] = field(default=(), metadata={"option": "input", "formerly": "data"})
    samples: int = 1024  # number of texts, drawn evenly from all sources; the default is Minitron's
    max_length: int = 1024  # tokens to read of each text, at most as many as the model can
    seed: int = 0  # seed for drawing texts, and for random choices


@dataclass(frozen=True)
class Scoring:
    """Importance: how activations become scores. The defaults are Minitron's; the reference's are unknown (recipe 1).

    Raises:
        UserError: unknown name.
    """

    # how the tokens of a text are combined: mean of |x|, l2 (root mean square), or variance
    token_score: Literal["mean", "l2", "variance"] = "mean"
    text_score: Literal["l2", "mean", "variance"] = "l2"  # how the texts are combined
    # where channels are measured: norms (RMSNorm outputs before attention and MLP), stream (residual), final (output)
    measure: Literal["norms", "stream", "final"] = "norms"

    def __post_init__(self):
        check_choices(self)


@dataclass(frozen=True)
class ChannelChoice:
    """Choice: which parts are kept.

    Raises:
        UserError: unknown name.
    """

    channels: Rule = "importance"  # which channels to keep: by importance, the first (as Matryoshka), or random
    neurons: Rule = "importance"  # which neurons of the MLP to keep
    order: Literal["original", "importance"] = "original"  # order of the kept channels: as they were, or the best first
    # which layers to keep: the first (as in the reference, recipe 1), evenly spaced ones, those that change the norm
    # most, or random ones
    layers_by: Literal["first", "even", "norm_change", "random"] = "first"
    keep_layers: tuple[int, ...] = ()  # keep exactly these layers, counted from 0: 0 2 5 or 0,2,5
    seed: int = 0  # seed for random choices

    def __post_init__(self):
        check_choices(self)


@dataclass(frozen=True)
class PruneOptions:
    """Shape: a known size, or any of width, MLP and layers; 0 leaves one as it is."""

    size: str = ""  # 330m, 160m, 80m, or another size of f2jax/model/sizes.py
    width: int = 0  # hidden size, which is also the number of embedding dimensions
    mlp: int = 0  # inner size of the MLP
    layers: int = 0  # number of layers
    rescale: bool = True  # rescale the RMSNorms to make up for removed channels, which the reference seems not to do
    trim_vocab: tuple[str, ...] = ()  # keep only the tokens that these sources use; (): keep all tokens
    calibration: Calibration = field(default_factory=Calibration)
    scoring: Scoring = field(default_factory=Scoring)
    choice: ChannelChoice = field(default_factory=ChannelChoice)
