"""`f2jax prune`: cut a model down in width, MLP and layers."""

from dataclasses import dataclass
from shlex import quote

from f2jax.commands.options import Arguments
from f2jax.inference.options import ModelOptions
from f2jax.prune.options import PruneOptions


@dataclass(frozen=True)
class OutputOptions:
    """Output."""

    output: str  # folder for the pruned model, as export writes it


def main(argv: list[str]) -> None:
    arguments = Arguments(
        "prune",
        "Cut a model down in width, MLP and layers (recipe 1). Distil it afterwards.",
        "--model runs/0.6b-1 --size 330m --input 'corpus/*.parquet' --output 330m-pruned",
        argv,
        ModelOptions,
        OutputOptions,
        PruneOptions,
    )
    model, output = arguments.read(ModelOptions), arguments.read(OutputOptions).output
    options = arguments.read(PruneOptions)

    from f2jax.outputs import PACKAGE, PACKAGE_FILES, output_folder
    from f2jax.prune.run import prune_model

    with output_folder(output, PACKAGE, PACKAGE_FILES):
        pruned = prune_model(model.model, output, options, model.dtype)
    print(
        f"{output}: {pruned.parameters:,} parameters, width {pruned.width}, MLP {pruned.mlp}, {pruned.layers} layers, "
        f"{pruned.vocab_size:,} tokens.\n"
        f"Next: f2jax train with --config.init_from={quote(output)} --config.model.size={quote(output)}"
    )
