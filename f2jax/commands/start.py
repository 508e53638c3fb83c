"""`f2jax start`: make a student's initial weights from a teacher's vectors."""

from dataclasses import dataclass
from shlex import quote

from f2jax.commands.options import Arguments
from f2jax.start.options import StartOptions


@dataclass(frozen=True)
class VectorOptions:
    """Input and output."""

    corpus: str  # folder that f2jax prepare wrote, with the tokenizer
    teacher_vectors: str  # folder that f2jax cache-teacher wrote for the corpus
    output: str  # folder for the new model, as export writes it


def main(argv: list[str]) -> None:
    arguments = Arguments(
        "start",
        "Make the initial weights of a student from the vectors of a teacher. Train from them afterwards.",
        "--corpus corpus --teacher-vectors vectors --output first",
        argv,
        VectorOptions,
        StartOptions,
    )
    paths, options = arguments.read(VectorOptions), arguments.read(StartOptions)

    from f2jax.data.corpus import PreparedCorpus
    from f2jax.outputs import PACKAGE, PACKAGE_FILES, output_folder
    from f2jax.start.run import start_from_vectors

    corpus = PreparedCorpus(paths.corpus)
    corpus.fetch()
    with output_folder(paths.output, PACKAGE, PACKAGE_FILES):
        student, cosine = start_from_vectors(corpus, paths.teacher_vectors, paths.output, options)
    spec = f"cached:start={paths.output},corpus={paths.corpus},cache={paths.teacher_vectors}"
    print(
        f"{paths.output}: {student.parameters:,} parameters, {student.vocab_size:,} tokens; mean cosine to the teacher "
        f"{cosine:.3f}.\nNext: f2jax train --config {quote(spec)} --workdir RUN"
    )
