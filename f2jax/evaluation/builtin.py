"""Evaluation on the built-in held-out sets: accuracy@1 at every dimension, beside character n-gram TF-IDF."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from f2jax import files
from f2jax.errors import require_extra
from f2jax.evaluation.tasks import TASKS, RetrievalTask, load_task


def accuracy(similarity_qd: np.ndarray, answers: Iterable[set[int]]) -> float:
    """Share of the queries whose most similar document is a right answer."""
    best_q = similarity_qd.argmax(axis=1)
    return float(np.mean([int(best) in right for best, right in zip(best_q, answers, strict=True)]))


def scores(embedder, task: RetrievalTask) -> dict[int, float]:
    """Accuracy@1 at each Matryoshka dimension, from one encoding of queries and documents.

    Queries carry the prompt that has the task's name, else the one named `query`, where the model has one.
    """
    prompt = task.name if task.name in embedder.prompts else None
    q_qe = embedder.encode_query(task.queries, prompt_name=prompt, normalize_embeddings=False)
    d_de = embedder.encode_document(task.documents, normalize_embeddings=False)
    return {
        dim: accuracy(embedder.similarity(q_qe[:, :dim], d_de[:, :dim]), task.answers)
        for dim in sorted(embedder.matryoshka_dims)
    }


def tfidf_score(task: RetrievalTask) -> float:
    """Accuracy@1 of TF-IDF over character n-grams of 1 to 4 inside words, fitted on the documents."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True)
    documents = vectorizer.fit_transform(task.documents)
    queries = vectorizer.transform(task.queries)
    return accuracy((queries @ documents.T).toarray(), task.answers)


def evaluate_builtin(embedder, names: Iterable[str] = TASKS) -> dict[str, dict]:
    """Results by task: `dims` {dimension: accuracy}, `tfidf`, and the numbers of queries and documents.

    Raises:
        UserError: there is no such task, or the `eval` extra is not installed.
    """
    require_extra("eval", "Evaluation", "sklearn", "matplotlib")
    return {
        task.name: {
            "queries": len(task.queries),
            "documents": len(task.documents),
            "tfidf": tfidf_score(task),
            "dims": scores(embedder, task),
        }
        for task in [load_task(name) for name in names]
    }


def table(results: dict[str, dict]) -> str:
    """The results as text: a line for each task, a column for each dimension."""
    dims = sorted({dim for result in results.values() for dim in result["dims"]})
    head = f"{'accuracy@1':<14}{'queries':>9}{'docs':>7}{'TF-IDF':>9}" + "".join(f"{dim:>8}" for dim in dims)
    lines = [head, "-" * len(head)]
    for name, result in results.items():
        cells = "".join(f"{result['dims'][dim]:>8.1%}" for dim in dims)
        lines.append(f"{name:<14}{result['queries']:>9,}{result['documents']:>7,}{result['tfidf']:>9.1%}{cells}")
    return "\n".join(lines)


def plot(results: dict[str, dict], path: str | Path) -> None:
    """Score against dimension as a PNG, with TF-IDF as a dashed line."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), dpi=150)
    for number, (name, result) in enumerate(results.items()):
        color = f"C{number}"
        dims = list(result["dims"])
        axes.plot(dims, [100 * result["dims"][dim] for dim in dims], "o-", color=color, label=name)
        axes.axhline(100 * result["tfidf"], ls="--", color=color, alpha=0.6, label=f"{name}, TF-IDF")
    axes.set_xscale("log", base=2)
    axes.set_xticks(dims, [str(dim) for dim in dims])
    axes.minorticks_off()
    axes.set_ylim(0, 100)
    axes.set_xlabel("dimensions kept (truncate, then normalize)")
    axes.set_ylabel("accuracy@1 on held-out queries, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, format="png")
    plt.close(figure)


def write(results: dict[str, dict], folder: str | Path, revision: str) -> None:
    """Write `results.json`, `results.txt` and `dimensions.png` into a folder, local or gs://.

    Args:
        revision: the fingerprint of the model.

    Raises:
        UserError: the folder cannot be written.
    """
    content = {"revision": revision, "tasks": results}
    files.write_atomically(files.join(folder, "results.json"), json.dumps(content, indent=2) + "\n")
    files.write_atomically(files.join(folder, "results.txt"), table(results) + "\n")
    picture = files.join(folder, "dimensions.png")
    with files.atomic_path(picture) as part, files.clear_errors(picture, "written"):
        plot(results, part)
