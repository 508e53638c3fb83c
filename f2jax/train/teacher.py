"""The teacher of a distillation: a frozen, larger model that embeds the same tokens (recipe 2.5)."""

import jax.numpy as jnp

from f2jax.errors import UserError
from f2jax.model.qwen3 import Qwen3
from f2jax.parallel.rules import param_shardings
from f2jax.train import workdir
from f2jax.train.step import Teacher


def load_teacher(config, student_width: int, vocab_size: int, mesh) -> Teacher | None:
    """The teacher that `config.teacher.path` names, sharded like a student; None where no path is set.

    Raises:
        UserError: it cannot be loaded, is narrower than the student, or has another token table.
    """
    if not config.teacher.path:
        return None
    dtype = jnp.dtype(config.teacher.dtype)
    shape, params = workdir.load_weights(
        config.teacher.path, dtype, shardings=lambda architecture: param_shardings(architecture, mesh)
    )
    if shape.width < student_width:
        raise UserError(
            f"The teacher {config.teacher.path} has {shape.width} dimensions, fewer than the student's "
            f"{student_width}; take a teacher at least as wide."
        )
    if shape.vocab_size != vocab_size:
        raise UserError(
            f"The teacher {config.teacher.path} has a token table of {shape.vocab_size} rows and the student of "
            f"{vocab_size}; both must use one tokenizer."
        )
    model = Qwen3(shape, dtype=dtype, param_dtype=dtype, kernel=config.model.kernel)
    return Teacher(params, model)
