"""The teacher that a config names: one whose vectors would not be those that it is trained for is refused."""

import json

import pytest

from f2jax.data.teacher_vectors import TeacherVectorsInfo, begin
from f2jax.errors import UserError
from f2jax.model.sizes import size
from f2jax.train.teacher import open_teacher
from tests import tiny, tiny_model


def test_a_teacher_that_pools_in_another_way_is_refused(tmp_path):
    tiny_model.make_embedder(tmp_path / "tokenizer").save_pretrained(tmp_path / "teacher")
    config = tiny.config(tmp_path, **{"teacher.path": str(tmp_path / "teacher")})
    assert open_teacher(config, size("tiny")).width == 64
    (tmp_path / "teacher/1_Pooling/config.json").write_text(json.dumps({"pooling_mode": "mean"}))
    with pytest.raises(UserError, match="teacher pools by mean"):
        open_teacher(config, size("tiny"))


def test_raw_states_are_not_held_to_unit_vectors(tmp_path):
    """The student's states have lengths of their own; the cosine and the scores ignore them."""
    for unit in (False, True):
        begin(tmp_path / str(unit), TeacherVectorsInfo("another tool", 64, "float32", unit=unit))
    for unit, loss in (("False", {}), ("True", {"loss.distill": "cosine"}), ("True", {"loss.distill_weight": 0})):
        config = tiny.config(tmp_path, **{"teacher.cache": str(tmp_path / unit)}, **loss)
        assert open_teacher(config, size("tiny")).width == 64
    config = tiny.config(tmp_path, **{"teacher.cache": str(tmp_path / "True")})
    with pytest.raises(UserError, match=r"gives them length 1, and loss.distill=mse compares raw states; set loss"):
        open_teacher(config, size("tiny"))
