"""The teacher in distillation: a frozen, larger model that embeds the same tokens (recipe 2.5)."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from f2jax.checkpoints import package, workdir
from f2jax.checkpoints.workdir import StoredModel, tokenizer_folder
from f2jax.data.teacher_vectors import read_info
from f2jax.data.tokenizer import Tokenizer, load_tokenizer
from f2jax.errors import UserError
from f2jax.model.qwen3 import Qwen3, abstract_params
from f2jax.model.sizes import Qwen3Config
from f2jax.parallel.sharding import param_shardings
from f2jax.train.step import Teacher

TEACHER = "the teacher's weights"  # their name among the fingerprints of a run


@dataclass(frozen=True)
class TeacherFolder:
    """The teacher of a config: a model, cached vectors, or none."""

    name: str = ""  # as the config has it
    model: StoredModel | None = None  # None: vectors or none
    width: int = 0  # of its embeddings; 0: there is none

    def fingerprints(self) -> dict[str, str]:
        """Returns the hash of the model, by name, with which a run must continue. This reads all of its weights."""
        return {TEACHER: workdir.model_fingerprint(self.model)} if self.model else {}

    def load(self, config: ConfigDict, tokenizer: Tokenizer, mesh: Mesh) -> Teacher | None:
        """Returns the model, sharded like a student, or None if the teacher is not a model.

        Raises:
            UserError: it cannot be loaded, or has another tokenizer than the student.
        """
        if not self.model:
            return None
        if not load_tokenizer(tokenizer_folder(self.model.path)).gives_same_ids(tokenizer):
            raise UserError(
                f"The teacher {self.name} splits texts into other tokens than the student; take one with the student's "
                "tokenizer, or cache its vectors (f2jax cache-teacher --list-texts) and set teacher.cache."
            )
        dtype = jnp.dtype(config.teacher.dtype)
        architecture, params = workdir.load_weights(
            self.model, dtype, shardings=lambda architecture: param_shardings(abstract_params(architecture), mesh)
        )
        tokenizer.check_vocab(architecture.vocab_size)
        return Teacher(params, Qwen3(architecture, dtype=dtype, param_dtype=dtype, kernel=config.model.kernel))


def open_teacher(config: ConfigDict, student: Qwen3Config) -> TeacherFolder:
    """Returns the teacher of a run, without reading its weights.

    Raises:
        UserError: it cannot be found, two are given, or it does not match the student and the losses.
    """
    if config.teacher.cache and config.teacher.path:
        raise UserError("Give either teacher.path or teacher.cache; the cache replaces the model.")
    if config.teacher.cache:
        if config.loss.exits:
            raise UserError(
                "loss.exits needs the teacher's own exits and a cache has only its last layer; set teacher.path."
            )
        info = read_info(config.teacher.cache)
        if info.unit and config.loss.distill == "mse" and config.loss.distill_weight:
            raise UserError(
                f"The vectors in {config.teacher.cache} come from a teacher that gives them length 1, and "
                "loss.distill=mse compares raw states; set loss.distill=cosine."
            )
        teacher = TeacherFolder(config.teacher.cache, None, info.width)
    elif config.teacher.path:
        model = workdir.find_model(config.teacher.path)
        architecture = workdir.read_architecture(model.path)
        package.read_settings(model.path, architecture)  # refuses a model whose vectors are pooled in another way
        if config.loss.exits and architecture.layers < student.layers:
            raise UserError(
                f"The teacher {config.teacher.path} has {architecture.layers} layers and the student {student.layers}; "
                "with loss.exits, use one that is at least as deep."
            )
        teacher = TeacherFolder(config.teacher.path, model, architecture.width)
    elif config.loss.distill_projection:
        raise UserError("loss.distill_projection is on and there is no teacher; set teacher.path or teacher.cache.")
    else:
        return TeacherFolder()
    if teacher.width < student.width and not config.loss.distill_projection:
        raise UserError(
            f"The teacher {teacher.name} has {teacher.width} dimensions, fewer than the student's {student.width}; "
            "use one that is at least as wide, or set loss.distill_projection."
        )
    return teacher
