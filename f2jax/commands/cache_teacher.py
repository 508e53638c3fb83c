"""`f2jax cache_teacher`: embed a corpus with a teacher, once for all trainings."""

from dataclasses import dataclass

from f2jax.commands.options import Arguments
from f2jax.errors import UserError
from f2jax.inference.options import Dtype


@dataclass(frozen=True)
class CacheOptions:
    """What is embedded, by what."""

    corpus: str  # folder that f2jax prepare wrote
    output: str | None = None  # folder for the vectors: teacher.cache of a training config
    model: str | None = None  # the teacher: folder, hub id, gs:// path or training workdir
    dtype: Dtype = "float32"  # type of weights and matmuls
    width: int = 0  # keep this many leading dimensions, as many as the student has; 0: all
    store: Dtype = "bfloat16"  # type of the stored numbers
    batch_size: int = 1024  # maximum number of texts in a device batch
    vectors: str | None = None  # .npy made elsewhere, with a row for each text, instead of --model
    list_texts: str | None = None  # .jsonl file for these texts, in order; nothing else is done


def main(argv: list[str]) -> None:
    options = Arguments(
        "cache_teacher",
        "Embed a prepared corpus with a teacher, once; run again, the same command resumes.",
        "--corpus corpus --model runs/0.6b --output vectors --width 320",
        argv,
        CacheOptions,
    ).read(CacheOptions)
    if not options.list_texts and (not options.output or bool(options.model) == bool(options.vectors)):
        raise UserError("f2jax cache_teacher needs --output and either --model or --vectors, or else --list-texts.")

    from f2jax.data.corpus import PreparedCorpus
    from f2jax.outputs import output_file, output_folder
    from f2jax.train import cache_teacher as lib

    corpus = PreparedCorpus(options.corpus)
    if options.list_texts:
        with output_file(options.list_texts, "list of texts"):
            print(f"{options.list_texts}: {lib.list_texts(corpus, options.list_texts):,} texts.")
        return
    assert options.output  # checked above
    if options.vectors:
        source = lib.from_file(options.vectors, corpus)
    else:
        assert options.model
        source = lib.by_model(options.model, options.dtype, corpus, options.batch_size)
    with output_folder(options.output, "folder of teacher vectors", ("vectors.json",), local_only=True):
        info = lib.cache_teacher(corpus, options.output, source, options.width, options.store)
    print(
        f"{options.output}: vectors of {info.width} x {info.dtype}; train with --config.teacher.cache={options.output} "
        f"--config.data.sources=\"('corpus:{options.corpus}',)\"."
    )
