"""`f2jax prune`: cut a model down in width, MLP and layers."""

import argparse

from f2jax.commands.options import model_options, numbers, parser_of


def main(argv: list[str]) -> None:
    parser = parser_of("prune", "Cut a model down in width, MLP and layers (recipe 1); distil it afterwards.")
    model_options(parser)
    parser.add_argument("--output", required=True, help="folder to write: what export writes, and train starts from")
    shape = parser.add_argument_group("shape", "A known size, or any of the three; what is not named stays.")
    shape.add_argument("--size", default="", help="330m, 160m, 80m, or another name in f2jax/model/sizes.py")
    shape.add_argument("--width", type=int, default=0, help="hidden size, which is the embedding's dimension")
    shape.add_argument("--mlp", type=int, default=0, help="inner size of the MLP")
    shape.add_argument("--layers", type=int, default=0, help="number of layers")
    measured = parser.add_argument_group("importance", "Activations over calibration texts, in one forward pass.")
    measured.add_argument("--data", nargs="+", default=[], help="files, globs, folders or built-in sets of rows")
    measured.add_argument("--samples", type=int, default=1024, help="texts, drawn evenly from all sources")
    measured.add_argument("--max-length", type=int, default=1024, help="tokens of a text")
    measured.add_argument("--seed", type=int, default=0, help="of the draw, and of random choices")
    measured.add_argument("--token-score", default="mean", help="over a text's tokens: mean (of |x|), l2, variance")
    measured.add_argument("--text-score", default="l2", help="over the texts: l2, mean, variance")
    measured.add_argument(
        "--measure", default="norms", help="channels at: norms (RMSNorm outputs), stream (residual), final (output)"
    )
    chosen = parser.add_argument_group("choice")
    chosen.add_argument("--channels", default="importance", help="of the width: importance, first, random")
    chosen.add_argument("--neurons", default="importance", help="of the MLP: importance, first, random")
    chosen.add_argument("--order", default="original", help="of kept channels: original, importance (best first)")
    chosen.add_argument("--layers-by", default="first", help="first, even, norm_change (least change goes), random")
    chosen.add_argument("--keep-layers", type=numbers, help="these, counted from 0: 0,2,5")
    chosen.add_argument(
        "--rescale",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="make good for the channels that go from under the RMSNorms; the reference seems not to",
    )
    chosen.add_argument(
        "--trim-vocab", nargs="+", default=[], metavar="DATA", help="drop tokens that these sources do not use"
    )
    args = parser.parse_args(argv)

    from f2jax.prune import run as lib
    from f2jax.prune.choose import ChannelChoice
    from f2jax.prune.importance import Scoring

    options = lib.PruneOptions(
        **{name: getattr(args, name) for name in ("size", "width", "mlp", "layers", "rescale", "trim_vocab")},
        calibration=lib.Calibration(args.data, args.samples, args.max_length, args.seed),
        scoring=Scoring(args.token_score, args.text_score, args.measure),
        choice=ChannelChoice(args.channels, args.neurons, args.order, args.keep_layers or args.layers_by, args.seed),
    )
    made = lib.prune_model(args.model, args.output, options, args.dtype)
    print(
        f"{args.output}: {made.parameters:,} parameters, width {made.width}, MLP {made.mlp}, {made.layers} layers, "
        f"{made.vocab_size:,} tokens."
    )
