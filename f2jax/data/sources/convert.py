"""Converts labelled data to records of the three kinds (recipe 3.1).

Choices are made by hashes of a seed and the texts, so they depend neither on the order of the rows nor on the machine.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice

from f2jax.data.record import Record, stable_id


def clustering(
    rows: Iterable[tuple[str, str]], source: str, language: str = "und", negatives: int = 24, seed: int = 0
) -> Iterator[Record]:
    """Converts (text, class) rows: each text gets another text of its class, and up to `negatives` of other classes.

    A text that is alone in its class gives no record, and neither do rows that all have the same class.
    """
    texts: dict[str, set[str]] = defaultdict(set)
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
    """Converts (text, label) rows: each text gets its label and `negatives` wrong ones, as `names` spells them."""
    rows = list(rows)
    names = names or {label: label for _, label in rows}
    pool = _shuffled(set(names.values()), seed)
    for text, label in rows:
        wrong = _draw(pool, negatives, text, {names[label]}, seed)
        if wrong:
            yield Record(text, names[label], wrong, "classification", language, source, label=label)


def sts(
    rows: Iterable[tuple[str, str, float]], source: str, language: str = "und", min_score: float = 4.0
) -> Iterator[Record]:
    """Converts (text, text, score) rows with scores of 0 to 5: yields pairs from `min_score` on, in both directions."""
    for first, second, score in rows:
        if score >= min_score:
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


def _shuffled(texts: Collection[str], seed: int) -> list[str]:
    return sorted(texts, key=lambda text: (stable_id(f"{seed} {text}"), text))


def _draw(pool: list[str], count: int, text: str, excluded: Collection[str], seed: int) -> tuple[str, ...]:
    """Returns `count` members of a shuffled pool, or fewer after exclusion, from a position that `text` determines."""
    start = stable_id(f"draw {seed} {text}") % len(pool)
    around = (pool[(start + i) % len(pool)] for i in range(len(pool)))
    return tuple(islice((member for member in around if member not in excluded), count))
