"""The options of `f2jax start`: the shape of the student, and how its token table is trained."""

from dataclasses import dataclass, field

from f2jax.errors import UserError


@dataclass(frozen=True)
class BagOptions:
    """Training of the token table.

    Raises:
        UserError: a value is out of range.
    """

    steps: int = 3_000  # optimizer steps of the token table
    batch_size: int = 512  # texts in each step
    max_length: int = 128  # tokens to read of each text, without the end token
    peak_lr: float = 2e-2  # peak learning rate, after a tenth of the steps; it then falls to 0 along a cosine
    cosine_weight: float = 5.0  # weight of 1 - cosine to the teacher's vector
    scores_weight: float = 1.0  # weight of the KL divergence from the teacher's in-batch scores
    nested_weight: float = 0.2  # weight of both terms at a half and a quarter of the width; 0: only the full width
    temperature: float = 0.05  # temperature of the softmaxes over the scores of student and teacher
    seed: int = 0  # seed for the initial table and the order of the texts

    def __post_init__(self):
        for name in ("steps", "batch_size", "max_length"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} should be at least 1.")
        for name in ("peak_lr", "temperature"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name}={getattr(self, name)} should be above 0.")


@dataclass(frozen=True)
class StartOptions:
    """The student.

    Raises:
        UserError: no texts are to be sampled.
    """

    size: str = "mini"  # a size of f2jax/model/sizes.py; the vocabulary is that of the corpus
    width: int = 0  # hidden size and dimension of the embeddings; 0: that of the size
    layers: int = 0  # number of layers; 0: that of the size
    # largest number of texts to sample from the corpus
    max_texts: int = field(default=1_000_000, metadata={"option": "texts"})
    bag: BagOptions = field(default_factory=BagOptions)

    def __post_init__(self):
        if self.max_texts < 1:
            raise UserError(f"--texts {self.max_texts} should be at least 1.")
