"""What a folder of weights is, by all its bytes, and what this version cannot read."""

import json
from dataclasses import replace

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from f2jax.checkpoints import workdir
from f2jax.config import load
from f2jax.errors import UserError
from f2jax.model.sizes import Qwen3Config, size
from tests import tiny_model


def test_the_identity_of_weights_tells_every_number_name_shape_and_type():
    weights = {("layers", "up"): np.arange(24, dtype=np.float32).reshape(2, 3, 4), ("norm",): np.ones(4, np.float32)}
    others = [weights]
    for index in np.ndindex(2, 3, 4):
        changed = weights[("layers", "up")].copy()
        changed[index] = np.nextafter(changed[index], np.float32(99))
        others.append(weights | {("layers", "up"): changed})
    others.append(weights | {("layers", "up"): weights[("layers", "up")][::-1]})
    others.append(weights | {("layers", "up"): weights[("layers", "up")].reshape(2, 4, 3)})
    others.append(weights | {("norm",): np.ones(4, np.float16)})
    others.append({("layers", "up"): weights[("layers", "up")], ("other",): weights[("norm",)]})
    assert len({workdir.weights_fingerprint(other.items()) for other in others}) == len(others)
    assert workdir.weights_fingerprint(reversed(weights.items())) == workdir.weights_fingerprint(weights.items())


def test_a_model_has_one_identity_as_a_workdir_a_package_and_in_memory(tmp_path):
    """And another one with a single number of its token table changed, which no hash of a norm would see."""
    embedder = tiny_model.make_embedder(tmp_path)
    tiny_model.write_workdir(tmp_path / "run", embedder)
    embedder.save_pretrained(tmp_path / "package")
    identity = workdir.model_fingerprint(tmp_path / "run")
    assert identity == workdir.model_fingerprint(tmp_path / "package")
    assert identity == workdir.weights_fingerprint(flatten_dict(embedder.params).items())
    (weights,) = (tmp_path / "package").glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    assert identity != workdir.model_fingerprint(tmp_path / "package")


@pytest.mark.parametrize(
    "change,message",
    [
        ({"field_of_tomorrow": 1}, "field_of_tomorrow, which this version of f2jax does not know"),
        ({"width": None}, "width"),
    ],
    ids=["one more", "one fewer"],
)
def test_an_architecture_of_another_version_is_one_sentence(tmp_path, change, message):
    tiny_model.write_workdir(tmp_path / "run", tiny_model.make_embedder(tmp_path))
    path = tmp_path / "run/model.json"
    fields = json.loads(path.read_text()) | change
    path.write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))
    with pytest.raises(UserError, match=rf"model\.json .*{message}"):
        workdir.read_architecture(tmp_path / "run")


def test_a_run_and_a_step_are_told_apart_by_a_number():
    assert workdir.split_step("runs/a@12") == ("runs/a", 12)
    assert workdir.split_step("gs://b/me@home/run") == ("gs://b/me@home/run", None)
    assert workdir.split_step("runs/a") == ("runs/a", None)


def test_fields_of_a_config_change_the_shape_of_its_size(tmp_path):
    model = load("common", ["--config.model.size=tiny"]).model
    assert workdir.architecture_of(model) == size("tiny")
    model.update(width=96, mlp=128, layers=5, heads=6, kv_heads=3, head_dim=16, vocab=700)
    wanted = Qwen3Config(96, 128, 5, 6, 3, head_dim=16, vocab_size=700, max_length=512)
    assert workdir.architecture_of(model) == wanted

    workdir.write_architecture(tmp_path, wanted)
    model.update(size=str(tmp_path), width=0, mlp=0, layers=0, heads=0, kv_heads=0, head_dim=0, vocab=0)
    assert workdir.architecture_of(model) == wanted
    model.layers = 2
    assert workdir.architecture_of(model) == replace(wanted, layers=2)
    model.width = -8
    with pytest.raises(UserError, match="width=-8 is out of range"):
        workdir.architecture_of(model)
