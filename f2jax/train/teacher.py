"""The teacher of a distillation: a frozen, larger model that embeds the same tokens (recipe 2.5)."""

import jax.numpy as jnp

from f2jax.data.vectors import read_card
from f2jax.errors import UserError
from f2jax.model.qwen3 import Qwen3
from f2jax.parallel.rules import param_shardings
from f2jax.train import workdir
from f2jax.train.step import Teacher


def load_teacher(config, student_width: int, vocab_size: int, mesh) -> Teacher | None:
    """The teacher that `config.teacher.path` names, sharded like a student; None where none is set, or one is cached.

    Raises:
        UserError: it cannot be loaded, is narrower than the student (cached, too), or has another token table.
    """
    if config.teacher.cache:
        if config.teacher.path:
            raise UserError("Give either teacher.path or teacher.cache; the cache is in the place of the model.")
        _check_width(config.teacher.cache, read_card(config.teacher.cache).width, student_width)
        return None
    if not config.teacher.path:
        return None
    dtype = jnp.dtype(config.teacher.dtype)
    shape, params = workdir.load_weights(
        config.teacher.path, dtype, shardings=lambda architecture: param_shardings(architecture, mesh)
    )
    _check_width(config.teacher.path, shape.width, student_width)
    if shape.vocab_size != vocab_size:
        raise UserError(
            f"The teacher {config.teacher.path} has a token table of {shape.vocab_size} rows and the student of "
            f"{vocab_size}; both must use one tokenizer."
        )
    model = Qwen3(shape, dtype=dtype, param_dtype=dtype, kernel=config.model.kernel)
    return Teacher(params, model)


def _check_width(teacher: str, width: int, student_width: int) -> None:
    if width < student_width:
        raise UserError(
            f"The teacher {teacher} has {width} dimensions, fewer than the student's {student_width}; take a "
            "teacher at least as wide."
        )
