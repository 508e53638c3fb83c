"""The teacher of a distillation: a frozen, larger model that embeds the same tokens (recipe 2.5)."""

import jax.numpy as jnp

from f2jax import files
from f2jax.checkpoints import workdir
from f2jax.checkpoints.workdir import tokenizer_folder
from f2jax.data.teacher_vectors import read_info
from f2jax.data.tokenizer import Tokenizer, load_tokenizer
from f2jax.errors import UserError
from f2jax.model.qwen3 import Qwen3, abstract_params
from f2jax.parallel.sharding import param_shardings
from f2jax.train.step import Teacher


def teacher_width(config) -> int:
    """Dimensions of the teacher, online or cached; 0 where there is none.

    Raises:
        UserError: it cannot be found, both kinds are named, exits are to be distilled from a cache, or a projection on
            it is to be trained and there is none.
    """
    if config.teacher.cache and config.teacher.path:
        raise UserError("Give either teacher.path or teacher.cache; the cache is in the place of the model.")
    if config.teacher.cache and config.loss.exits:
        raise UserError(
            "loss.exits needs the teacher's own exits and a cache has its last layer alone; set teacher.path."
        )
    if config.teacher.cache:
        return read_info(config.teacher.cache).width
    if config.teacher.path:
        return workdir.read_architecture(files.resolve_model(config.teacher.path)).width
    if config.loss.distill_projection:
        raise UserError("loss.distill_projection is on and there is no teacher; set teacher.path or teacher.cache.")
    return 0


def teacher_fingerprints(config) -> dict[str, str]:
    """Which model teaches, wherever it lies: a run may not go on with another one."""
    path = config.teacher.path
    return {"the teacher": workdir.weights_fingerprint(files.resolve_model(path))} if path else {}


def load_teacher(config, student_width: int, tokenizer: Tokenizer, mesh) -> Teacher | None:
    """The teacher that `config.teacher.path` names, sharded like a student; None where none is set, or one is cached.

    Raises:
        UserError: it cannot be loaded, has another tokenizer, is narrower than the student without a projection, or has
            too few layers for its exits.
    """
    width = teacher_width(config)
    if width and width < student_width and not config.loss.distill_projection:
        raise UserError(
            f"The teacher {config.teacher.cache or config.teacher.path} has {width} dimensions, fewer than the "
            f"student's {student_width}; take one at least as wide, or set loss.distill_projection."
        )
    if not config.teacher.path:
        return None
    path = files.resolve_model(config.teacher.path)
    if not load_tokenizer(tokenizer_folder(path)).reads_like(tokenizer):
        raise UserError(
            f"The teacher {config.teacher.path} reads texts as other tokens than the student; take one with the "
            "student's tokenizer, or cache its vectors (f2jax cache_teacher --list-texts) and set teacher.cache."
        )
    dtype = jnp.dtype(config.teacher.dtype)
    shape, params = workdir.load_weights(
        path, dtype, shardings=lambda architecture: param_shardings(abstract_params(architecture), mesh)
    )
    tokenizer.check_vocab(shape.vocab_size)
    student_layers = workdir.architecture_of(config.model.size).layers
    if config.loss.exits and shape.layers < student_layers:
        raise UserError(
            f"The teacher {config.teacher.path} has {shape.layers} layers and the student {student_layers}; with "
            "loss.exits take one that is at least as deep."
        )
    model = Qwen3(shape, dtype=dtype, param_dtype=dtype, kernel=config.model.kernel)
    return Teacher(params, model)
