"""Finds the prompts in a run's data, because a model is released with the prompts that it was trained with."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from f2jax import files
from f2jax.data.dataset import AnyDataset
from f2jax.data.instructions import add_instruction, split_instruction
from f2jax.data.skip_list import say_once
from f2jax.data.tokenizer import Tokenizer

PROMPTS_FILE = "prompts.json"  # file in a workdir: {name: text}
SAMPLED_ROWS = 64  # rows of each data set to look at
T = TypeVar("T")


def write_prompts(
    workdir: str | Path, configured: Mapping[str, str], datasets: Sequence[AnyDataset], tokenizer: Tokenizer
) -> None:
    """Writes the `released_prompts` of a run to its workdir, and warns about configured ones that are left out."""
    prompts = released_prompts(configured, datasets, tokenizer)
    if dropped := sorted(name for name, text in configured.items() if text and prompts.get(name) != text):
        say_once(
            f"Not released, since no text of the data begins with it: {', '.join(f'prompts.{n}' for n in dropped)}."
        )
    files.write_atomically(files.join(workdir, PROMPTS_FILE), json.dumps(prompts, indent=1, ensure_ascii=False) + "\n")


def read_prompts(workdir: str | Path) -> dict[str, str] | None:
    """Returns the prompts in a run's workdir, or None if an earlier version of f2jax wrote it."""
    path = files.join(workdir, PROMPTS_FILE)
    if not files.exists(path):
        return None
    return files.check_object({"prompts": files.read_json(path)}, path, {"prompts": dict[str, str]})["prompts"]


def released_prompts(
    configured: Mapping[str, str], datasets: Sequence[AnyDataset], tokenizer: Tokenizer
) -> dict[str, str]:
    """Returns the prompts to release: the configured ones that occur in the data, and others that occur there.

    `query` is the configured prompt if a data set has it, or else the prompt of most rows, which may be "". If the data
    have several instructions, a configured one is kept, because the model has learned to follow instructions.
    `document` is kept if the documents of a data set begin with it.

    Args:
        configured: {name: text}, with `query` and `document`.
    """
    rows_by_prompt: Counter[str] = Counter()
    first_name: dict[str, str] = {}
    document = configured.get("document", "")
    has_document = False
    for dataset in datasets:
        if not len(dataset):
            continue
        queries, documents = ([tokenizer.decode(ids.tolist()) for ids in texts] for texts in _sample(dataset))
        prompt = _most_common(_prompt_of(text, configured) for text in queries)
        if prompt:
            rows_by_prompt[prompt] += len(dataset)
            first_name.setdefault(prompt, dataset.name)
        has_document |= bool(documents) and _most_common(text.startswith(document) for text in documents)
    query = configured.get("query", "")
    if query not in rows_by_prompt:
        several_instructions = len(rows_by_prompt) > 1 and bool(split_instruction(query)[0])
        query = query if several_instructions else max(rows_by_prompt, key=rows_by_prompt.__getitem__, default="")
    prompts = {name: text for name, text in configured.items() if text in rows_by_prompt}
    prompts |= {"query": query, "document": document if has_document else ""}
    return prompts | {name: text for text, name in first_name.items() if text not in prompts.values()}


def _sample(dataset: AnyDataset) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns the tokens of the queries and of the positives of some evenly spread rows of a data set."""
    numbers = np.unique(np.linspace(0, len(dataset) - 1, min(SAMPLED_ROWS, len(dataset))).astype(np.int64))
    rows = dataset.rows(numbers.tolist(), (), 0)
    b_s, i_s = np.nonzero(rows.length_bi)
    return rows.tokens(b_s[i_s == 0], i_s[i_s == 0]), rows.tokens(b_s[i_s == 1], i_s[i_s == 1])


def _prompt_of(text: str, configured: Mapping[str, str]) -> str:
    """Returns the prompt of a query: its instruction, or the longest configured prompt that the text begins with."""
    task, _ = split_instruction(text)
    if task:
        return add_instruction("", task)
    return max((prompt for prompt in configured.values() if text.startswith(prompt)), key=len, default="")


def _most_common(values: Iterable[T]) -> T:
    return Counter(values).most_common(1)[0][0]
