"""Merging: exact against NumPy, by every way to name the models, and one weight in memory at a time."""

import json

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from f2jax import Embedder
from f2jax.checkpoints import hf, workdir
from f2jax.checkpoints.orbax import Checkpoints, TrainState
from f2jax.checkpoints.package import read_settings
from f2jax.checkpoints.workdir import StoredModel
from f2jax.cli import main
from f2jax.errors import UserError
from f2jax.model.sizes import size
from f2jax.release.merge import merge_models, shares, slerp, sources
from tests import tiny_model

STEPS = {1000: 0.5, 7500: 1.0, 8000: -2.0, 10_000: 3.0}  # step: what the weights of that checkpoint are multiplied by


@pytest.fixture(scope="module")
def embedder(tmp_path_factory) -> Embedder:
    return tiny_model.make_embedder(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def run(embedder, tmp_path_factory):
    """A workdir with four checkpoints, after the one of step 1 that `write_workdir` makes."""
    folder = tmp_path_factory.mktemp("merge") / "run"
    tiny_model.write_workdir(folder, embedder)
    config = json.loads((folder / "config.json").read_text())
    config["checkpoint"] |= {"tail_steps": 2500, "tail_every": 500}
    (folder / "config.json").write_text(json.dumps(config))
    with Checkpoints(folder, type("Config", (), config["checkpoint"] | {"keep_last": 9}), steps=10_000) as checkpoints:
        for step, factor in STEPS.items():
            params = jax.tree.map(lambda x, factor=factor: x * factor, embedder.params)
            checkpoints.save(TrainState(np.int32(step), params, None))
    return folder


@pytest.fixture(scope="module")
def folders(embedder, tmp_path_factory) -> list[str]:
    """Three packages with weights that have nothing to do with each other."""
    found, rng = [], np.random.default_rng(1)
    for i in range(3):
        params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), embedder.params)
        path = tmp_path_factory.mktemp("model") / str(i)
        Embedder(embedder.architecture, params, embedder.tokenizer, embedder.settings).save_pretrained(path)
        found.append(str(path))
    return found


def weights(folder) -> dict:
    return {name: np.asarray(x) for name, x in flatten_dict(hf.load_hf(folder)[1], sep="/").items()}


def merged(folders, output, **options) -> dict:
    merge_models(sources(folders), output, **options)
    return weights(output)


@pytest.mark.parametrize(
    "options,expected",
    [
        ({}, [1 / 3, 1 / 3, 1 / 3]),
        ({"weights": [1, 0, 3]}, [0.25, 0, 0.75]),
        ({"decay": 0.5}, [1 / 7, 2 / 7, 4 / 7]),
    ],
    ids=["average", "weighted", "exponential"],
)
def test_averages_are_those_of_numpy(folders, tmp_path, options, expected):
    found = merged(folders, tmp_path, **options)
    models = [weights(folder) for folder in folders]
    for name, value in found.items():
        exact = sum(share * model[name].astype(np.float64) for share, model in zip(expected, models, strict=True))
        np.testing.assert_array_equal(value, exact.astype(np.float32))


@pytest.mark.parametrize("options,t", [({}, 0.5), ({"weights": [3, 1]}, 0.25)])
def test_slerp_is_that_of_numpy_for_each_matrix(folders, tmp_path, options, t):
    found = merged(folders[:2], tmp_path, method="slerp", **options)
    a, b = weights(folders[0]), weights(folders[1])

    def oracle(x, y):
        x, y = x.astype(np.float64).ravel(), y.astype(np.float64).ravel()
        angle = np.arccos(x @ y / np.sqrt((x @ x) * (y @ y)))
        return (np.sin((1 - t) * angle) * x + np.sin(t * angle) * y) / np.sin(angle)

    for name, value in found.items():
        pairs = zip(a[name], b[name], strict=True) if name.startswith("layers") else [(a[name], b[name])]
        exact = np.concatenate([oracle(x, y) for x, y in pairs])
        np.testing.assert_allclose(value.ravel(), exact, rtol=1e-6, atol=1e-7)


def test_slerp_walks_on_the_sphere_evenly():
    """From (1, 0) to (0, 1), a third of the way: 30 degrees. Parallel and zero vectors are mixed on the line."""
    np.testing.assert_allclose(slerp(np.array([1.0, 0]), np.array([0, 1.0]), 1 / 3), [np.sqrt(3) / 2, 0.5])
    np.testing.assert_allclose(slerp(np.ones(2), 3 * np.ones(2), 0.25), [1.5, 1.5])
    np.testing.assert_allclose(slerp(np.zeros(2), np.ones(2), 0.5), [0.5, 0.5])


def test_slerp_of_several_gives_each_its_share(embedder, folders, tmp_path):
    """A model three times, and another: as twice with weights of 3 and 1."""
    a = merged([folders[0]] * 3 + [folders[1]], tmp_path / "a", method="slerp")
    b = merged(folders[:2], tmp_path / "b", method="slerp", weights=[3, 1])
    assert all(np.allclose(a[name], b[name], rtol=1e-6) for name in a)


# Which models


def test_the_last_steps_of_a_run_are_its_kept_checkpoints(run):
    assert sources([str(run)]) == [StoredModel(str(run), 10_000)]
    assert sources([str(run)], last=2500) == [StoredModel(str(run), step) for step in (7500, 8000, 10_000)]
    assert sources([f"{run}@1000", str(run)]) == [StoredModel(str(run), 1000), StoredModel(str(run), 10_000)]


def test_more_steps_than_a_run_keeps_checkpoints_of_are_refused(run):
    """Before its tail, a run keeps one checkpoint here and there."""
    written = (run / "config.json").read_text()
    config = json.loads(written)
    config["checkpoint"]["tail_steps"] = 2000
    (run / "config.json").write_text(json.dumps(config))
    try:
        assert len(sources([str(run)], last=2000)) == 2
        with pytest.raises(UserError, match=r"every checkpoint of its last 2000 steps .* give at most 2000, or name"):
            sources([str(run)], last=2500)
    finally:
        (run / "config.json").write_text(written)


@pytest.mark.parametrize(
    "checkpoint,last,found",
    [
        ({"tail_steps": 0}, 500, "10000, because checkpoint.tail_steps or tail_every is 0"),
        ({"tail_steps": 2500, "tail_every": 0}, 2500, "7500, 8000, 10000, because checkpoint.tail_steps or"),
        ({"tail_steps": 0}, 6000, "7500, 8000, 10000, because"),
        ({"tail_steps": 500}, 500, "10000, which"),  # of a run that has not reached its tail
    ],
)
def test_last_steps_without_an_even_tail_are_refused(run, checkpoint, last, found):
    written = (run / "config.json").read_text()
    config = json.loads(written)
    config["checkpoint"] |= checkpoint
    (run / "config.json").write_text(json.dumps(config))
    try:
        with pytest.raises(UserError, match=f"keeps only the checkpoints of {found}.* of the steps .*1000, 7500, 8000"):
            sources([str(run)], last=last)
        assert len(sources([str(run)], last=0)) == 1
        if not checkpoint["tail_steps"]:
            assert len(sources([str(run)], last=2000)) == 2
    finally:
        (run / "config.json").write_text(written)


def test_the_soup_of_a_tail_in_one_command(run, embedder, tmp_path, capsys):
    """The mean of factors 1, -2 and 3 is 2/3. The package is as good as an exported one."""
    assert main(["merge", str(run), "--last", "2500", "--output", str(tmp_path / "a soup")]) == 0
    said = capsys.readouterr().out
    assert "33.3%  " in said and f"Next: f2jax evaluate --model '{tmp_path / 'a soup'}'\n" in said
    soup = Embedder.from_pretrained(tmp_path / "a soup")
    for found, one in zip(jax.tree.leaves(soup.params), jax.tree.leaves(embedder.params), strict=True):
        np.testing.assert_allclose(found, one * (2 / 3), rtol=1e-6)
    assert soup.settings == read_settings(str(run), embedder.architecture)
    ours, theirs = (model.tokenizer.encode(["red stone"], 9)[0] for model in (embedder, soup))
    assert ours.tolist() == theirs.tolist()


def test_a_merge_of_one_checkpoint_is_that_checkpoint(run, embedder, tmp_path):
    found = merged([f"{run}@8000"], tmp_path)
    assert all((found[name] == -2 * np.asarray(x)).all() for name, x in flatten_dict(embedder.params, sep="/").items())


def test_the_result_may_be_bfloat16(folders, tmp_path):
    merge_models(sources(folders[:2]), tmp_path, dtype="bfloat16")
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert Embedder.from_pretrained(tmp_path, "bfloat16").encode("red").shape == (64,)


def test_one_weight_is_read_at_a_time(folders, tmp_path, monkeypatch):
    """All models' tensors of one name; these are on disk before those of the next are read."""
    order, written = [], []
    open_weights = workdir.open_weights

    def watched(model):
        architecture, found = open_weights(model)

        def watch(name, weight):
            def make():
                order.append((name, model.path))
                written.append(sum(part.stat().st_size for part in tmp_path.glob("*.part")))
                return weight.make()

            return type(weight)(weight.shape, weight.dtype, make)

        return architecture, {name: watch(name, weight) for name, weight in found.items()}

    monkeypatch.setattr(workdir, "open_weights", watched)
    merge_models(sources(folders), tmp_path)
    assert len(order) == 3 * 13 and order == [(name, f) for name, _ in order[::3] for f in folders]
    assert written == sorted(written) and len(set(written)) == 13


# Mistakes


def test_models_that_do_not_fit_are_refused(embedder, folders, run, tmp_path):
    other = size("tiny", mlp=80)
    tokenizer = tiny_model.train_sentencepiece([f"{a} {a}{a}" for a in "abcdefghijklm"], 290, None)
    Embedder(other, tiny_model.random_params(other), embedder.tokenizer, embedder.settings).save_pretrained(
        tmp_path / "mlp"
    )
    Embedder(embedder.architecture, embedder.params, tokenizer, embedder.settings).save_pretrained(tmp_path / "words")
    for names, message in (
        ([folders[0], str(tmp_path / "mlp")], "it has mlp 160, not 80"),
        ([folders[0], str(tmp_path / "words")], "different tokenizers"),
        ([f"{run}@9"], "no checkpoint of step 9; it has those of 1, 1000, 7500, 8000, 10000"),
        ([f"{folders[0]}@9"], "not a training workdir"),
    ):
        with pytest.raises(UserError, match=message):
            merge_models(sources(names), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("spoilt", [0, 1])
@pytest.mark.parametrize("method", ["average", "slerp"])
def test_a_model_that_is_not_finite_is_named_and_the_older_package_stays(embedder, folders, tmp_path, spoilt, method):
    names = [folders[0], str(tmp_path / "bad")]
    embedder.save_pretrained(tmp_path / "bad")
    tensors = load_file(tmp_path / "bad/model.safetensors")
    tensors["layers.1.mlp.up_proj.weight"][0, 0] = np.nan
    save_file(tensors, tmp_path / "bad/model.safetensors")
    embedder.save_pretrained(tmp_path / "out")
    before = weights(tmp_path / "out")
    with pytest.raises(
        UserError, match=r"bad/model\.safetensors has values that are NaN .* in layers\.1\.mlp\.up_proj"
    ):
        merge_models(sources(names[::-1] if spoilt else names), tmp_path / "out", method=method)
    assert all((weights(tmp_path / "out")[name] == before[name]).all() for name in before)
    assert Embedder.from_pretrained(tmp_path / "out").settings == embedder.settings


def test_a_checkpoint_that_is_not_finite_is_named(embedder, tmp_path):
    params = embedder.params | {"final_norm": embedder.params["final_norm"].at[0].set(np.inf)}
    broken = Embedder(embedder.architecture, params, embedder.tokenizer, embedder.settings)
    tiny_model.write_workdir(tmp_path / "run", broken)
    with pytest.raises(UserError, match="run@1 has values that are NaN or infinite in final_norm; leave it out"):
        merge_models(sources([str(tmp_path / "run")]), tmp_path / "out")
    with pytest.raises(UserError, match="run has values that are NaN or infinite in norm"):
        Embedder.from_pretrained(tmp_path / "run")


def test_every_model_that_is_merged_must_be_one_that_is_built(embedder, folders, tmp_path):
    embedder.save_pretrained(tmp_path / "mean")
    (tmp_path / "mean/1_Pooling/config.json").write_text('{"pooling_mode": "mean"}')
    with pytest.raises(UserError, match="pools by mean"):
        merge_models(sources([str(tmp_path / "mean"), folders[0]]), tmp_path / "out")


def test_last_steps_that_make_no_sense_are_refused(run, tmp_path, capsys):
    for argv, message in (
        ([str(run), "--last", "-5"], "--last -5 should be a number of steps, 0 or more."),
        ([str(run), f"{run}@1000", "--last", "2500"], f"{run}@1000 is one checkpoint and --last takes several"),
    ):
        assert main(["merge", *argv, "--output", str(tmp_path / "out")]) == 1
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["float16", "int8", "floaty"])
def test_another_type_is_refused_and_what_lies_there_stays(folders, tmp_path, dtype):
    merge_models(sources(folders[:1]), tmp_path)
    with pytest.raises(UserError, match=f"no dtype '{dtype}'; choose float32 or bfloat16"):
        merge_models(sources(folders), tmp_path, dtype=dtype)
    Embedder.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "options,message",
    [
        ({"weights": [1, 2]}, "2 weights for 3 models"),
        ({"weights": [1, 2, -1]}, "positive"),
        ({"weights": [0, 0, 0]}, "positive"),
        ({"weights": [1, float("nan"), 1]}, "positive"),
        ({"weights": [float("nan"), 1, 1]}, "positive"),
        ({"weights": [1, 1, float("inf")]}, "positive"),
        ({"decay": 1.5}, "above 0 and at most 1"),
        ({"weights": [1, 1, 1], "decay": 0.5}, "either"),
    ],
)
def test_shares_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        shares(3, **options)
