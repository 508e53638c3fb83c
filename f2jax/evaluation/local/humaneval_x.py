"""HumanEval-X: for a problem in English, its solution among all solutions in one programming language."""

from mteb.abstasks import AbsTaskRetrieval

from f2jax.evaluation.local_tasks import LocalTask, groups, like, retrieval

NAMES = {"cpp": "c++"}  # as mteb writes them


class HumanEvalX(LocalTask, AbsTaskRetrieval):
    metadata = like("HumanEvalRetrieval", "HumanEvalX.local", "164 problems and their solutions in six languages.")
    files = ("eval-humaneval-x/corpus.parquet", "eval-humaneval-x/queries.parquet", "eval-humaneval-x/qrels.parquet")

    def subsets(self):
        corpus, queries, qrels = (self.table(i) for i in range(3))
        found = {}
        for code, rows in groups(corpus, "language"):
            name = code.removeprefix("code:")
            found[name] = (["eng-Latn", f"{NAMES.get(name, name)}-Code"], {"test": retrieval(rows, queries, qrels)})
        return found
