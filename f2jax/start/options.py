"""What `f2jax start` is told: the shape of the student, and how its token table learns."""

from dataclasses import dataclass, field

from f2jax.errors import UserError


@dataclass(frozen=True)
class BagOptions:
    """How the token table learns.

    Raises:
        UserError: a value is out of range.
    """

    steps: int = 3_000  # optimizer steps of the token table
    batch_size: int = 512  # texts of a step
    max_length: int = 128  # tokens of a text that are read; the end token does not count
    peak_lr: float = 2e-2  # after a warm-up of a tenth of the steps; it then falls to 0 as a cosine
    cosine_weight: float = 5.0  # weight of 1 - cosine to the teacher's vector
    scores_weight: float = 1.0  # weight of the KL divergence from the teacher's in-batch scores
    nested_weight: float = 0.2  # weight of both at a half and a quarter of the width; 0: the full width alone
    temperature: float = 0.05  # temperature of the softmaxes over the student's and the teacher's scores
    seed: int = 0  # seed of the first table and of the order of the texts

    def __post_init__(self):
        for name in ("steps", "batch_size", "max_length"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} should be at least 1.")
        for name in ("peak_lr", "temperature"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name}={getattr(self, name)} should be above 0.")


@dataclass(frozen=True)
class StartOptions:
    """The student."""

    size: str = "mini"  # a name in f2jax/model/sizes.py; its vocabulary becomes that of the corpus
    # maximum number of texts that are sampled from the corpus
    max_texts: int = field(default=1_000_000, metadata={"option": "texts"})
    bag: BagOptions = field(default_factory=BagOptions)
