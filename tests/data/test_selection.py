"""Selection and weights of data sets by name and by language."""

import pytest

from f2jax.data.selection import language_weights, pattern_weights, select
from f2jax.errors import UserError

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
