"""Names in the Unicode CLDR: territories, languages, scripts and currencies, in more than 230 languages.

The data come with the `babel` package, so nothing is downloaded. Three tasks share a split: a string that is a test
query does not occur in training in any role.
"""

from collections import defaultdict
from collections.abc import Iterator
from functools import cache, lru_cache
from itertools import islice
from typing import NamedTuple

from f2jax.data.record import Record, stable_id

KINDS = {"territories": "territory", "languages": "language", "scripts": "script", "currencies": "currency"}
TASKS = ("translation", "kinds", "labels")
TEST_SHARE = 20  # one distinct string in 20 is a test query
SAMPLE = 8  # the tasks other than translation take one name in 8
HARD_NEGATIVES = 7
WRONG_CLASSES = 3  # negatives of a clustering row
STRIDE = 0x9E3779B185EBCA87  # a prime, so that steps of this size reach all members of any pool


class Name(NamedTuple):
    kind: str  # territory, language, script or currency
    code: str  # of what is named, e.g. KE
    language: str  # of the name
    text: str

    @property
    def entity(self) -> str:
        return f"{self.kind}:{self.code}"


@lru_cache(maxsize=1)
def names() -> list[Name]:
    """Returns all distinct names in all locales in a fixed order, without names that only repeat a code."""
    from babel import Locale, localedata

    locales = map(Locale.parse, sorted(localedata.locale_identifiers()))
    every = (name for locale in locales for name in _names_in(locale))
    return list(dict.fromkeys(name for name in every if name.text not in ("", name.code)))


def _names_in(locale) -> Iterator[Name]:
    for attribute, kind in KINDS.items():
        for code, text in sorted(getattr(locale, attribute).items()):
            yield Name(kind, code, locale.language, " ".join(text.split()))


@lru_cache(maxsize=1)
def english() -> dict[str, str]:
    """Returns the English name of each entity."""
    from babel import Locale

    return {name.entity: name.text for name in _names_in(Locale.parse("en"))}


@lru_cache(maxsize=1)
def _english_strings() -> frozenset[str]:
    return frozenset(map(_key, english().values()))


def _key(text: str) -> str:
    """Returns a key; strings with equal keys count as the same query for the split."""
    return text.casefold().strip()


@cache  # every task asks for every name
def is_test_name(text: str) -> bool:
    """Returns whether a string is a test query; English names are documents and never are."""
    return stable_id("test " + _key(text)) % TEST_SHARE == 0 and _key(text) not in _english_strings()


def read_cldr(task: str, split: str = "train") -> Iterator[Record]:
    """Yields the records of a task's split: `translation`, `kinds` (clustering) or `labels` (classification)."""
    return {"translation": _translation, "kinds": _kinds, "labels": _labels}[task](split == "test")


def _queries(test: bool, task: str = "") -> Iterator[Name]:
    """Yields the names of a split; for a task, a sample."""
    for name in names():
        if is_test_name(name.text) == test and not (task and stable_id(f"{task} {name.text}") % SAMPLE):
            yield name


def _translation(test: bool) -> Iterator[Record]:
    """Pairs a name in any language with its English name, against other English names of the same kind."""
    right: dict[str, set[str]] = defaultdict(set)  # query string → all its English names
    for name in names():
        if name.entity in english():
            right[_key(name.text)].add(english()[name.entity])
    pool: dict[str, dict[str, None]] = defaultdict(dict)  # kind → its distinct English names
    for entity, text in english().items():
        pool[entity.split(":")[0]][text] = None
    pools = {kind: list(texts) for kind, texts in pool.items()}
    seen = set()
    for name in _queries(test):
        answer = english().get(name.entity)
        if answer is None or name.text == answer or (name.text, answer) in seen:
            continue
        seen.add((name.text, answer))
        excluded = right[_key(name.text)] | {name.text}
        wrong = (text for text in _walk(pools[name.kind], name) if text not in excluded)
        negatives = tuple(islice(wrong, HARD_NEGATIVES))
        yield Record(
            *(name.text, answer, negatives, "retrieval", name.language, "cldr-names", name.entity),
            symmetric=True,
            positive_language="en",
        )


def _kinds(test: bool) -> Iterator[Record]:
    """Pairs a name with another name of its class: the kind of thing, and the continent if it has one.

    Negatives are names of other classes that share no class with any meaning of the query.
    """
    classes: dict[str, set[str]] = defaultdict(set)  # of a string: one string may name several things
    distinct: dict[str, dict[str, None]] = defaultdict(dict)
    for name in names():
        classes[_key(name.text)].add(_class(name))
        if is_test_name(name.text) == test:
            distinct[_class(name)][name.text] = None
    members = {kind: list(texts) for kind, texts in sorted(distinct.items())}
    every = list(members)
    for name in _queries(test, "kinds"):
        key, label = _key(name.text), _class(name)
        positive = next((text for text in _walk(members[label], name) if _key(text) != key), None)
        others = islice((kind for kind in _walk(every, name) if kind not in classes[key]), WRONG_CLASSES)
        negatives: list[str] = []
        for kind in others:
            unlike = (t for t in _walk(members[kind], name) if classes[key].isdisjoint(classes[_key(t)]))
            negatives += islice(unlike, 1)
        if positive and negatives:
            yield Record(name.text, positive, tuple(negatives), "clustering", name.language, "cldr-kinds", label)


def _labels(test: bool) -> Iterator[Record]:
    """Pairs a name with the word for its kind, against the word for a kind in which nothing has this name."""
    kinds: dict[str, set[str]] = defaultdict(set)
    for name in names():
        kinds[_key(name.text)].add(name.kind)
    seen = set()
    for name in _queries(test, "labels"):
        if (name.text, name.kind) in seen:
            continue
        seen.add((name.text, name.kind))
        wrong = (kind for kind in _walk(sorted(KINDS.values()), name) if kind not in kinds[_key(name.text)])
        negatives = tuple(islice(wrong, 1))
        if negatives:
            yield Record(name.text, name.kind, negatives, "classification", name.language, "cldr-labels", name.kind)


@lru_cache(maxsize=1)
def _continents() -> dict[str, str]:
    """Returns the continent of each territory, from the name of its first time zone, such as Africa/Nairobi."""
    from babel.core import get_global

    return {code: zones[0].split("/")[0] for code, zones in get_global("territory_zones").items() if zones}


def _class(name: Name) -> str:
    continent = _continents().get(name.code) if name.kind == "territory" else None
    return f"{name.kind} {continent}" if continent else name.kind


def _walk(pool: list[str], name: Name) -> Iterator[str]:
    """Yields each member of `pool` once, starting at a position given by a hash of the name."""
    start = stable_id("|".join(name))
    return (pool[(start + step * STRIDE) % len(pool)] for step in range(len(pool)))
