"""Banking77: which of 77 intents has a customer's question?"""

import pyarrow.compute as pc
from datasets import DatasetDict
from mteb.abstasks import AbsTaskClassification

from f2jax.evaluation.local_tasks import LocalTask, dataset, like


class Banking77(LocalTask, AbsTaskClassification):
    """mteb's protocol: ten classifiers, each fitted on eight questions an intent."""

    metadata = like("Banking77Classification", "Banking77.local", "Questions to a bank in 77 intents, as published.")
    files = ("eval-banking77/data.parquet",)

    def subsets(self):
        splits = {
            split: dataset(self.table().filter(pc.field("split") == split), text="text", label="label")
            for split in ("train", "test")
        }
        return {"default": (["eng-Latn"], DatasetDict(splits))}
