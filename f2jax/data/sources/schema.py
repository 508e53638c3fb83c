"""A row of a file → the one record. Both column schemas end here.

Released F2LLM files have `query, passage, negative_1 … negative_24`; files with lists have
`query, positive, negatives` and may say `kind`, `language`, `source` and `label` (recipe 3.1).
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from f2jax.data.record import KINDS, Record
from f2jax.errors import UserError

NEGATIVE = re.compile(r"negative_(\d+)$")
SAYS_NOTHING = ("train", "test", "dev", "valid", "validation", "data", "default", "part")
_PART = re.compile(r"(_part\d+|-\d+-of-\d+)+$")
_HUB = "datasets--"  # how the hub's cache begins the name of a data set's folder
OPTIONAL = ("negatives", "kind", "language", "lang", "source", "label", "instruction", "symmetric")


@dataclass(frozen=True)
class Defaults:
    """What a file's rows are where they do not say it themselves."""

    source: str
    kind: str = "retrieval"

    @classmethod
    def of(cls, path: str, kinds: Iterable[str] = ()) -> "Defaults":
        """The source is named as `source_of` says. The first of `kinds` that fits it gives the kind.

        >>> Defaults.of("corpus/massive_intent_part2.parquet", ["massive_*=clustering"])
        Defaults(source='massive_intent', kind='clustering')

        Raises:
            UserError: an item of `kinds` is no `SOURCE=KIND`.
        """
        source = source_of(path)
        for item in kinds:
            pattern, _, kind = item.rpartition("=")
            if not pattern or kind not in KINDS:
                raise UserError(f"'{item}' among the kinds should be SOURCE=KIND, with a kind of {', '.join(KINDS)}.")
            if fnmatchcase(source, pattern):
                return cls(source, kind)
        return cls(source)


def source_of(path: str) -> str:
    """The source that a file belongs to: its name, without the number of a part or shard.

    A name that says nothing, such as `train-00000-of-00005`, gives way to that of the folder, or of the data set of
    the hub whose cache it lies in, with its subset where there is one.

    >>> source_of("corpus/massive_intent_part2.parquet"), source_of("nli/train-00000-of-00005.parquet")
    ('massive_intent', 'nli')
    >>> source_of("hub/datasets--org--squad/snapshots/0a1b/plain/train-00000-of-00001.parquet")
    'squad-plain'
    """
    path = PurePosixPath(path.removesuffix(".gz"))
    name = _PART.sub("", path.stem)
    if name not in SAYS_NOTHING:
        return name
    folders = [folder for folder in path.parts[:-1] if folder not in SAYS_NOTHING]
    start = max((i for i, folder in enumerate(folders) if folder.startswith(_HUB)), default=None)
    if start is not None:  # datasets--ORG--NAME/snapshots/REVISION/SUBSET
        return "-".join([folders[start].split("--")[-1], *folders[start + 3 :]])
    folder = folders[-1].strip("/:") if folders else ""
    return folder or name


def columns(path: str, present: Iterable[str]) -> list[str]:
    """The columns of a file that a record needs.

    Raises:
        UserError: a needed one is missing.
    """
    present = list(present)
    passage = next((name for name in ("positive", "passage") if name in present), None)
    if "query" not in present or passage is None:
        missing = "query" if "query" not in present else "positive (or passage)"
        raise UserError(f"{path} has no column {missing}; it has {', '.join(present) or 'none'}: rename one.")
    numbered = [name for name in present if NEGATIVE.match(name)]
    return ["query", passage, *numbered, *(name for name in OPTIONAL if name in present)]


def to_record(row: dict, defaults: Defaults, skipped: Counter, bare: bool = False) -> Record | None:
    """The record of a row; None, counted under a reason, where it cannot be trained on.

    Args:
        bare: take a row of any kind without negatives: they are to be mined.
    """
    query, positive = row.get("query"), row.get("positive", row.get("passage"))
    for text, name in ((query, "query"), (positive, "positive")):
        if text is None or (isinstance(text, str) and not text.strip()):
            skipped[f"empty {name}"] += 1
            return None
        if not isinstance(text, str):
            skipped[f"{name} is no text"] += 1
            return None
    listed = row.get("negatives")
    if listed is None:
        numbered = (key for key in row if NEGATIVE.match(key))
        listed = [row[key] for key in sorted(numbered, key=lambda key: int(NEGATIVE.match(key)[1]))]
    if not isinstance(listed, list):
        skipped["negatives are no list"] += 1
        return None
    negatives = tuple(text for text in listed if isinstance(text, str) and text.strip())
    kind = row.get("kind") or defaults.kind
    if kind not in KINDS:
        skipped[f"kind is none of {', '.join(KINDS)}"] += 1
        return None
    if kind != "retrieval" and not negatives and not bare:
        skipped[f"{kind} without negatives"] += 1
        return None
    label = row.get("label")
    return Record(
        query=query,
        positive=positive,
        negatives=negatives,
        kind=kind,
        language=str(row.get("language") or row.get("lang") or "und"),
        source=str(row.get("source") or defaults.source),
        label=None if label is None or label == "" else str(label),
        instruction=str(row["instruction"]) if row.get("instruction") else None,
        symmetric=bool(row.get("symmetric")),
    )


def to_records(
    path: str, rows: Iterable[dict], skipped: Counter, kinds: Iterable[str] = (), bare: bool = False
) -> Iterator[Record]:
    """The good rows of a file; `kinds` as in `Defaults.of`, `bare` as in `to_record`.

    Raises:
        UserError: not one row is good.
    """
    defaults, before, good = Defaults.of(path, kinds), skipped.copy(), 0
    for row in rows:
        record = to_record(row, defaults, skipped, bare)
        if record is not None:
            good += 1
            yield record
    if not good:
        reasons = ", ".join(f"{count} {reason}" for reason, count in (skipped - before).items())
        raise UserError(f"{path} has no usable row ({reasons or 'it is empty'}); mend or remove it.")
