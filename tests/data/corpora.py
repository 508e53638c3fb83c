"""Small inputs for corpora, prepared in a moment."""

import json
from pathlib import Path

import numpy as np

from f2jax.data.dataset import Row, RowTexts
from f2jax.data.instructions import Instructions
from f2jax.data.tokenizer_training import train_sentencepiece
from f2jax.prepare.options import PrepareOptions
from f2jax.prepare.run import prepare
from tests.tiny import WORDS

TASK = "Find the same colour."
OPTIONS = PrepareOptions(max_length=32, instructions=Instructions(by_name={"retrieval": TASK}), validation_share=0.2)
HOSTILE = [
    "\ud800 lone",
    "nul \0 inside",
    "zero\u200bwidth \u202ebidi",
    "mixed\r\nnew\rlines\n",
    "x" * 100_000,
    "😀" * 9,
]


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows(count: int, seed: int = 0, **changes) -> list[dict]:
    """Queries come twice now and then; documents are used by many rows, negatives are 0 to 4."""
    rng = np.random.default_rng(seed)

    def phrase(most: int) -> str:
        return " ".join(rng.choice(WORDS, rng.integers(1, most)))

    return [
        {
            "query": f"{phrase(3)} {i - i % 7 % 2}",
            "positive": phrase(4),
            "negatives": [phrase(4) for _ in range(1 + i % 4)],
            "language": ["en", "de", "sw"][i % 3],
        }
        | changes
        for i in range(count)
    ]


def write_inputs(folder: Path) -> list[str]:
    """Three data sets in four files: `pairs` in two parts, `colours` and `hostile` mixed in another two."""
    folder.mkdir(parents=True, exist_ok=True)
    colours = [
        row | {"label": WORDS[i % 3], "instruction": TASK}
        for i, row in enumerate(rows(60, 3, source="colours", kind="clustering"))
    ]
    hostile = [row | {"positive": HOSTILE[i % 6], "query": HOSTILE[-1 - i % 6]} for i, row in enumerate(rows(24, 4))]
    hostile = [row | {"source": "../hostile name"} for row in hostile]
    return [
        write(folder / "pairs.jsonl", rows(80, 1)),
        write(folder / "pairs_part2.jsonl", rows(40, 2)),
        write(folder / "mixed.jsonl", [row for pair in zip(colours[:24], hostile, strict=True) for row in pair]),
        write(folder / "more.jsonl", [*colours[24:], {"query": "", "positive": "no query"}]),
    ]


def make_tokenizer(folder: Path):
    texts = [row["query"] for row in rows(90)] + [TASK]
    return train_sentencepiece([f"Instruct: {TASK}\nQuery: {text}" for text in texts], 400, folder)


def make(folder: Path, inputs: list[str] | None = None, options: PrepareOptions = OPTIONS, **how) -> dict:
    """The card of a corpus in `folder/corpus`, made of `inputs` with a tokenizer in `folder/tokenizer`."""
    if not (folder / "tokenizer").exists():
        make_tokenizer(folder / "tokenizer")
    inputs = write_inputs(folder / "in") if inputs is None else inputs
    return prepare(inputs, folder / "corpus", folder / "tokenizer", options, **how)


def listed(texts: RowTexts) -> list[Row]:
    """The rows that a data set gives, with all of their tokens."""
    found = []
    for b, label in enumerate(texts.label_b.tolist()):
        (present,) = np.nonzero(texts.length_bi[b])
        query, *documents = texts.tokens(np.full(len(present), b), present)
        first, *others = [*texts.id_bi[b, present[1:]].tolist(), -1][: max(len(documents), 1)]
        found.append(Row(query, documents[0] if documents else None, documents[1:], first, others, label))
    return found
