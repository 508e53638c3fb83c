"""Anything at all in a config, a file of a package, a row or an array is taken, or refused in a sentence."""

import json
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from f2jax import config
from f2jax.cli import main
from f2jax.config import check, fields, load
from f2jax.errors import UserError
from f2jax.inference.embedder import Embedder
from tests.faults.test_model_folders import PACKAGE

ONE_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
NUMBERS = st.integers() | st.floats() | st.sampled_from([0, -1, 2**31, 2**63, 1e308])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = sorted(fields(load("common")))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(FIELDS), NUMBERS.map(repr) | JSON.map(repr) | st.text(max_size=12))
def test_any_value_of_any_field_of_a_config(field, value):
    with suppress(UserError):
        check(load("common", [f"--config.{field}={value}"]))


@ONE_FOLDER
@given(st.text(max_size=20), st.text(max_size=8))
def test_any_name_of_a_config(name, value):
    with suppress(UserError):
        config.load(f"{name}:{value}")


@ONE_FOLDER
@given(name=st.sampled_from([name for name in PACKAGE if name != "tokenizer.json"]), data=st.data())
def test_any_value_in_any_file_of_a_package(inputs, name, data):
    path = inputs / "model" / name
    before = path.read_text()
    content = json.loads(before)
    if isinstance(content, dict):
        key = data.draw(st.sampled_from(sorted(content)) | st.text(max_size=8))
        content[key] = data.draw(JSON)
    else:
        content = data.draw(JSON)
    path.write_text(json.dumps(content))
    try:
        with suppress(UserError):
            assert np.isfinite(Embedder.from_pretrained("model").encode(["a red river"])).all()
    finally:
        path.write_text(before)


@ONE_FOLDER
@given(rows=st.lists(st.dictionaries(st.sampled_from(["query", "positive", "negatives", "label", "kind"]), JSON)))
def test_any_rows(inputs, run, rows):
    (inputs / "any.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run("mine", "--input", "any.jsonl", "--list-queries", "queries.jsonl", "--only", "retrieval")


@ONE_FOLDER
@given(
    arrays.arrays(
        st.one_of(arrays.floating_dtypes(), arrays.integer_dtypes(), arrays.boolean_dtypes()),
        arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
    )
)
def test_any_vectors(inputs, array):
    np.save(inputs / "any.npy", array)
    np.save(inputs / "one.npy", np.ones((1, array.shape[-1] if array.ndim else 1), np.float32))
    assert main(["search", "--vectors", "any.npy", "--queries", "one.npy", "--k", "1"]) in (0, 1)


@pytest.mark.parametrize("command", ["train", "encode", "search", "mine", "prepare", "report"])
@ONE_FOLDER
@given(
    words=st.lists(st.text(max_size=6) | st.sampled_from(["--output", "--model", "--k", "-1", "--input"]), max_size=4)
)
def test_any_arguments(inputs, command, words):
    with suppress(SystemExit):
        assert main([command, *words, "--no-such-option"]) == 1
