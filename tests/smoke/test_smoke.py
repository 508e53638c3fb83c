"""The smoke test of a second Python: all modules are imported, one step is trained, one text is encoded."""

import json
import pkgutil
from importlib import import_module

import numpy as np
import pytest

import f2jax
from f2jax import Embedder
from f2jax.train.loop import train
from tests import tiny

MODULES = sorted(module.name for module in pkgutil.walk_packages(f2jax.__path__, "f2jax."))


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_imported(name):
    if name.endswith("__main__"):
        pytest.skip("it runs the command")
    try:
        import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in ("mteb", "datasets", "apache_beam"):
            raise
        pytest.skip(f"needs {error.name}, which is large and left out of the smoke test's environment")


def test_a_step_is_trained_and_a_text_encoded(tmp_path):
    config = tiny.config(tmp_path, **{"steps": 1, "optim.warmup_steps": 0, "data.validation_share": 0})
    assert train(config, tmp_path / "run")["loss"] > 0
    (line,) = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 1
    vectors = Embedder.from_pretrained(tmp_path / "run").encode(["a red river", "", "日本語"])
    assert vectors.shape == (3, 64)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
