"""The `f2jax` command. Each command imports what it needs when it runs, so that `--help` is quick."""

import argparse
import contextlib
import importlib.util
import os
import sys
import traceback

from f2jax import __version__
from f2jax.errors import Interrupted, UserError, nearest

PLANNED = ("search",)  # named in the design, not built


def train(argv: list[str]) -> None:
    parser = _parser("train", "Train a model; the same command resumes an interrupted run.")
    parser.add_argument("--config", required=True, help="config file with options: configs/nano.py:stage=1")
    parser.add_argument("--workdir", required=True, help="folder of the run, local or gs://: checkpoints, metrics")
    parser.epilog = "Any field of the config: --config.optim.peak_lr=4e-5"
    args, overrides = parser.parse_known_args(argv)
    unknown = [text for text in overrides if not text.startswith("--config.")]
    if unknown:
        raise UserError(f"train has no option '{unknown[0]}'; fields of the config are set by --config.NAME=VALUE.")

    from f2jax import config
    from f2jax.parallel import hosts
    from f2jax.train import loop

    hosts.start()
    with hosts.explained():
        loop.train(config.load(args.config, overrides), args.workdir)


def prepare(argv: list[str]) -> None:
    parser = _parser("prepare", "Curate and tokenize data into a corpus that training reads; the same command goes on.")
    parser.add_argument(
        "--input",
        nargs="+",
        required=True,
        help="files, folders, globs, hub:ORG/NAME, beir:FOLDER or built-in sets; clustering:PATH, classification:PATH, "
        "sts:PATH or nli:PATH make rows of labelled data, #COLUMN,COLUMN behind it names its columns",
    )
    parser.add_argument("--output", required=True, help="folder of the corpus")
    parser.add_argument(
        "--tokenizer", required=True, help="tokenizer.json or SentencePiece model, or a folder with one"
    )
    parser.add_argument("--kinds", nargs="*", default=[], help="SOURCE=KIND for files whose rows do not say it")
    parser.add_argument("--cap", type=int, default=0, help="rows of a data set at most, by the seed; 0: all")
    parser.add_argument("--max-length", type=int, default=1024, help="tokens of a text, end token included")
    parser.add_argument("--validation-share", type=float, default=0.01, help="of each data set's queries, held out")
    parser.add_argument("--seed", type=int, default=0, help="of the cap, the held-out share and the instructions")
    parser.add_argument("--licences", nargs="*", default=[], help="NAME=LICENCE for the data card; patterns")
    parser.add_argument(
        "--skipped", metavar="FILE.jsonl", help="list each skipped row with its reason and place, but for the cap's"
    )
    _instruction_options(parser)
    _curation_options(parser)
    workers = parser.add_argument_group("workers", "Whoever works, the bytes are the same.")
    workers.add_argument("--jobs", type=int, default=1, help="processes, where there are several inputs or data sets")
    workers.add_argument("--beam_runner", help="a runner of Apache Beam, e.g. DirectRunner, FlinkRunner")
    workers.add_argument("--beam_options", default="", help="its options: name=value,name=value")
    args = parser.parse_args(argv)

    from f2jax.data import curate
    from f2jax.data.dataset import Instructions
    from f2jax.data.prepare.card import table
    from f2jax.data.prepare.options import Options
    from f2jax.data.prepare.pipeline import prepare as write_corpus
    from f2jax.data.prepare.runners import beam_options

    instructions = Instructions(
        enabled=args.instructions,
        by_name=_tasks(args.tasks),
        symmetric_share=args.symmetric_share,
        symmetric_sources=tuple(args.symmetric_sources),
        seed=args.seed,
    )
    steps = {name: getattr(args, name) for name in curate.Options.__dataclass_fields__}
    steps = {name: tuple(value) if isinstance(value, list) else value for name, value in steps.items()}
    names = ("max_length", "validation_share", "seed", "cap")
    options = {name: getattr(args, name) for name in names}
    curation = curate.Options(**steps) if args.curation else None
    card = write_corpus(
        args.input,
        args.output,
        args.tokenizer,
        Options(instructions=instructions, kinds=tuple(args.kinds), curate=curation, **options),
        _pairs(args.licences, "--licences"),
        args.jobs,
        beam_options(args.beam_runner, args.beam_options),
        args.skipped,
    )
    print(table(card))
    print(f"{args.output}: train from it with --config.data.sources=\"('corpus:{args.output}',)\".")


def _instruction_options(parser) -> None:
    group = parser.add_argument_group("instructions", "Tasks before texts (recipe 2.1).")
    group.add_argument(
        "--instructions", action=argparse.BooleanOptionalAction, default=True, help="tasks before queries: stage 2"
    )
    group.add_argument(
        "--tasks",
        nargs="*",
        default=[],
        help="NAME=SENTENCE, of SOURCE-KIND, source or kind; or a FILE.json of {name: sentence}",
    )
    group.add_argument("--symmetric-share", type=float, default=0.3, help="of symmetric documents that carry the task")
    group.add_argument("--symmetric-sources", nargs="*", default=[], help="sources whose tasks are symmetric")


def _curation_options(parser) -> None:
    """The fields of `curate.Options`, by their names."""
    group = parser.add_argument_group(
        "curation",
        "Steps in this order, each counted in the data card. Each can be off; an option that takes several values is "
        "off without any. --identify-language and --near-duplicates need pip install 'f2jax[curate]'.",
    )
    flag = argparse.BooleanOptionalAction
    group.add_argument("--curation", action=flag, default=True, help="--no-curation: no step at all")
    group.add_argument(
        "--excluded-sources",
        nargs="*",
        metavar="PATTERN",
        default=["mkqa_*", "sib200*"],
        help="left out, since MTEB's tasks are made of them (recipe 3.2); default: mkqa_* sib200*",
    )
    group.add_argument("--unicode-form", type=_off, default="NFC", help="of all texts: NFC, NFKC or off")
    group.add_argument("--max-characters", type=int, default=100_000, help="of one text; 0: no limit")
    group.add_argument("--too-long", default="cut", help="what happens to a longer one: cut or drop")
    group.add_argument(
        "--drop-trivial",
        action=flag,
        default=True,
        help="rows whose query is their positive, negatives that are",
    )
    group.add_argument(
        "--identify-language", action=flag, default=False, help="count languages of queries, and set those not declared"
    )
    group.add_argument("--language-confidence", type=float, default=0.9, help="below it a language is und")
    group.add_argument(
        "--drop-other-language", action=flag, default=False, help="rows in another language than they declare"
    )
    group.add_argument(
        "--evaluation-sets",
        nargs="*",
        metavar="SET",
        default=["cldr-names", "stdlib-code"],
        help="drop rows that hold texts of these: built-in names, PATH or NAME=PATH#COLUMN,COLUMN; default: both "
        "built-in ones",
    )
    group.add_argument("--ngram", type=int, default=13, help="words in a row that count as held; 0: only whole texts")
    group.add_argument("--fewest-letters", type=int, default=12, help="of a whole text that is looked for")
    group.add_argument(
        "--exact-duplicates", action=flag, default=True, help="keep one row of those with one query, positive and kind"
    )
    group.add_argument(
        "--near-duplicates",
        type=float,
        metavar="SHARE",
        default=0.0,
        help="keep one row of those that share so many letter n-grams (Jaccard); 0: off. Both kinds of duplicates are "
        "found in all inputs together, on disk: 24 bytes a row for exact, 1.5 kB for near ones",
    )
    group.add_argument("--shingle", type=int, default=5, help="letters of the n-grams")
    group.add_argument("--permutations", type=int, default=128, help="of MinHash: more estimate likeness better")
    group.add_argument("--band", type=int, default=4, help="of them, by which rows meet: 4 for 0.8, 2 for 0.5")


def _tasks(texts: list[str]) -> dict[str, str]:
    """NAME=SENTENCE and names of JSON files that hold such pairs, several times."""
    from f2jax import files

    found = {}
    for text in texts:
        pairs = files.read_json(text) if text.endswith(".json") and "=" not in text else _pairs([text], "--tasks")
        if not isinstance(pairs, dict) or not all(isinstance(sentence, str) for sentence in pairs.values()):
            raise UserError(f"{text}: --tasks takes a JSON object of names and sentences.")
        found |= pairs
    return found


def _pairs(texts: list[str], option: str) -> dict[str, str]:
    """NAME=VALUE, several times."""
    found = [text.partition("=") for text in texts]
    wrong = [text for text, parts in zip(texts, found, strict=True) if not all(parts)]
    if wrong:
        raise UserError(f"'{wrong[0]}' in {option} should be NAME=VALUE.")
    return {name: value for name, _, value in found}


def encode(argv: list[str]) -> None:
    parser = _parser("encode", "Embed the texts of a file; the same command resumes an interrupted run.")
    _model_options(parser)
    parser.add_argument("--input", required=True, help=".txt (a text a line), .jsonl or .parquet")
    parser.add_argument("--output", required=True, help=".npy, or .parquet with text and embedding")
    parser.add_argument("--column", default="text", help="field of the text in .jsonl and .parquet")
    parser.add_argument("--prompt", help="put before every text")
    parser.add_argument("--prompt-name", help="a prompt of the model, e.g. query")
    parser.add_argument("--truncate-dim", type=int, help="keep the first so many dimensions")
    parser.add_argument("--precision", default="float32", help="float32, int8, uint8, binary or ubinary")
    parser.add_argument("--batch-size", type=int, default=1024, help="texts of a device batch at most")
    args = parser.parse_args(argv)

    from f2jax import Embedder
    from f2jax.inference.encode_file import encode_file

    names = ("prompt", "prompt_name", "truncate_dim", "precision", "batch_size")
    options = {name: getattr(args, name) for name in names}
    embedder = Embedder.from_pretrained(args.model, args.dtype)
    rows, dim = encode_file(embedder, args.input, args.output, args.column, **options)
    print(f"{args.output}: {rows:,} vectors of {dim} x {args.precision}.")


def mine(argv: list[str]) -> None:
    parser = _parser("mine", "Give rows hard negatives (recipe 3.2); the same command resumes an interrupted run.")
    parser.add_argument("--input", nargs="+", required=True, help="files, globs, folders or built-in sets of rows")
    parser.add_argument("--output", help=".parquet: the rows with negatives, in the order of the input")
    parser.add_argument("--corpus", help="further documents: .txt (a text a line), .jsonl or .parquet with 'text'")
    parser.add_argument("--kinds", nargs="+", default=[], help="SOURCE=KIND for files whose rows do not say their kind")
    parser.add_argument("--only", nargs="+", help="the kinds to mine for, default: all; other rows stay as they are")
    parser.add_argument("--across-sources", action="store_true", help="documents of all sources, not the row's own")
    parser.add_argument(
        "--replace", action="store_true", help="forget negatives that rows bring; else these come first"
    )
    vectors = parser.add_argument_group(
        "vectors",
        "By a model, or from .npy files of floats with a row for each text. Queries: each distinct query of the input "
        "once, in the order in which they first come, with the row's own instruction before it. Documents: each "
        "distinct positive likewise, then the texts of --corpus. The --list options write these and mine nothing.",
    )
    _model_options(vectors, required=False)
    vectors.add_argument("--prompt-name", help="the model's prompt for queries; default: query, where it has that")
    vectors.add_argument("--batch-size", type=int, default=1024, help="texts of a device batch at most")
    vectors.add_argument("--query-embeddings", metavar="FILE.npy", help="in the place of --model")
    vectors.add_argument("--document-embeddings", metavar="FILE.npy", help="in the place of --model")
    vectors.add_argument("--list-queries", metavar="FILE.jsonl", help="write the queries to embed, in order")
    vectors.add_argument("--list-documents", metavar="FILE.jsonl", help="write the documents to embed, in order")
    rules = parser.add_argument_group("rules", "Scores are cosines.")
    rules.add_argument("--top", type=int, default=100, help="nearest documents looked at, beside the right answers")
    rules.add_argument("--max-score", type=_limit, default=0.8, help="a negative scores below this; or: off")
    rules.add_argument("--relative", type=_limit, default=0.95, help="and below this x the right answer; or: off")
    rules.add_argument("--skip", type=int, default=5, help="of those that pass, leave out so many of the nearest")
    rules.add_argument("--keep", type=int, default=24, help="negatives of a row")
    rules.add_argument("--fewer", default="drop", help="a row with fewer: drop it, or draw the rest at random")
    rules.add_argument("--seed", type=int, default=0, help="of the random draw")
    args = parser.parse_args(argv)

    from f2jax.inference import mine_file

    given = mine_file.Input(args.input, args.corpus, args.kinds, args.only or mine_file.KINDS)
    if args.list_queries or args.list_documents:
        print(mine_file.list_texts(given, args.list_queries, args.list_documents))
        return
    if not args.output:
        raise UserError("f2jax mine needs --output, or a --list option.")
    options = mine_file.Options(**{name: getattr(args, name) for name in mine_file.Options.__dataclass_fields__})
    vectors = mine_file.choose_vectors(
        args.model, args.dtype, args.prompt_name, args.batch_size, args.query_embeddings, args.document_embeddings
    )
    print(mine_file.mine_file(given, vectors, args.output, options, args.across_sources, args.replace))


def prune(argv: list[str]) -> None:
    parser = _parser("prune", "Cut a model down in width, MLP and layers (recipe 1); distil it afterwards.")
    _model_options(parser)
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
    chosen.add_argument("--keep-layers", type=_numbers, help="these, counted from 0: 0,2,5")
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

    from f2jax.model.importance import Scoring
    from f2jax.model.prune import Choice
    from f2jax.release import prune as lib

    options = lib.Options(
        **{name: getattr(args, name) for name in ("size", "width", "mlp", "layers", "rescale", "trim_vocab")},
        calibration=lib.Calibration(args.data, args.samples, args.max_length, args.seed),
        scoring=Scoring(args.token_score, args.text_score, args.measure),
        choice=Choice(args.channels, args.neurons, args.order, args.keep_layers or args.layers_by, args.seed),
    )
    made = lib.prune(args.model, args.output, options, args.dtype)
    print(
        f"{args.output}: {made.parameters:,} parameters, width {made.width}, MLP {made.mlp}, {made.layers} layers, "
        f"{made.vocab_size:,} tokens."
    )


def cache_teacher(argv: list[str]) -> None:
    parser = _parser("cache_teacher", "Embed a prepared corpus by a teacher, once; the same command goes on.")
    parser.add_argument("--corpus", required=True, help="folder that f2jax prepare wrote")
    parser.add_argument("--output", help="folder of the vectors: teacher.cache of a training config")
    _model_options(parser, required=False)
    parser.add_argument("--width", type=int, default=0, help="first dimensions to keep: the student's width; 0: all")
    parser.add_argument("--store", default="bfloat16", help="type of the stored numbers: bfloat16 or float32")
    parser.add_argument("--batch-size", type=int, default=1024, help="texts of a device batch at most")
    parser.add_argument("--vectors", metavar="FILE.npy", help="made elsewhere, a row for each text; instead of --model")
    parser.add_argument("--list-texts", metavar="FILE.jsonl", help="write these texts, in order, and do nothing else")
    args = parser.parse_args(argv)
    if not args.list_texts and (not args.output or bool(args.model) == bool(args.vectors)):
        raise UserError("f2jax cache_teacher needs --output and either --model or --vectors, or else --list-texts.")

    from f2jax.data.corpus import Corpus
    from f2jax.inference import cache_teacher as lib

    corpus = Corpus(args.corpus)
    if args.list_texts:
        print(f"{args.list_texts}: {lib.list_texts(corpus, args.list_texts):,} texts.")
        return
    if args.vectors:
        source = lib.from_file(args.vectors, corpus)
    else:
        source = lib.by_model(args.model, args.dtype, corpus, args.batch_size)
    card = lib.cache_teacher(corpus, args.output, source, args.width, args.store)
    print(
        f"{args.output}: vectors of {card.width} x {card.dtype}; train with --config.teacher.cache={args.output} "
        f"--config.data.sources=\"('corpus:{args.corpus}',)\"."
    )


def merge(argv: list[str]) -> None:
    parser = _parser("merge", "Average checkpoints, weight by weight: of one run's tail, or of several runs.")
    parser.add_argument("models", nargs="+", help="folders, hub ids, gs:// paths, workdirs or WORKDIR@STEP")
    parser.add_argument("--output", required=True, help="folder to write, as export does")
    parser.add_argument(
        "--last", type=int, metavar="STEPS", help="all kept checkpoints of a workdir's last steps: 2500"
    )
    parser.add_argument("--method", default="average", help="average, or slerp (along the arc between them)")
    parser.add_argument("--weights", type=float, nargs="+", help="of the models, in their order; default: equal")
    parser.add_argument("--decay", type=float, help="each model counts this times the one after it, e.g. 0.8")
    parser.add_argument("--dtype", default="float32", help="of the result: float32 or bfloat16")
    args = parser.parse_args(argv)

    from f2jax.release import merge as lib

    models = lib.sources(args.models, args.last)
    made, shares = lib.merge(models, args.output, args.method, args.weights, args.decay, args.dtype)
    for model, share in zip(models, shares, strict=True):
        print(f"{share:7.1%}  {model}")
    print(f"{args.output}: {made.parameters:,} parameters, {args.method} of {len(models)}.")


def export(argv: list[str]) -> None:
    parser = _parser("export", "Write the folder that sentence-transformers and transformers load as it is.")
    _model_options(parser)
    parser.add_argument("--output", required=True, help="folder to write")
    args = parser.parse_args(argv)

    from f2jax import Embedder

    embedder = Embedder.from_pretrained(args.model, args.dtype)
    embedder.save_pretrained(args.output)
    print(f"{args.output}: {embedder.architecture.parameters:,} parameters, {embedder.dim} dimensions, {args.dtype}.")


def evaluate(argv: list[str]) -> None:
    from f2jax.evaluation.tasks import TASKS

    parser = _parser("evaluate", "Score a model at every Matryoshka dimension; the same command goes on.")
    _model_options(parser, required=False)
    parser.add_argument("--output", help="folder of the results; tasks of mteb need it")
    which = parser.add_argument_group(
        "tasks",
        f"Default: those in --data; without --data: built in are {', '.join(TASKS)}, for which nothing is installed or "
        "downloaded. All others run by mteb (pip install 'f2jax[mteb]').",
    )
    which.add_argument("--tasks", nargs="+", help="names: built-in, local, or mteb's")
    which.add_argument("--benchmark", help="english, multilingual, german …, or mteb's name: 'MTEB(eng, v2)'")
    which.add_argument("--data", help="folder of the local tasks' data")
    which.add_argument("--languages", nargs="+", help="only these, as ISO 639-3 codes: deu fra")
    vectors = parser.add_argument_group("vectors", "Texts are encoded once, whatever is scored of them.")
    vectors.add_argument(
        "--dims", nargs="+", type=_dim, help="numbers, or all; default: every second Matryoshka dimension"
    )
    vectors.add_argument("--precisions", nargs="*", help="at the largest dimension, default: int8 binary; may be none")
    vectors.add_argument("--cache", help="folder of the vectors, default: OUTPUT/vectors; may be deleted at any time")
    prompts = parser.add_argument_group(
        "prompts", "Default: the instructions of F2LLM-v2 in mteb, after the template 'Instruct: … \\nQuery: '."
    )
    prompts.add_argument("--prompts", help="JSON file {task, type or query: instruction}, with 'template'; or: none")
    prompts.add_argument("--prompt", nargs="+", help="NAME=INSTRUCTION in the place of one of these")
    parser.add_argument("--baseline", nargs="+", help="also score: tfidf, or random (untrained weights)")
    parser.add_argument("--name", help="of the model in the results, default: f2jax/ and its folder's name")
    args = parser.parse_args(argv)

    if args.data or args.benchmark or args.baseline or not set(args.tasks or ()) <= set(TASKS):
        _evaluate_with_mteb(args)
    else:
        _evaluate_built_in(args)


def _evaluate_built_in(args: argparse.Namespace) -> None:
    for name in ("languages", "dims", "precisions", "cache", "prompts", "prompt", "name"):
        if getattr(args, name) is not None:
            raise UserError(f"--{name} is for other tasks than the built-in ones; give --tasks, --benchmark or --data.")
    if not args.model:
        raise UserError("f2jax evaluate needs --model.")

    from f2jax import Embedder
    from f2jax.evaluation import builtin

    results = builtin.evaluate(Embedder.from_pretrained(args.model, args.dtype), args.tasks or builtin.TASKS)
    print(builtin.table(results))
    if args.output:
        builtin.write(results, args.output)
        print(f"Table and plot: {args.output}")


def plan(argv: list[str]) -> None:
    parser = _parser("plan", "Compile the train step for TPU slices, without a TPU: does it fit, how fast is it?")
    parser.add_argument("--config", required=True, help="config file with options: configs/stage2.py:size=8b")
    parser.add_argument("--topology", action="append", required=True, help="chip and shape: v5e:16x16; may be repeated")
    parser.add_argument(
        "--tokens-per-text", type=int, help="mean length of a text; default: the worst, data.max_length"
    )
    parser.add_argument("--rows", type=float, help="training rows of the stage; default: the recipe's 27e6 or 18e6")
    parser.add_argument("--search", action="store_true", help="choose mesh and remat: the first of a few that fits")
    parser.add_argument("--json", help="file for all figures")
    parser.epilog = "Any field of the config: --config.mesh.fsdp=16 --config.model.remat=mlp"
    args, overrides = parser.parse_known_args(argv)
    unknown = [text for text in overrides if not text.startswith("--config.")]
    if unknown:
        raise UserError(f"plan has no option '{unknown[0]}'; fields of the config are set by --config.NAME=VALUE.")

    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # whatever this machine has: nothing runs here
    from f2jax import config
    from f2jax.parallel import plan_report

    loaded = config.load(args.config, overrides)
    print(plan_report.report(loaded, args.topology, args.tokens_per_text, args.rows, args.search, args.json))


def _evaluate_with_mteb(args: argparse.Namespace) -> None:
    if not args.output:
        raise UserError("f2jax evaluate needs --output for these tasks.")
    _need_mteb("f2jax evaluate on these tasks")

    from f2jax.evaluation import command, run

    args.prompt = _pairs(args.prompt or [], "--prompt")
    given = {name: value for name, value in vars(args).items() if value is not None}
    scores = command.evaluate(command.Options(**given))
    print(run.table(scores))
    print(f"Results: {args.output}/results")


def report(argv: list[str]) -> None:
    parser = _parser("report", "Tables and curves of results as one HTML page, beside the published F2LLM-v2.")
    parser.add_argument("results", nargs="+", help="folders: the --output of f2jax evaluate, or results of mteb")
    parser.add_argument("--output", required=True, help="folder for index.html, the plots as PNG, and scores.csv")
    args = parser.parse_args(argv)
    _need_mteb("f2jax report")

    from f2jax.evaluation import report as lib

    print("\n".join(lib.report(args.results, args.output)))


def _need_mteb(what: str) -> None:
    if not importlib.util.find_spec("mteb"):
        raise UserError(f"{what} needs mteb; install it with pip install 'f2jax[mteb]'.")


COMMANDS = {
    "train": train,
    "prepare": prepare,
    "mine": mine,
    "encode": encode,
    "prune": prune,
    "cache_teacher": cache_teacher,
    "merge": merge,
    "export": export,
    "evaluate": evaluate,
    "plan": plan,
    "report": report,
}


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code.

    0: done. 1: one line says what to change. 130: interrupted, and what was to save is saved. 75: the network failed.
    70: a crash, with its traceback. Whoever starts commands again (launch/run.sh) does so after the last three.
    """
    try:
        _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except UserError as error:
        print(f"f2jax: {error}", file=sys.stderr)
        return 1
    except Interrupted as stop:
        print(f"f2jax: {stop}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("f2jax: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever reads the output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ConnectionError, TimeoutError) as error:
        print(f"f2jax: the network failed ({error}); run the same command again.", file=sys.stderr)
        return 75
    except OSError as error:  # such as a full disk in the middle of a run
        where = f"{error.filename}: " if error.filename else ""
        print(f"f2jax: {where}{error.strerror or error}; mend that and run the same command again.", file=sys.stderr)
        return 1
    except Exception:
        traceback.print_exc()
        return 70
    return 0


def _run(argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
    elif argv[0] == "--version":
        print(f"f2jax {__version__}")
    elif argv[0] in PLANNED:
        raise UserError(f"'f2jax {argv[0]}' is not built yet; built are {', '.join(COMMANDS)}.")
    elif argv[0] not in COMMANDS:
        raise UserError(f"There is no command '{argv[0]}'{nearest(argv[0], COMMANDS)}")
    else:
        with contextlib.suppress(SystemExit):  # argparse leaves so after --help
            COMMANDS[argv[0]](argv[1:])


def _usage() -> str:
    lines = "\n".join(f"  {name:<13} {_SUMMARY[name]}" for name in COMMANDS)
    return f"usage: f2jax COMMAND [--help]\n\n{lines}"


_SUMMARY = {
    "train": "train a model as a config says",
    "prepare": "tokenize data into a corpus for training",
    "mine": "give rows hard negatives",
    "encode": "embed the texts of a file",
    "prune": "cut a model down in width, MLP and layers",
    "cache_teacher": "embed a corpus by a teacher, once for all trainings",
    "merge": "average checkpoints into one model",
    "export": "write a folder that other embedding tools load",
    "plan": "compile a training for a TPU slice, without one",
    "evaluate": "score a model on built-in tasks, on local ones, or on those of MTEB",
    "report": "tables and curves of results",
}


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are `UserError`s; an unknown option names the nearest known one."""

    def parse_args(self, argv: list[str]) -> argparse.Namespace:
        args, unknown = self.parse_known_args(argv)
        if unknown:
            name = unknown[0].split("=", 1)[0]
            known = [option for option in self._option_string_actions if option.startswith("--")]
            raise UserError(f"{self.prog} has no option '{name}'{nearest(name, known)}")
        return args

    def error(self, message: str):
        raise UserError(f"{self.prog}: {message}; see {self.prog} --help.")


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    return _Parser(prog=f"f2jax {command}", description=description, allow_abbrev=False)


def _off(text: str) -> str:
    return "" if text == "off" else text


def _limit(text: str) -> float | None:
    try:
        return None if text == "off" else float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is neither a number nor off") from error


def _dim(text: str) -> int | str:
    try:
        return text if text == "all" else int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is neither a number nor all") from error


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' should be numbers with commas, like 0,2,5") from error


def _model_options(parser, required: bool = True) -> None:
    parser.add_argument("--model", required=required, help="folder, hub id, gs:// path or training workdir")
    parser.add_argument("--dtype", default="float32", help="of weights and matmuls: float32 or bfloat16")
