"""The architecture of every model: the eight sizes of F2LLM-v2 (recipe 1), `nano` for the demo, `mini` for a first
multilingual model on a laptop, `tiny` for tests."""

from dataclasses import dataclass, replace

from f2jax.errors import UserError, did_you_mean

# No model exceeds these; a larger number means a damaged file, and would exhaust memory before anything is compared.
LARGEST = dict.fromkeys(("width", "mlp", "heads", "kv_heads", "head_dim", "vocab_size", "max_length"), 2**26)
LARGEST |= {"layers": 1_000}


@dataclass(frozen=True)
class Qwen3Config:
    """Architecture of a dense Qwen3 encoder: the fields of a Hugging Face `config.json` under f2jax's names."""

    width: int  # hidden size, and the dimension of embeddings (D)
    mlp: int  # inner size of the SwiGLU MLP (F)
    layers: int  # decoder layers (L)
    heads: int  # query heads (N)
    kv_heads: int  # key/value heads (K); divides heads
    head_dim: int = 128  # size of one head (H); need not be width / heads
    vocab_size: int = 151_936  # rows of the token table (V)
    rope_theta: float = 1e6  # base of the rotary angles
    rms_norm_eps: float = 1e-6  # inside every RMSNorm
    tie_word_embeddings: bool = True  # in the language model it came from; the encoder has no language-model head
    max_length: int = 40_960  # positions for which the rotary angles were trained
    table_rank: int = 0  # rank of a factorized token table (R); 0: not factorized

    def __post_init__(self):
        for name, largest in LARGEST.items():
            if not 1 <= getattr(self, name) <= largest:
                raise UserError(f"{name}={getattr(self, name)} is out of range; choose 1 to {largest}.")
        for name, bound in (("rope_theta", 1e12), ("rms_norm_eps", 1)):
            if not 0 < getattr(self, name) <= bound:
                raise UserError(f"{name}={getattr(self, name)} is out of range; it should be above 0, up to {bound:g}.")
        if self.heads % self.kv_heads:
            raise UserError(f"kv_heads={self.kv_heads} does not divide heads={self.heads}; choose a divisor.")
        if self.head_dim % 2:
            raise UserError(f"head_dim={self.head_dim} is odd; rotary embeddings need an even head_dim.")
        if not 0 <= self.table_rank <= self.width:
            raise UserError(f"table_rank={self.table_rank} is out of range; choose 0 to the width, {self.width}.")

    @property
    def parameters(self) -> int:
        """The exact number of parameters, without a language-model head (recipe 1)."""
        attention = self.width * self.head_dim * 2 * (self.heads + self.kv_heads) + 2 * self.head_dim
        block = attention + 3 * self.width * self.mlp + 2 * self.width
        return self.table_parameters + self.layers * block + self.width

    @property
    def table_parameters(self) -> int:
        """The number of parameters of the token table."""
        rank = self.table_rank
        return (self.vocab_size + self.width) * rank if rank else self.vocab_size * self.width


SIZES: dict[str, Qwen3Config] = {
    "tiny": Qwen3Config(64, 160, 2, 4, 2, head_dim=32, vocab_size=512, max_length=512),
    "nano": Qwen3Config(192, 512, 3, 3, 1, head_dim=64, vocab_size=8_192, rope_theta=1e4, max_length=512),
    "mini": Qwen3Config(256, 512, 2, 4, 2, head_dim=64, vocab_size=64_000, rope_theta=1e4, max_length=512),
    "80m": Qwen3Config(320, 2_048, 8, 16, 8),
    "160m": Qwen3Config(640, 1_536, 9, 16, 8),
    "330m": Qwen3Config(896, 2_560, 16, 16, 8),
    "0.6b": Qwen3Config(1_024, 3_072, 28, 16, 8),
    "1.7b": Qwen3Config(2_048, 6_144, 28, 16, 8),
    "4b": Qwen3Config(2_560, 9_728, 36, 32, 8),
    "8b": Qwen3Config(4_096, 12_288, 36, 32, 8, tie_word_embeddings=False),
    "14b": Qwen3Config(5_120, 17_408, 40, 40, 8, tie_word_embeddings=False),
}


def size(name: str, **changes) -> Qwen3Config:
    """Returns the architecture called `name`, with some fields changed.

    >>> size("80m").parameters
    80084288

    Raises:
        UserError: there is no such size.
    """
    if name not in SIZES:
        raise UserError(f"There is no model size '{name}'{did_you_mean(name, SIZES)}")
    return replace(SIZES[name], **changes)
