"""`f2jax cache_teacher`: embed a corpus with a teacher, once for all trainings."""

from dataclasses import dataclass
from typing import Literal

from f2jax.commands.options import Arguments, changed
from f2jax.errors import UserError
from f2jax.inference.options import Dtype


@dataclass(frozen=True)
class CacheOptions:
    """What is embedded, by what."""

    corpus: str  # folder that f2jax prepare wrote
    output: str | None = None  # folder for the vectors: teacher.cache of a training config
    model: str | None = None  # the teacher: folder, hub id, gs:// path or training workdir
    dtype: Dtype = "float32"  # type of weights and matmuls
    width: int = 0  # keep this many dimensions, as many as the student has; 0: all
    store: Dtype = "bfloat16"  # type of the stored numbers
    batch_size: int = 1024  # maximum number of texts in a device batch


@dataclass(frozen=True)
class OutsideOptions:
    """Vectors that another tool makes, instead of a model."""

    list_texts: str | None = None  # .jsonl file for the texts to embed, each once; nothing else is done
    vectors: str | None = None  # .npy file with a row for each of the --texts
    texts: str | None = None  # file of the texts that were embedded, such as that of --list-texts
    # how --width is reached: leading dimensions, if the teacher is Matryoshka's, or principal components
    reduce: Literal["", "first", "pca"] = ""
    center: bool = False  # subtract the mean over all texts; --reduce pca does
    # power by which --reduce pca evens out the deviations of the components, from 0, as they are, to 1, all equal
    whiten: float = 0.0
    pivot: str = ""  # language whose side of bitext gives its vector to the other side
    pivot_sources: tuple[str, ...] = ()  # data sets that are bitext, by name or pattern; (): all retrieval


def main(argv: list[str]) -> None:
    arguments = Arguments(
        "cache_teacher",
        "Embed a prepared corpus with a teacher, once; run again, the same command resumes.",
        "--corpus corpus --model runs/0.6b --output vectors --width 320",
        argv,
        CacheOptions,
        OutsideOptions,
    )
    options, outside = arguments.read(CacheOptions), arguments.read(OutsideOptions)
    if not outside.list_texts and (not options.output or bool(options.model) == bool(outside.vectors)):
        raise UserError("f2jax cache_teacher needs --output and either --model or --vectors, or else --list-texts.")
    if bool(outside.vectors) != bool(outside.texts):
        raise UserError("--vectors and --texts belong together: the rows of one are those of the other.")
    if options.model and (given := changed(outside, "reduce", "center", "whiten", "pivot", "pivot_sources")):
        raise UserError(f"{given} is for --vectors; leave it out, or embed the texts of --list-texts.")

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
                *pivot,
            )
        )
    else:
        assert options.model
        source = lib.by_model(options.model, options.dtype, corpus, options.batch_size)
    with output_folder(options.output, "folder of teacher vectors", ("vectors.json",), local_only=True):
        info = lib.cache_teacher(corpus, options.output, source, options.width, options.store)
    print(
        f"{options.output}: vectors of {info.width} x {info.dtype}, {info.describe()}; train with "
        f"--config.teacher.cache={options.output} --config.data.sources=\"('corpus:{options.corpus}',)\"."
    )
