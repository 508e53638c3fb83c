"""Labelled data → records of the three kinds (recipe 3.1). Each function is small: copy the one nearest to yours.

Choices are made by hashes of a seed and the texts: they depend neither on the order of the rows nor on the machine.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice

from f2jax.data.record import Record, stable_id


def clustering(
    rows: Iterable[tuple[str, str]], source: str, language: str = "und", negatives: int = 24, seed: int = 0
) -> Iterator[Record]:
    """(text, class) rows → each text with another text of its class, and `negatives` texts of other classes at most.

    A text that is alone in its class gives no record, nor does anything where there is one class.
    """
    texts = defaultdict(set)
    for text, name in rows:
        texts[name].add(text)
    pools = {name: _shuffled(texts[name], seed) for name in sorted(texts)}
    everything = _shuffled(set().union(*texts.values()), seed)
    for name, pool in pools.items():
        if len(everything) == len(pool):
            continue
        for text in pool:
            positive = _draw(pool, 1, text, {text}, seed)
            wrong = _draw(everything, negatives, text, texts[name], seed)
            if positive:
                yield Record(text, positive[0], wrong, "clustering", language, source, label=name)


def classification(
    rows: Iterable[tuple[str, str]],
    source: str,
    language: str = "und",
    names: Mapping[str, str] | None = None,
    negatives: int = 1,
    seed: int = 0,
) -> Iterator[Record]:
    """(text, label) rows → each text with its label and `negatives` wrong ones, as `names` writes them out."""
    rows = list(rows)
    names = names or {label: label for _, label in rows}
    pool = _shuffled(set(names.values()), seed)
    for text, label in rows:
        wrong = _draw(pool, negatives, text, {names[label]}, seed)
        if wrong:
            yield Record(text, names[label], wrong, "classification", language, source, label=label)


def sts(
    rows: Iterable[tuple[str, str, float]], source: str, language: str = "und", fewest: float = 4.0
) -> Iterator[Record]:
    """(text, text, score) rows → the pairs that score at least `fewest` of 5, and the same swapped."""
    for one, other, score in rows:
        if score >= fewest:
            yield Record(one, other, language=language, source=source, symmetric=True)
            yield Record(other, one, language=language, source=source, symmetric=True)


def nli(rows: Iterable[tuple[str, str, str]], source: str, language: str = "und") -> Iterator[Record]:
    """(premise, hypothesis, relation) rows → each premise with each hypothesis that it entails.

    Its neutral hypotheses, then its contradictions, are the first negatives; mining adds more. Relations other than
    entailment, neutral and contradiction, such as the "-" of SNLI, are left out.
    """
    premises = defaultdict(lambda: defaultdict(dict))
    for premise, hypothesis, relation in rows:
        premises[premise][relation][hypothesis] = None  # a dict is a set that keeps its order
    for premise, found in premises.items():
        entailed = found["entailment"]
        negatives = tuple(text for text in {**found["neutral"], **found["contradiction"]} if text not in entailed)
        label = str(stable_id(premise)) if len(entailed) > 1 else None
        for hypothesis in entailed:
            yield Record(premise, hypothesis, negatives, language=language, source=source, label=label)


def _shuffled(texts: Collection[str], seed: int) -> list[str]:
    return sorted(texts, key=lambda text: (stable_id(f"{seed} {text}"), text))


def _draw(pool: list[str], count: int, text: str, excluded: Collection[str], seed: int) -> tuple[str, ...]:
    """`count` members of a shuffled pool from a place that `text` decides, or all that are not excluded."""
    start = stable_id(f"draw {seed} {text}") % len(pool)
    around = (pool[(start + i) % len(pool)] for i in range(len(pool)))
    return tuple(islice((member for member in around if member not in excluded), count))
