"""Converts labelled data to records of the three kinds (recipe 3.1).

Choices are made by hashes of the texts, so they depend neither on the order of the rows nor on the machine.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from itertools import islice

from f2jax.data.record import Record, stable_id

NEGATIVES = 24  # of a row to cluster; one to classify has a single one
ALIKE = 4  # lowest score, of 0 to 5, of texts with the same meaning


def clustering(rows: Iterable[tuple[str, str]], source: str, language: str = "und") -> Iterator[Record]:
    """Converts (text, class) rows: each text gets another text of its class, and up to 24 of other classes.

    A text that is alone in its class gives no record, and neither do rows that all have the same class.
    """
    texts: dict[str, set[str]] = defaultdict(set)
    for text, name in rows:
        texts[name].add(text)
    pools = {name: _shuffled(texts[name]) for name in sorted(texts)}
    everything = _shuffled(set().union(*texts.values()))
    for name, pool in pools.items():
        if len(everything) == len(pool):
            continue
        for text in pool:
            positive = _draw(pool, 1, text, {text})
            wrong = _draw(everything, NEGATIVES, text, texts[name])
            if positive:
                yield Record(text, positive[0], wrong, "clustering", language, source, label=name)


def classification(rows: Iterable[tuple[str, str]], source: str, language: str = "und") -> Iterator[Record]:
    """Converts (text, label) rows: each text gets its label and a wrong one."""
    rows = list(rows)
    pool = _shuffled({label for _, label in rows})
    for text, label in rows:
        if wrong := _draw(pool, 1, text, {label}):
            yield Record(text, label, wrong, "classification", language, source, label=label)


def sts(rows: Iterable[tuple[str, str, float]], source: str, language: str = "und") -> Iterator[Record]:
    """Converts (text, text, score) rows with scores of 0 to 5: yields pairs from `ALIKE` on, in both directions."""
    for first, second, score in rows:
        if score >= ALIKE:
            yield Record(first, second, language=language, source=source, symmetric=True)
            yield Record(second, first, language=language, source=source, symmetric=True)


def nli(rows: Iterable[tuple[str, str, str]], source: str, language: str = "und") -> Iterator[Record]:
    """Converts (premise, hypothesis, relation) rows: each premise gets each hypothesis that it entails.

    Its neutral hypotheses, then its contradictions, are the first negatives; mining adds more. Relations other than
    entailment, neutral and contradiction, such as the "-" of SNLI, are left out.
    """
    premises: dict[str, dict[str, dict[str, None]]] = defaultdict(lambda: defaultdict(dict))
    for premise, hypothesis, relation in rows:
        premises[premise][relation][hypothesis] = None  # a dict is a set that keeps its order
    for premise, by_relation in premises.items():
        entailed = by_relation["entailment"]
        others = {**by_relation["neutral"], **by_relation["contradiction"]}
        negatives = tuple(text for text in others if text not in entailed)
        label = str(stable_id(premise)) if len(entailed) > 1 else None
        for hypothesis in entailed:
            yield Record(premise, hypothesis, negatives, language=language, source=source, label=label)


def _shuffled(texts: Collection[str]) -> list[str]:
    return sorted(texts, key=lambda text: (stable_id(f"0 {text}"), text))  # 0 was a seed; without it rows would change


def _draw(pool: list[str], count: int, text: str, excluded: Collection[str]) -> tuple[str, ...]:
    """Returns `count` members of a shuffled pool, or fewer after exclusion, from a position that `text` determines."""
    start = stable_id(f"draw 0 {text}") % len(pool)
    around = (pool[(start + i) % len(pool)] for i in range(len(pool)))
    return tuple(islice((member for member in around if member not in excluded), count))
