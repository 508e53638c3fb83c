"""XQuAD: for a question, its paragraph among all paragraphs of the same language."""

import pyarrow.compute as pc
from mteb.abstasks import AbsTaskRetrieval

from f2jax.evaluation.local_tasks import LocalTask, groups, like, retrieval, tag


class XQuAD(LocalTask, AbsTaskRetrieval):
    metadata = like("XQuADRetrieval", "XQuAD.local", "1,190 questions on 240 paragraphs, in each of 12 languages.")
    files = ("eval-xquad/corpus.parquet", "eval-xquad/queries.parquet", "eval-xquad/qrels.parquet")

    def subsets(self):
        corpus, queries, qrels = (self.table(i) for i in range(3))
        return {
            language: (
                [tag(language)],
                {"test": retrieval(rows, queries.filter(pc.field("language") == language), qrels)},
            )
            for language, rows in groups(corpus, "language")
        }
