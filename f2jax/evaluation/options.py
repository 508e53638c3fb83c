"""The options of `f2jax evaluate`."""

from dataclasses import dataclass, field
from typing import Literal

from f2jax.inference.options import Dtype, Precision


@dataclass(frozen=True)
class EvaluationOptions:
    """What is scored, and on which tasks.

    By default the tasks are those of --data; without --data, the built-in ones, for which nothing is installed or
    downloaded. All others run by mteb (pip install 'f2jax[mteb]').
    """

    output: str | None = None  # folder of the results, local or on gs://; tasks of mteb need it
    model: str | None = None  # folder, hub id, gs:// path, workdir (RUN, RUN@STEP or RUN@best), or the built-in mini
    dtype: Dtype = "float32"  # type of weights and matmuls
    revision: str | None = None  # branch, tag or commit of a hub id
    max_length: int | None = None  # tokens that are read of a text, end token included; None: the model's own limit
    fsdp: int = 1  # devices that share one copy of the weights; 1: each has all
    name: str | None = None  # name of the model in the results; None: f2jax/ and its folder's name
    # also score TF-IDF, random vectors, or the model with fresh weights; (): the first two if all tasks are local; none
    baseline: tuple[Literal["tfidf", "random", "untrained", "none"], ...] = ()
    tasks: tuple[str, ...] = ()  # names of built-in tasks, local ones, or mteb's
    benchmark: str | None = None  # english, multilingual, german …, or mteb's name: 'MTEB(eng, v2)'
    # folder of the local tasks' data, or your own: FILE of pairs, scored pairs or labelled texts, sts:FILE,
    # classification:FILE, clustering:FILE, beir:FOLDER
    data: tuple[str, ...] = ()
    # NAME=COLUMN where your own files call theirs otherwise: query=Frage positive=Antwort
    columns: dict[str, str] = field(default_factory=dict)
    languages: tuple[str, ...] = ()  # only these, as ISO 639-3 codes: deu fra; (): all
    # dimensions to score; (): every second Matryoshka dimension
    dims: tuple[int | Literal["all"], ...] = ()
    precisions: tuple[Precision, ...] = ("int8", "binary")  # at the largest dimension; may be none
    # JSON file {task, type or query: instruction}, with 'template'; or none. None: the instructions of F2LLM-v2 in
    # mteb, after the template 'Instruct: … \nQuery: '
    prompts: str | None = None
    prompt: dict[str, str] = field(default_factory=dict)  # instructions by name, instead of those of --prompts
    cache: str | None = None  # local folder of the vectors, which may be deleted; None: OUTPUT/vectors if local
