"""Classification of the local tasks: draws, scores and metrics are those of mteb and scikit-learn."""

import warnings
from contextlib import nullcontext

import numpy as np
import pyarrow as pa
import pytest
from sklearn import metrics

mteb_tasks = pytest.importorskip("mteb.abstasks")
rows = pytest.importorskip("f2jax.evaluation.rows")
encoder = pytest.importorskip("f2jax.evaluation.encoder")
local = pytest.importorskip("f2jax.evaluation.local")

LABELS = [f"label {i % 7 if i % 3 else i % 2}" for i in range(90)]  # of two, there are many more


def data(labels, seed):
    table = pa.table({"text": [f"{seed} {i} {label}" for i, label in enumerate(labels)], "label": labels})
    return rows.to_dataset(table, text="text", label="label")


def task(kind):
    made = object.__new__(type("Task", (kind,), {"metadata": local.SIB200.metadata}))
    made.seed = 42
    return made


def test_columns_are_lists_of_what_was_given():
    given = data(LABELS, 0)
    assert given["label"] == LABELS and isinstance(given["text"], list)
    assert given.select([3, 1])["label"][:] == [LABELS[3], LABELS[1]]
    assert given[2] == {"text": f"0 2 {LABELS[2]}", "label": LABELS[2]}


@pytest.mark.parametrize("per_label", [1, 4, 8, 50])
def test_draws_are_those_of_mteb(per_label):
    peer, order = task(mteb_tasks.AbsTaskClassification), None
    peer.samples_per_label = per_label
    ours = rows.balanced_draws(LABELS, per_label, 4, 42)
    for number, drawn in enumerate(ours):
        _, order, expected = peer._undersample_data(data(LABELS, 0), number, order)
        assert drawn == expected
        counts = np.unique([LABELS[row] for row in drawn], return_counts=True)[1]
        assert counts.tolist() == [min(per_label, LABELS.count(label)) for label in sorted(set(LABELS))]
    assert per_label == 50 or ours[0] != ours[1]


@pytest.mark.parametrize("seed", range(5))
def test_metrics_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    true, predicted = rng.integers(0, 4, 30), rng.integers(1, 7 - seed // 2, 30)  # labels that only one side has
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = mteb_tasks.AbsTaskClassification._calculate_scores(None, true, predicted)
    assert rows.classification_metrics(true, predicted) == pytest.approx(expected)
    assert expected["accuracy"] == metrics.accuracy_score(true, predicted) < 1


@pytest.mark.parametrize("width", [8, 300])
def test_scores_are_those_of_mteb_s_classification(monkeypatch, width):
    """Vectors in which a label can be guessed; of many and few dimensions, as the wide ones are narrowed."""

    def encode(prompt, texts):
        noise = encoder.random_encode("", texts)
        signal = encoder.random_encode("", [text.split()[-1] for text in texts])
        return np.tile(2 * noise + signal, 5)[:, :width]

    model = encoder.Encoder(encode, encoder.empty_meta("f2jax/x"), encoder.Variant(width), encoder.NONE)
    split = {"train": data(LABELS, 0), "test": data(LABELS[:50], 1)}
    where = {"hf_split": "test", "hf_subset": "default", "encode_kwargs": {}}
    ours = task(rows.Classification)._evaluate_subset(model, split, **where)
    monkeypatch.setattr("mteb.abstasks.classification.create_dataloader", lambda rows, **_: [{"text": rows["text"][:]}])
    peer = task(mteb_tasks.AbsTaskClassification)
    expected = peer._evaluate_subset(model, split, **where, timer=lambda *args, **kwargs: nullcontext())
    assert ours.pop("majority") == 14 / 50
    assert len(ours["scores_per_experiment"]) == len(expected["scores_per_experiment"]) == 10
    for found, right in zip(ours.pop("scores_per_experiment"), expected.pop("scores_per_experiment"), strict=True):
        assert found == pytest.approx(right)
    assert ours == pytest.approx(expected, nan_ok=True)
    assert 0.2 < ours["accuracy"] < 0.99


def test_narrowed_vectors_have_the_same_products():
    x_ie = np.random.default_rng(0).normal(size=(5, 40)).astype(np.float32)
    narrowed = rows.narrow(x_ie)
    assert narrowed.shape == (5, 5)
    np.testing.assert_allclose(narrowed @ narrowed.T, x_ie @ x_ie.T, atol=1e-4)
    assert rows.narrow(x_ie.T) is not None and rows.narrow(x_ie[:, :3]).shape == (5, 3)


def test_random_vectors_depend_on_the_text_alone():
    first, second = encoder.random_encode("", ["a", "b", "a"]), encoder.random_encode("ask ", ["b", "\ud800"])
    assert (first[0] == first[2]).all() and (first[1] == second[0]).all() and (first[0] != first[1]).all()
    assert encoder.random_encode("", []).shape == (0, encoder.RANDOM_WIDTH)
