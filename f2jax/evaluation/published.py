"""The published scores of F2LLM-v2, from `published.json` (recipe 4.2 and 4.4)."""

import json
from functools import cache
from importlib import resources


@cache
def load_published() -> dict:
    """Returns `benchmarks` {short name: mteb's name}, `parameters`, `scores` (in that order), `types` and `tasks`."""
    return json.loads(resources.files("f2jax.evaluation").joinpath("published.json").read_text())


def benchmark_scores() -> dict[str, dict[str, float]]:
    """Returns {model: {benchmark, as mteb calls it: mean of its tasks, in percent}}."""
    names = list(load_published()["benchmarks"].values())
    return {model: dict(zip(names, values, strict=True)) for model, values in load_published()["scores"].items()}
