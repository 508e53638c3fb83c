"""The options of `f2jax evaluate`."""

from dataclasses import dataclass, field
from typing import Literal

from f2jax.inference.options import Dtype, Precision


@dataclass(frozen=True)
class EvaluationOptions:
    """Model and tasks.

    By default, all tasks of --data are scored, or without --data the built-in ones, which need no download. All but the
    built-in tasks are run by mteb (pip install 'f2jax[mteb]').
    """

    output: str | None = None  # folder for the results, local or gs://; required for all but the built-in tasks
    model: str | None = None  # a folder, hub id, gs:// path or workdir (RUN, RUN@STEP, RUN@best), or mini
    dtype: Dtype = "float32"  # precision of the weights and the computation
    revision: str | None = None  # branch, tag or commit of a hub model
    max_length: int | None = None  # maximum tokens of a text, including the end token; None: the model's own limit
    fsdp: int = 1  # spread the weights over this many devices; 1: every device holds all of them
    name: str | None = None  # name of the model in the results; None: f2jax/ and the name of its folder
    # also score TF-IDF, random vectors, or the model with random weights; none: no baseline; (): tfidf and random if
    # all tasks are local
    baseline: tuple[Literal["tfidf", "random", "untrained", "none"], ...] = ()
    tasks: tuple[str, ...] = ()  # names of built-in tasks, local tasks, or tasks of mteb
    benchmark: str | None = None  # english, multilingual, german …, or a name that mteb knows, such as 'MTEB(eng, v2)'
    # folder with the data of the local tasks, or your own data: a FILE of pairs, scored pairs or labelled texts,
    # sts:FILE, classification:FILE, clustering:FILE or beir:FOLDER
    data: tuple[str, ...] = ()
    # NAME=COLUMN if the columns of your files have other names: query=Frage positive=Antwort
    columns: dict[str, str] = field(default_factory=dict)
    languages: tuple[str, ...] = ()  # only these languages, as ISO 639-3 codes: deu fra; (): all
    # numbers of dimensions to score; (): every second Matryoshka dimension
    dims: tuple[int | Literal["all"], ...] = ()
    # also score these, at the largest dimension; may be empty
    precisions: tuple[Precision, ...] = ("int8", "binary")
    # JSON file of {task, type of task, query or document: instruction}, perhaps with a 'template'; or the word none.
    # None: the instructions of F2LLM-v2 in mteb, in the template 'Instruct: … \nQuery: '
    prompts: str | None = None
    prompt: dict[str, str] = field(default_factory=dict)  # single instructions, which replace those of --prompts
    cache: str | None = None  # local folder for vectors, which you may delete; None: OUTPUT/vectors if that is local
