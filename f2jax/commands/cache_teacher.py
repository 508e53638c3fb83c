"""`f2jax cache-teacher`: embed a corpus with a teacher, once for all trainings."""

from dataclasses import dataclass
from shlex import quote
from typing import Literal

from f2jax.commands.options import Arguments, changed
from f2jax.errors import UserError
from f2jax.inference.options import Dtype


@dataclass(frozen=True)
class CacheOptions:
    """Corpus and teacher."""

    corpus: str  # folder that f2jax prepare wrote
    output: str | None = None  # folder for the vectors, for teacher.cache of a training config
    model: str | None = None  # the teacher: a folder, hub id, gs:// path or workdir
    dtype: Dtype = "float32"  # precision of the weights and the computation
    width: int = 0  # keep this many dimensions, as many as the student has; 0: all
    store: Dtype = "bfloat16"  # precision of the stored vectors
    batch_size: int = 1024  # largest number of texts in a batch


@dataclass(frozen=True)
class OutsideOptions:
    """Vectors from another tool, instead of --model."""

    list_texts: str | None = None  # only write the texts to embed, each once, to this .jsonl file
    vectors: str | None = None  # .npy file with a row for each text of --texts
    texts: str | None = None  # file with the texts that were embedded, such as the one of --list-texts
    # how to reach --width: by the first dimensions, for a Matryoshka teacher, or by principal components
    reduce: Literal["", "first", "pca"] = ""
    center: bool = False  # subtract the mean over all texts, which --reduce pca always does
    # how far --reduce pca evens out the variances of the components, from 0 (not at all) to 1 (all equal)
    whiten: float = 0.0
    like: str = ""  # reduce as these vectors were, which --reduce pca made, so that coordinates mean the same
    pivot: str = ""  # language whose side of bitext rows gives its vector to the other side
    pivot_sources: tuple[str, ...] = ()  # data sets of bitext, by name or pattern; (): all retrieval data sets


def main(argv: list[str]) -> None:
    arguments = Arguments(
        "cache-teacher",
        "Embed a prepared corpus with a teacher, once for all trainings. The same command resumes.",
        "--corpus corpus --model runs/0.6b --output vectors --width 320",
        argv,
        CacheOptions,
        OutsideOptions,
    )
    options, outside = arguments.read(CacheOptions), arguments.read(OutsideOptions)
    if not outside.list_texts and (not options.output or bool(options.model) == bool(outside.vectors)):
        raise UserError("f2jax cache-teacher needs --output and either --model or --vectors, or else --list-texts.")
    if bool(outside.vectors) != bool(outside.texts):
        raise UserError("--vectors and --texts go together: give both, with a row for each text.")
    if options.model and (given := changed(outside, "reduce", "center", "whiten", "like", "pivot", "pivot_sources")):
        raise UserError(f"{given} is for --vectors; leave it out, or embed the texts of --list-texts.")
    if not options.model and (given := changed(options, "dtype", "batch_size")):
        raise UserError(f"{given} would change nothing without --model; leave that out.")

    from f2jax.data.corpus import PreparedCorpus
    from f2jax.outputs import output_file, output_folder
    from f2jax.train import cache_teacher as lib
    from f2jax.train import outside_teacher

    corpus, pivot = PreparedCorpus(options.corpus), (outside.pivot, outside.pivot_sources)
    corpus.fetch(texts=bool(outside.list_texts or outside.texts))
    if outside.list_texts:
        with output_file(outside.list_texts, "list of texts"):
            print(f"{outside.list_texts}: {outside_teacher.list_texts(corpus, outside.list_texts, *pivot):,} texts.")
        return
    assert options.output  # checked above
    if outside.vectors and outside.texts:
        source = outside_teacher.from_file(
            *(
                outside.vectors,
                outside.texts,
                corpus,
                options.width,
                outside.reduce,
                outside.center,
                outside.whiten,
                outside.like,
                *pivot,
            )
        )
    else:
        assert options.model
        source = lib.by_model(options.model, options.dtype, corpus, options.batch_size)
    with output_folder(options.output, "folder of teacher vectors", ("vectors.json",), local_only=True):
        info = lib.cache_teacher(corpus, options.output, source, options.width, options.store)
    print(
        f"{options.output}: vectors of {info.width} x {info.dtype}, {info.describe()}.\nNext: f2jax train with "
        f"--config.teacher.cache={quote(options.output)} --config.data.sources=\"('corpus:{options.corpus}',)\""
    )
