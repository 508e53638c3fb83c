"""Evaluation on the built-in tasks: accuracy@1 at every Matryoshka dimension, next to character n-gram TF-IDF."""

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from f2jax import files
from f2jax.data.record import stable_id
from f2jax.data.sources import cldr, stdlib
from f2jax.errors import UserError, did_you_mean, require_extra
from f2jax.evaluation.variants import Variant
from f2jax.inference.vectors import scale_to_unit
from f2jax.tables import text_table

RESULTS, TABLE, PLOT = "results.json", "results.txt", "dimensions.png"
EARLIER = "earlier"  # in it, a folder for each model that was scored before the one whose results are beside it

# The tasks


@dataclass(frozen=True)
class RetrievalTask:
    """Queries, candidate documents, and the numbers of each query's relevant documents."""

    name: str
    queries: list[str]
    documents: list[str]
    answers: list[set[int]]
    languages: list[str]  # of the queries


def cldr_names() -> RetrievalTask:
    """Finds the English name for each test name. A name of several things has several right answers."""
    return _names_task("cldr-names", cldr.english())


def cldr_across() -> RetrievalTask:
    """Finds the name of the same thing in a list that has one name per thing, in any language but English.

    A hash chooses the language of each name in the list; no test name is in it.
    """
    texts: dict[str, str] = {}
    drawn: dict[str, int] = {}
    for name in cldr.names():
        draw = stable_id("across " + "|".join(name))
        if name.language != "en" and not cldr.is_test_name(name.text) and draw < drawn.get(name.entity, draw + 1):
            texts[name.entity], drawn[name.entity] = name.text, draw
    return _names_task("cldr-across", texts)


def _names_task(task: str, texts: Mapping[str, str]) -> RetrievalTask:
    """Returns a task with the test names as queries and the names of all things, `texts`, as documents."""
    documents = sorted(set(texts.values()))
    number = {text: i for i, text in enumerate(documents)}
    answers: dict[str, set[int]] = {}
    languages: dict[str, str] = {}
    for name in cldr.names():
        if name.entity in texts and cldr.is_test_name(name.text):
            answers.setdefault(name.text, set()).add(number[texts[name.entity]])
            languages.setdefault(name.text, name.language)
    return RetrievalTask(task, list(answers), documents, list(answers.values()), list(languages.values()))


def stdlib_code() -> RetrievalTask:
    """Finds the function that each held-out docstring describes, among all held-out functions."""
    functions = [function for function in stdlib.functions() if stdlib.is_test_function(function)]
    return RetrievalTask(
        "stdlib-code",
        [function.summary for function in functions],
        [function.code for function in functions],
        [{i} for i in range(len(functions))],
        ["code:python"] * len(functions),
    )


TASKS = {"cldr-names": cldr_names, "cldr-across": cldr_across, "stdlib-code": stdlib_code}

# The tasks in `f2jax.evaluation.local`, listed here so that help and error messages do not need mteb.
LOCAL_NAMES = (
    "Tatoeba.local", "STSB.local", "Banking77.local", "SIB200.local", "SIB200Clustering.local", "XQuAD.local",
    "HumanEvalX.local",
)  # fmt: skip


def load_task(name: str) -> RetrievalTask:
    """Returns a built-in task; raises UserError if the name is unknown."""
    if name not in TASKS:
        raise UserError(f"There is no built-in task '{name}'{did_you_mean(name, TASKS)}")
    return TASKS[name]()


def unknown_task(name: str, names: Iterable[str] = (*TASKS, *LOCAL_NAMES)) -> UserError:
    """Returns the error for an unknown task, with the most similar of `names` and the tasks of f2jax."""
    folded = {known.lower(): known for known in names} | {known.split(".")[0].lower(): known for known in LOCAL_NAMES}
    close = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.6)
    hint = f"; did you mean '{folded[close[0]]}'?" if close else "."
    return UserError(
        f"There is no task '{name}'{hint} Built-in tasks are {', '.join(TASKS)}; with --data there are also "
        f"{', '.join(LOCAL_NAMES)}; all others need pip install 'f2jax[mteb]'."
    )


# Scores


def accuracy_at_1(similarity_qc: np.ndarray, answers: Iterable[set[int]]) -> float:
    """Returns the share of queries whose most similar document is relevant."""
    best_q = similarity_qc.argmax(axis=1)
    return float(np.mean([int(best) in right for best, right in zip(best_q, answers, strict=True)]))


def score_dimensions(embedder, task: RetrievalTask) -> dict[int, float]:
    """Returns accuracy@1 at each Matryoshka dimension, from one encoding of queries and documents.

    Queries get the prompt with the task's name, or else the one named `query`, if the model has one.
    """
    prompt = task.name if task.name in embedder.prompts else None
    whole = {"truncate_dim": embedder.dim, "normalize_embeddings": False}
    queries_qe = embedder.encode_query(task.queries, prompt_name=prompt, **whole)
    documents_ce = embedder.encode_document(task.documents, **whole)
    scores = {}
    for dim in sorted(embedder.matryoshka_dims):
        cut = (scale_to_unit(x_ie[:, :dim]) for x_ie in (queries_qe, documents_ce))  # as `encode` returns them
        scores[dim] = accuracy_at_1(embedder.similarity(*cut), task.answers)
    return scores


def tfidf_vectors(texts: Sequence[str], corpus: Sequence[str], features: int = 2**20):
    """Returns sparse TF-IDF vectors [i, features] of the character 1- to 4-grams inside words, normalized.

    Args:
        corpus: texts for the document frequencies; n-grams that occur in none of them are ignored.
        features: number of buckets that n-grams are hashed to.
    """
    from scipy.sparse import diags_array
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.preprocessing import normalize

    options = {"analyzer": "char_wb", "ngram_range": (1, 4), "alternate_sign": False, "norm": None}
    vectorizer = HashingVectorizer(n_features=features, dtype=np.float32, **options)
    counts_cf = vectorizer.transform(corpus)
    weights = TfidfTransformer(sublinear_tf=True, norm=None).fit(counts_cf)
    occurs_f = np.asarray(counts_cf.astype(bool).sum(axis=0)).reshape(-1) > 0
    return normalize(weights.transform(vectorizer.transform(texts)) @ diags_array(occurs_f.astype(np.float32)))


def tfidf_score(task: RetrievalTask) -> float:
    """Returns accuracy@1 of TF-IDF with the document frequencies of the task's documents."""
    queries_qf, documents_cf = (tfidf_vectors(texts, task.documents) for texts in (task.queries, task.documents))
    return accuracy_at_1((queries_qf @ documents_cf.T).toarray(), task.answers)


def evaluate_builtin(embedder, names: Iterable[str] = TASKS) -> dict[str, dict]:
    """Returns {task: {`dims`: {dimension: accuracy}, `tfidf`, `queries`, `documents`}}, the last two as numbers.

    Raises:
        UserError: a task is unknown, or the `eval` extra is not installed.
    """
    require_extra("eval", "f2jax evaluate", "sklearn", "matplotlib")
    return {
        task.name: {
            "queries": len(task.queries),
            "documents": len(task.documents),
            "tfidf": tfidf_score(task),
            "dims": score_dimensions(embedder, task),
        }
        for task in [load_task(name) for name in names]
    }


# Tables and files


def accuracy_table(results: dict[str, dict]) -> str:
    """Returns the results as a text table with a row for each task and a column for each dimension."""
    dims = sorted({dim for result in results.values() for dim in result["dims"]})
    rows = [("accuracy@1", "queries", "docs", "TF-IDF", *map(str, dims))]
    for name, result in results.items():
        scores = [f"{score:.1%}" for score in (result["tfidf"], *(result["dims"][dim] for dim in dims))]
        rows.append((name, f"{result['queries']:,}", f"{result['documents']:,}", *scores))
    return text_table(rows)


def plot_results(results: dict[str, dict]) -> bytes:
    """Returns a plot of score against dimension as PNG, with TF-IDF as dashed lines."""
    from f2jax.evaluation.plots import Curve, plot_dimensions

    curves = []
    for color, (name, result) in enumerate(results.items()):
        scores = [(Variant(dim), 100 * score) for dim, score in result["dims"].items()]
        curves.append(Curve(name, color, scores))
        curves.append(Curve(f"{name}, TF-IDF", color, [(Variant(0), 100 * result["tfidf"])]))
    return plot_dimensions({"held-out queries": curves}, "accuracy@1, %")


def stored_results(folder: str | Path) -> dict[str, dict]:
    """Returns {folder: content of its `results.json`}: of `folder`, local or gs://, and those in its `earlier`.

    Raises:
        UserError: a file cannot be read.
    """
    earlier = files.join(folder, EARLIER)
    names = sorted(files.list_names(earlier)) if files.exists(earlier) else []
    folders = [str(folder), *(files.join(earlier, name) for name in names)]
    paths = {place: files.join(place, RESULTS) for place in folders}
    return {place: files.read_json_object(path) for place, path in paths.items() if files.exists(path)}


def write_results(
    results: dict[str, dict], folder: str | Path, revision: str, model: str = "", parameters: int | None = None
) -> None:
    """Writes `results.json`, `results.txt` and `dimensions.png` into a folder, local or gs://.

    Results of the same model on other tasks stay in these files. Those of another model move to `earlier/`.

    Args:
        revision: the model's fingerprint.
        model: its name in reports; default: the folder's name.

    Raises:
        UserError: the folder cannot be written, or the results in it cannot be read.
    """
    stored = stored_results(folder)
    for place, old in stored.items():
        if old.get("revision") == revision:
            results = _task_results(old, place) | results
        elif place == str(folder):
            parts = (old.get("model") or "model", str(old.get("revision", ""))[:12])
            name = "-".join(filter(None, parts)).replace("/", "__")
            _copy_results(folder, files.join(files.join(folder, EARLIER), name))
    content = {"model": model, "revision": revision, "parameters": parameters, "tasks": results}
    files.write_atomically(files.join(folder, RESULTS), json.dumps(content, indent=2) + "\n")
    files.write_atomically(files.join(folder, TABLE), accuracy_table(results) + "\n")
    files.write_atomically(files.join(folder, PLOT), plot_results(results))
    for place, old in stored.items():
        if place != str(folder) and old.get("revision") == revision:
            for name in (RESULTS, TABLE, PLOT):
                files.remove_file(files.join(place, name))


def _task_results(content: dict, folder: str) -> dict[str, dict]:
    """Returns the results in a `results.json`, with dimensions as numbers."""
    path = files.join(folder, RESULTS)
    fields = {"queries": int, "documents": int, "tfidf": float, "dims": dict[str, float]}
    tasks = files.check_object(content, path, {"tasks": dict[str, dict]})["tasks"]
    for name, task in tasks.items():
        files.check_object(task, f"The task {name} in {path}", fields)
    return {name: task | {"dims": {int(dim): x for dim, x in task["dims"].items()}} for name, task in tasks.items()}


def _copy_results(folder: str | Path, target: str) -> None:
    for name in (TABLE, PLOT, RESULTS):
        if files.exists(path := files.join(folder, name)):
            files.write_atomically(files.join(target, name), files.read_bytes(path))


def model_name(model: str, name: str | None = None) -> str:
    """Returns a name ORG/NAME, as mteb requires: the given name, the hub id, or f2jax/ and the folder's name."""
    if name:
        return name if "/" in name else f"f2jax/{name}"
    here = [name for name in (model, model.rpartition("@")[0]) if name]  # also the run of RUN@STEP
    is_folder = any(Path(name).expanduser().is_dir() for name in here)
    if files.is_remote(model) or is_folder or model in files.built_in_models():
        return f"f2jax/{model.rstrip('/').rpartition('/')[2]}"
    return model
