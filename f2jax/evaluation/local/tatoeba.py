"""Tatoeba: for a sentence, its English translation among those of all sentences of its language."""

from datasets import DatasetDict
from mteb.abstasks import AbsTaskBitextMining

from f2jax.evaluation.local_tasks import LocalTask, dataset, groups, like

ORIGINAL = like("Tatoeba", "Tatoeba.local", "Up to 1,000 sentences with their English translation, 112 languages.")


class Tatoeba(LocalTask, AbsTaskBitextMining):
    metadata = ORIGINAL
    files = ("eval-tatoeba/bitext.parquet",)

    def subsets(self):
        return {
            pair: (
                ORIGINAL.eval_langs[pair],
                DatasetDict(test=dataset(rows, sentence1="sentence1", sentence2="sentence2")),
            )
            for pair, rows in groups(self.table(), "subset")
        }
