"""The STS benchmark in 14 languages: does the cosine of two sentences rank pairs as people do?"""

import pyarrow.compute as pc
from datasets import DatasetDict
from mteb.abstasks import AbsTaskSTS

from f2jax.evaluation.local_tasks import LocalTask, dataset, groups, like, tag


class STSB(LocalTask, AbsTaskSTS):
    metadata = like(
        "STSBenchmarkMultilingualSTS",
        "STSB.local",
        "Test pairs of the STS benchmark in 14 languages, without the parts MSRpar, MSRvid and deft-*.",
    )
    files = ("eval-stsb-multi/sts.parquet",)

    def subsets(self):
        test = self.table().filter(pc.field("split") == "test")
        columns = {name: name for name in ("sentence1", "sentence2", "score")}
        return {
            language: ([tag(language)], DatasetDict(test=dataset(rows, **columns)))
            for language, rows in groups(test, "language")
        }
