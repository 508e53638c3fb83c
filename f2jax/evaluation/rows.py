"""Local data in the form that mteb reads, and mteb's classification without its overhead per value and label."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from mteb.abstasks import AbsTaskClassification


class Rows(Dataset):
    """A data set with lists as columns: mteb reads single values, which take 40 µs each from a lazy column."""

    def __getitem__(self, key):
        if isinstance(key, str) and self._indices is None:
            return self.data.column(key).to_pylist()
        return super().__getitem__(key)


def to_dataset(table: pa.Table, **columns: str) -> Rows:
    """Returns a data set for mteb; `columns` maps each new name to a column of the table."""
    return Rows.from_dict({new: table[old].to_pylist() for new, old in columns.items()})


def balanced_draws(labels: Sequence, per_label: int, draws: int, seed: int) -> list[list[int]]:
    """Returns the row numbers of each draw, with at most `per_label` rows per label, in the same order as mteb.

    Each draw shuffles the previous order again with the same random numbers.
    """
    order, drawn = list(range(len(labels))), []
    for _ in range(draws):
        np.random.RandomState(seed).shuffle(order)
        taken: Counter = Counter()
        rows = []
        for row in order:
            if taken[labels[row]] < per_label:
                taken[labels[row]] += 1
                rows.append(row)
        drawn.append(rows)
    return drawn


def classification_metrics(true_i: np.ndarray, predicted_i: np.ndarray) -> dict[str, float | None]:
    """Returns mteb's classification metrics for labels numbered from 0; 0/0 counts as 0.

    Means are over the labels that occur among the true or the predicted ones.
    """
    labels = 1 + max(true_i.max(), predicted_i.max())
    table_vv = np.bincount(true_i * labels + predicted_i, minlength=labels**2).reshape(labels, labels)
    right_v, support_v, predicted_v = table_vv.diagonal(), table_vv.sum(axis=1), table_vv.sum(axis=0)
    occurs_v = support_v + predicted_v > 0
    each = {
        "f1": 2 * right_v / np.maximum(support_v + predicted_v, 1),
        "precision": right_v / np.maximum(predicted_v, 1),
        "recall": right_v / np.maximum(support_v, 1),
    }
    scores: dict[str, float | None] = {"accuracy": float(right_v.sum() / support_v.sum())}
    for name, value_v in each.items():
        scores[name] = float(value_v[occurs_v].mean())
        scores[f"{name}_weighted"] = float(np.average(value_v, weights=support_v))
    return scores | {"ap": None, "ap_weighted": None}


def narrow(x_ie: np.ndarray) -> np.ndarray:
    """Returns the vectors in coordinates of the space that they span, [i, at most i], with the same dot products."""
    return np.ascontiguousarray(np.transpose(np.linalg.qr(x_ie.T, mode="r"))) if x_ie.shape[1] > len(x_ie) else x_ie


class Classification(AbsTaskClassification):
    """mteb's text classification, with its draws, classifier and metrics except `ap`, which needs two labels.

    A label with fewer rows than `samples_per_label` uses all of them. `majority` is the accuracy of the best constant
    prediction.
    """

    def _evaluate_subset(self, model, data_split, *, encode_kwargs, hf_split, hf_subset, **kwargs):
        from torch.utils.data import DataLoader  # slow to import, and reports do not need it

        train, test = data_split[self.train_split], data_split[hf_split]
        numbers = {label: number for number, label in enumerate(sorted({*train["label"], *test["label"]}))}
        y_train, y_test = (np.array([numbers[label] for label in rows["label"]]) for rows in (train, test))
        draws = self.draws(train)
        used = sorted(set().union(*draws))

        def encode(texts: list[str], split: str) -> np.ndarray:
            where = {"task_metadata": self.metadata, "hf_split": split, "hf_subset": hf_subset}
            given: Any = Rows.from_dict({"text": texts})
            return model.encode(DataLoader(given, batch_size=len(texts)), **where, **encode_kwargs)

        texts = train["text"]
        x_train_ie = encode([texts[row] for row in used], self.train_split)
        x_ie = narrow(np.concatenate([x_train_ie, encode(test["text"], hf_split)]))
        scores: list[Any] = []  # of classification_metrics
        for rows in draws:
            self.evaluator_model.fit(x_ie[np.searchsorted(used, rows)], y_train[rows])
            scores.append(classification_metrics(y_test, self.evaluator_model.predict(x_ie[len(used) :])))
        majority = float(np.bincount(y_test).max() / len(y_test))
        return {**self._calculate_avg_scores(scores), "majority": majority}

    def draws(self, train: Dataset) -> list[list[int]]:
        """Returns the row numbers that each classifier is fitted on."""
        return balanced_draws(train["label"], self.samples_per_label, self.n_experiments, self.seed)
