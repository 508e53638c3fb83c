"""SIB-200: the topic of a sentence, in 205 language variants; by a classifier, and by clusters."""

import pyarrow.compute as pc
from datasets import DatasetDict
from mteb.abstasks import AbsTaskClassification, AbsTaskClustering

from f2jax.evaluation.local_tasks import LocalTask, dataset, groups, like

DEV, TRAIN = "eval-sib200-dev/data.parquet", "sib200-topics/train.parquet"


def variants(table):
    """(ace_Arab, rows) for each language in each of its scripts."""
    for language, rows in groups(table, "language"):
        for script, some in groups(rows, "script"):
            yield f"{language}_{script}", some


class SIB200(LocalTask, AbsTaskClassification):
    """One classifier a language, fitted on all its train sentences: these are 50 at most."""

    metadata = like("SIB200Classification.v3", "SIB200.local", "Topics of the dev sentences, fitted on train ones.")
    files = (DEV, TRAIN)
    samples_per_label = 50
    n_experiments = 1

    def subsets(self):
        rows = self.table(1).filter(pc.field("kind") == "classification")
        train = dict(groups(rows, "subset"))
        return {
            name: (
                [name.replace("_", "-")],
                DatasetDict(
                    train=dataset(train[name], text="query", label="label"),
                    test=dataset(some, text="text", label="label"),
                ),
            )
            for name, some in variants(self.table())
        }


class SIB200Clustering(LocalTask, AbsTaskClustering):
    """k-means with k = 7 on samples of a language's 99 sentences, drawn with replacement as mteb does."""

    metadata = like("SIB200ClusteringS2S", "SIB200Clustering.local", "Topics of the dev sentences as clusters.")
    files = (DEV,)
    max_fraction_of_documents_to_embed = None
    max_documents_per_cluster = 99
    n_clusters = 10

    def subsets(self):
        return {
            name: ([name.replace("_", "-")], DatasetDict(test=dataset(some, sentences="text", labels="label")))
            for name, some in variants(self.table())
        }
