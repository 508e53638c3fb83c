"""The teacher that a config names: one whose vectors would not be those that it is trained for is refused."""

import json

import pytest

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
