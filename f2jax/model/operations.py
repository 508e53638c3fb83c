"""Counts the floating-point operations of a model, the numerator of MFU, for plans and for the metrics of a run."""

from f2jax.model.sizes import Qwen3Config


def model_operations(architecture: Qwen3Config, tokens: float, length: float, passes: int) -> float:
    """Returns the operations that a model needs for `tokens` tokens in texts of `length`.

    These are 2 for each token and weight outside the token table, plus the causal half of the two products in attention
    (PaLM, https://arxiv.org/abs/2204.02311, appendix B).

    Args:
        length: tokens of a text; for texts of different lengths, mean square / mean counts attention exactly.
        passes: 1 for a forward pass, 3 for training; recomputation does not count.
    """
    weights = architecture.parameters - architecture.vocab_size * (architecture.table_rank or architecture.width)
    attention = 2 * architecture.layers * length * architecture.heads * architecture.head_dim
    return passes * tokens * (2 * weights + attention)


def step_operations(student: Qwen3Config, teacher: Qwen3Config | None, tokens: float, length: float) -> float:
    """Returns the operations of a training step, including the forward pass of a teacher model.

    Frozen weights, and columns of the token table that a step does not use, count like all others.
    """
    operations = model_operations(student, tokens, length, passes=3)
    return operations + (model_operations(teacher, tokens, length, passes=1) if teacher else 0.0)
