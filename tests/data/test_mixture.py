"""The order of batches is a pure function of (seed, step), in which every row comes once per epoch."""

from collections import Counter

import numpy as np
import pytest

from f2jax.data.mixture import DatasetSpec, Mixture, language_weights, pattern_weights, permute, select
from f2jax.errors import UserError


@pytest.mark.parametrize("key", [0, 1, 2**63])
def test_permute_is_a_bijection_of_every_size(key):
    for size in [*range(1, 130), 255, 256, 257, 1000]:
        assert sorted(permute(np.arange(size), size, key)) == list(range(size))


def test_permute_of_one_index_agrees_with_that_of_all():
    everything = permute(np.arange(1000), 1000, 7)
    assert [int(permute(i, 1000, 7)) for i in range(0, 1000, 97)] == everything[::97].tolist()
    assert 0 <= int(permute(10**12 - 1, 10**12, 7)) < 10**12


def test_permute_never_changes_between_versions():
    """Resuming an old run depends on these very numbers."""
    assert permute(np.arange(8), 8, 0).tolist() == [5, 0, 4, 2, 1, 3, 7, 6]
    assert permute(np.arange(5), 1_000_003, 42).tolist() == [820525, 367192, 475147, 751443, 445492]


def test_permute_spreads_evenly():
    """First positions over many keys: chi-square of 20 cells with 19 degrees of freedom stays far below 60."""
    counts = Counter(int(permute(0, 20, key)) for key in range(4000))
    assert sum((counts[i] - 200) ** 2 / 200 for i in range(20)) < 60


def test_pairs_of_negative_columns_come_equally_often():
    """The first two of 9 columns, over 3,600 steps: each of 72 pairs 50 times, by chi-square with 71 degrees."""
    mixture = Mixture([DatasetSpec("a", "retrieval", 3600, 9)], 1)
    pairs = Counter(tuple(mixture.plan(step).columns[:2].tolist()) for step in range(3600))
    chi_square = sum((pairs[i, j] - 50) ** 2 / 50 for i in range(9) for j in range(9) if i != j)
    assert chi_square < 71 + 5 * (2 * 71) ** 0.5


def test_a_classification_row_takes_its_hardest_label():
    mixture = Mixture([DatasetSpec("a", "classification", 40, 5)], 4)
    assert all(mixture.plan(step).columns.tolist() == [0, 1, 2, 3, 4] for step in range(10))


def test_a_proportional_draw_is_that_of_the_reference():
    """Against its loop: draw by the first shares, and go on until all are used up. Means of 150 epochs, as z-scores."""
    sizes, epochs = (2, 5, 30), 150
    mixture = Mixture([DatasetSpec(f"{n}", "retrieval", n, 0) for n in sizes], 1, draw="proportional")
    steps, rng = sum(sizes), np.random.default_rng(0)
    found = np.array([[mixture.plan(e * steps + i).dataset for i in range(steps)] for e in range(epochs)])
    expected = np.zeros_like(found)
    for order in expected:
        left = list(sizes)
        for i in range(steps):
            shares = np.array([size if rest else 0 for size, rest in zip(sizes, left, strict=True)])
            order[i] = rng.choice(3, p=shares / shares.sum())
            left[order[i]] -= 1
    assert (np.sort(found) == np.repeat(np.arange(3), sizes)).all(), "each batch once an epoch"
    for number in range(3):
        one, other = (found == number).mean(0), (expected == number).mean(0)
        spread = np.sqrt((one * (1 - one) + other * (1 - other)) / epochs) + 1e-9
        assert (np.abs(one - other) / spread).max() < 4.5
        last = [np.array([np.flatnonzero(row == number)[-1] for row in rows]) for rows in (found, expected)]
        assert abs(last[0].mean() - last[1].mean()) < 4 * np.sqrt((last[0].var() + last[1].var()) / epochs)


def test_a_proportional_draw_brings_each_row_once_and_begins_anywhere():
    mixture = Mixture(SPECS, 32, draw="proportional")
    plans = [mixture.plan(step) for step in range(2 * mixture.steps_per_epoch)]
    for epoch in range(2):
        for number, spec in enumerate(SPECS):
            rows = [plan.rows for plan in plans if plan.dataset == number and plan.epoch == epoch]
            assert sorted(np.concatenate(rows)) == list(range(spec.rows))
    again = Mixture(SPECS, 32, draw="proportional").plan(57)
    assert (again.dataset, again.rows.tolist()) == (plans[57].dataset, plans[57].rows.tolist())


SPECS = [
    DatasetSpec("a", "retrieval", 1003, 24),
    DatasetSpec("b", "clustering", 64, 5),
    DatasetSpec("c", "classification", 130, 1),
    DatasetSpec("d", "retrieval", 7, 0),
]


UNWEIGHTED = [
    (0, 0, [764, 863, 133], [18, 21, 14]),
    (0, 1, [38, 12, 2], [0, 2, 3]),
    (1, 0, [530, 711, 592], [21, 14, 18]),
    (2, 0, [379, 113, 286], [20, 8, 3]),
]


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize("epoch", [0, 1, 4])
def test_every_row_comes_once_per_epoch(seed, epoch):
    mixture = Mixture(SPECS, 32, seed=seed)
    steps = mixture.steps_per_epoch
    plans = [mixture.plan(step) for step in range(epoch * steps, (epoch + 1) * steps)]
    for number, spec in enumerate(SPECS):
        rows = np.concatenate([plan.rows for plan in plans if plan.dataset == number])
        assert sorted(rows) == list(range(spec.rows))
        assert len([plan for plan in plans if plan.dataset == number]) == -(-spec.rows // 32)


def test_batches_of_a_kind_have_the_slots_of_its_data_set_with_the_most_negatives():
    assert Mixture(SPECS, 32).slots() == {"retrieval": 7, "clustering": 5, "classification": 1}


def test_a_mixture_without_weights_never_changes_between_versions():
    """Resuming an old run depends on these very numbers."""
    plans = [Mixture(SPECS, 32, seed=5).plan(step) for step in (0, 39, 40, 95)]
    assert [(p.epoch, p.dataset, p.rows[:3].tolist(), p.columns[:3].tolist()) for p in plans] == UNWEIGHTED


@pytest.mark.parametrize("weight,epochs", [(2.0, 1), (3.0, 1), (1.0, 1), (0.5, 2), (0.25, 4), (1.5, 2)])
def test_a_weight_multiplies_how_often_each_row_comes(weight, epochs):
    """In so many epochs, every row of the weighted data set comes equally often, every other one once an epoch."""
    mixture = Mixture([DatasetSpec("a", "retrieval", 250, 24, weight), *SPECS[1:]], 32)  # 8 batches
    plans = [mixture.plan(step) for step in range(epochs * mixture.steps_per_epoch)]
    for number, spec in enumerate(mixture.specs):
        rows = np.concatenate([plan.rows for plan in plans if plan.dataset == number])
        assert Counter(rows.tolist()) == dict.fromkeys(range(spec.rows), epochs * spec.weight)


def test_a_weighted_data_set_comes_in_another_order_each_time():
    mixture = Mixture([DatasetSpec("a", "retrieval", 64, 0, 2.0)], 64)
    assert mixture.steps_per_epoch == 2
    orders = {tuple(mixture.plan(step).rows) for step in range(6)}
    assert len(orders) == 6


def test_a_small_weight_leaves_at_least_a_batch_an_epoch():
    mixture = Mixture([DatasetSpec("a", "retrieval", 640, 0), DatasetSpec("b", "retrieval", 640, 0, 1e-6)], 64)
    assert [row["batches"] for row in mixture.table()] == [10, 1]
    seen = [mixture.plan(step) for step in range(11 * 10)]
    rows = np.concatenate([plan.rows for plan in seen if plan.dataset == 1])
    assert sorted(rows) == list(range(640)), "ten epochs bring all its batches"


def test_a_plan_depends_on_seed_and_step_alone():
    def order(mixture, steps):
        return [(p.dataset, p.rows.tolist(), p.columns.tolist()) for p in map(mixture.plan, steps)]

    steps = range(100)
    forwards = order(Mixture(SPECS, 32), steps)
    assert order(Mixture(SPECS, 32), reversed(steps)) == forwards[::-1]
    assert order(Mixture(SPECS, 32, seed=1), steps) != forwards
    epoch = Mixture(SPECS, 32).steps_per_epoch
    assert forwards[:20] != forwards[epoch : epoch + 20]


def test_negative_columns_are_distinct_and_limited_by_kind_and_data():
    mixture = Mixture(SPECS, 32)
    slots = {"a": 7, "b": 5, "c": 1, "d": 0}
    for plan in map(mixture.plan, range(60)):
        spec = SPECS[plan.dataset]
        assert plan.negatives == slots[spec.name]
        assert sorted(plan.columns) == list(range(spec.max_negatives))
    assert len({tuple(p.columns) for p in map(mixture.plan, range(60)) if p.dataset == 0}) > 10


def test_the_table_gives_shares_that_add_up():
    table = Mixture(SPECS, 32).table()
    assert [row["batches"] for row in table] == [32, 2, 5, 1]
    assert sum(row["share"] for row in table) == pytest.approx(1)


@pytest.mark.parametrize(
    "specs,batch_size,word",
    [
        ([], 8, "no data sets"),
        ([DatasetSpec("x", "retrieval", 0, 1)], 8, "no training rows"),
        ([DatasetSpec("x", "retreival", 5, 1)], 8, "did you mean 'retrieval'"),
        ([DatasetSpec("x", "retrieval", 5, 1)], 0, "at least 1"),
        ([DatasetSpec("x", "retrieval", 5, 1, 0.0)], 8, "has weight 0.0; give one above 0, or exclude it"),
        ([DatasetSpec("x", "retrieval", 5, 1, float("nan"))], 8, "has weight nan"),
    ],
)
def test_bad_mixtures_are_refused(specs, batch_size, word):
    with pytest.raises(UserError, match=word):
        Mixture(specs, batch_size)


# Which data sets, and how often

NAMES = ["nli", "nli-de", "code", "msmarco"]


@pytest.mark.parametrize(
    "include,exclude,chosen",
    [
        ((), (), NAMES),
        (("nli*",), (), ["nli", "nli-de"]),
        (("code", "nli"), (), ["nli", "code"]),
        ((), ("nli*",), ["code", "msmarco"]),
        (("nli*", "code"), ("*-de",), ["nli", "code"]),
    ],
)
def test_names_are_included_then_excluded(include, exclude, chosen):
    assert [NAMES[i] for i in select(NAMES, include, exclude)] == chosen


@pytest.mark.parametrize(
    "include,exclude,message",
    [
        (("cod",), (), r"No data set is named 'cod' \(data.include\); did you mean 'code'"),
        ((), ("x*",), r"\(data.exclude\)"),
        (("nli",), ("nli*",), "leave no data set"),
    ],
)
def test_a_selection_of_nothing_is_refused(include, exclude, message):
    with pytest.raises(UserError, match=message):
        select(NAMES, include, exclude)


def test_the_factors_of_all_patterns_multiply():
    assert pattern_weights(NAMES, ["nli*=3", "*-de=0.5"]) == [3, 1.5, 1, 1]


@pytest.mark.parametrize("item", ["nli", "nli=", "=2", "nli=0", "nli=-1", "nli=much", "nli=nan", "nli=inf"])
def test_a_weight_that_is_none_is_refused(item):
    with pytest.raises(UserError, match="should be PATTERN=FACTOR"):
        pattern_weights(NAMES, [item])


def test_a_weight_for_no_data_set_is_refused():
    with pytest.raises(UserError, match=r"No data set is named 'nlu' \(data.weights\)"):
        pattern_weights(NAMES, ["nlu=2"])


LANGUAGES = [{"en": 900}, {"sw": 90}, {"en": 5, "yo": 5}]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_temperatures_0_and_1_change_nothing(temperature):
    assert language_weights(LANGUAGES, temperature) == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("temperature", [2.0, 5.0, 1e9])
def test_the_share_of_a_language_becomes_its_power(temperature):
    """Hand-worked: with one language in each data set, shares after weighting are p^(1/T) over their sum."""
    counts = [900, 90, 10]
    found = language_weights([{name: n} for name, n in zip("abc", counts, strict=True)], temperature)
    powers = [(n / 1000) ** (1 / temperature) for n in counts]
    assert [n * w / 1000 for n, w in zip(counts, found, strict=True)] == pytest.approx(
        [p / sum(powers) for p in powers]
    )


def test_all_rows_together_stay_as_many():
    weights = language_weights(LANGUAGES, 3.0)
    assert sum(w * sum(found.values()) for w, found in zip(weights, LANGUAGES, strict=True)) == pytest.approx(1000)
    assert weights[0] < weights[2] < 50 and weights[0] < 1 < weights[1]


def test_a_data_set_whose_rows_are_all_held_out_has_no_weight():
    assert language_weights([{}, {"en": 3}], 2.0) == [0.0, 1.0]


def test_a_negative_temperature_is_refused():
    with pytest.raises(UserError, match="should be 0"):
        language_weights(LANGUAGES, -1.0)


def test_an_unknown_draw_is_refused():
    with pytest.raises(UserError, match=r"data\.draw=proportionl is unknown; did you mean 'proportional'"):
        Mixture(SPECS, 32, draw="proportionl")
