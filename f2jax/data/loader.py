"""Turns a config into packed batches: tokenizer, data sets, mixture, and a thread that packs ahead of the device."""

import hashlib
import json
import queue
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from f2jax import files
from f2jax.data.dataset import AnyDataset, build_datasets, is_held_out
from f2jax.data.instructions import Instructions, add_instruction
from f2jax.data.mixture import DatasetSpec, Mixture, language_weights, pattern_weights, select
from f2jax.data.packing import WHOLE, Batch, RowShare, assemble, texts_of_row
from f2jax.data.record import Record, stable_id
from f2jax.data.shapes import (
    CHUNKED_PROGRAMS,
    PROGRAMS,
    RowRules,
    RowShape,
    Sample,
    choose_programs,
    program_shares,
)
from f2jax.data.skip_list import SkipList, say_once
from f2jax.data.sources import open_source, say_unused
from f2jax.data.tokenizer import NAMES, Tokenizer, load_tokenizer
from f2jax.data.tokenizer_training import train_sentencepiece
from f2jax.errors import UserError

SAMPLED_SETS, SAMPLED_BATCHES = 256, 64  # read at the start to choose the shapes of packed rows
CORPUS = "corpus:"  # prefix of a source that `f2jax prepare` wrote


def load_data(
    config, kept: str | Path, init: str, vocab_size: int, skipped: SkipList
) -> tuple[Tokenizer, list[tuple[AnyDataset, AnyDataset]]]:
    """Returns the tokenizer of a run, and the (training, held-out) rows of each data set that it selects.

    Args:
        kept: folder of the tokenizer of a run that continues; "": the run is new.
        init: folder of the tokenizer of the starting weights; "": none.
        vocab_size: number of rows of the model's token table.
        skipped: counts the rows that are left out, by reason.

    Raises:
        UserError: the data, the tokenizer or the selection cannot be used.
    """
    data = config.data
    splits: Sequence[tuple[AnyDataset, AnyDataset]]
    if corpora := [spec.removeprefix(CORPUS) for spec in data.sources if spec.startswith(CORPUS)]:
        if len(data.sources) > len(corpora):
            raise UserError("data.sources mixes corpora and files; name only corpora, which hold all data.")
        if data.columns:
            raise UserError("data.columns is for files, not for a prepared corpus; leave it empty.")
        if unused := [f"data.{name}" for name in ("kinds", "hold_out_texts", "symmetric_sources") if data[name]]:
            say_once(f"{', '.join(unused)}: not used, since a corpus is trained on as f2jax prepare made it.")
        tokenizer, splits = _open_corpora(corpora, config, kept, init)
        tokenizer.check_vocab(vocab_size)
    else:
        if config.teacher.cache:
            raise UserError("teacher.cache needs a prepared corpus; name one in data.sources: 'corpus:FOLDER'.")
        records: Iterable[Record] = read_records(config, skipped)
        if config.tokenizer.train_vocab and not kept:
            records = list(records)  # read twice
        tokenizer = make_tokenizer(config, kept, init, records)
        tokenizer.check_vocab(vocab_size)
        datasets = build_datasets(records, tokenizer, data.max_length, instructions(config))
        splits = [dataset.split(data.validation_share, config.seed) for dataset in datasets]
    chosen = select([training.name for training, _ in splits], data.include, data.exclude)
    return tokenizer, [splits[i] for i in chosen]


def _open_corpora(
    paths: Sequence[str], config, kept: str | Path, init: str
) -> tuple[Tokenizer, Sequence[tuple[AnyDataset, AnyDataset]]]:
    from f2jax.data.corpus import PreparedCorpus, check_alike  # imports TFDS's messages, which only a corpus needs

    corpora = [PreparedCorpus(path) for path in paths]
    for corpus in corpora:
        corpus.check(config.data.max_length, config.data.use_instructions)
    check_alike(corpora)
    named = str(kept) or config.tokenizer.path or init
    tokenizer = load_tokenizer(corpora[0].tokenizer_folder)
    if named and not load_tokenizer(named).gives_same_ids(tokenizer):
        raise UserError(
            f"The corpus {paths[0]} was made with another tokenizer than {named}; prepare it with --tokenizer {named}."
        )
    vectors = None
    if config.teacher.cache:
        from f2jax.data.teacher_vectors import TeacherVectors

        if len(corpora) > 1:
            raise UserError("teacher.cache holds the vectors of one corpus; name one alone in data.sources.")
        vectors = TeacherVectors(config.teacher.cache, corpora[0])
    names = [card["name"] for corpus in corpora for card in corpus.card["datasets"]]
    chosen = {names[i] for i in select(names, config.data.include, config.data.exclude)}
    for corpus in corpora:
        corpus.fetch(chosen)
    if vectors:
        vectors.fetch(chosen)
    return tokenizer, [split for corpus in corpora for split in corpus.splits(vectors)]


def mixture_weights(datasets: Sequence[AnyDataset], config) -> list[float]:
    """Returns the weight of each data set's batches: the factors of its name times the balance of languages."""
    by_name = pattern_weights([dataset.name for dataset in datasets], config.data.weights)
    by_language = language_weights([dataset.languages for dataset in datasets], config.data.language_temperature)
    return [a * b for a, b in zip(by_name, by_language, strict=True)]


def data_fingerprints(tokenizer: Tokenizer, datasets: Sequence[AnyDataset]) -> dict[str, str]:
    """Returns hashes, by name, of what determines the rows of a run besides its config; paths do not change them."""
    names = [dataset.name for dataset in datasets]
    counted = [
        f"{name} ({names[:n].count(name) + 1})" if names.count(name) > 1 else name for n, name in enumerate(names)
    ]
    return {
        "the tokenizer": tokenizer.fingerprint(),
        **{
            f"data set {name}": f"{d.kind}, {len(d):,} rows, {d.fingerprint()}"
            for name, d in zip(counted, datasets, strict=True)
        },
        "the order of data sets": hashlib.blake2b(json.dumps(names).encode(), digest_size=16).hexdigest(),
    }


def read_records(config, skipped: SkipList) -> Iterator[Record]:
    """Yields all training records of the config's sources, in order; counts bad rows by reason in `skipped`."""
    if not config.data.sources:
        raise UserError(
            "data.sources is empty; name files or built-in sets, as in --config finetune:data=FILE or "
            "--config.data.sources=\"('cldr:translation',)\"."
        )
    data = config.data
    say_unused(data.kinds, data.sources)
    for spec in data.sources:
        records = open_source(spec, "train", skipped, data.kinds, columns=data.columns)
        yield from _keep_texts_apart(records, data.validation_share, config.seed) if data.hold_out_texts else records


def _keep_texts_apart(records: Iterable[Record], share: float, seed: int) -> Iterator[Record]:
    """Yields the records without texts of clustering that are held out as queries, so that no other row teaches them.

    A row whose positive is such a text is left out, as is a row that loses all its negatives.
    """
    for record in records:
        if record.kind == "clustering" and not is_held_out(record.split_id, share, seed):
            positive, *others = (is_held_out(stable_id(text), share, seed) for text in record.documents)
            if positive or all(others):
                continue
            record = record.with_negatives(place for place, is_out in enumerate(others) if not is_out)
        yield record


def make_tokenizer(config, kept: str | Path, init: str, records: Iterable[Record]) -> Tokenizer:
    """Returns the tokenizer of a run: its kept one, a new one, the configured one, or that of the starting weights.

    All processes make the same tokenizer.

    Raises:
        UserError: none or several are named, the named one cannot be read, or the weights are for other tokens.
    """
    path, train_vocab = config.tokenizer.path, config.tokenizer.train_vocab
    if kept:
        return load_tokenizer(kept)
    if train_vocab and (path or _has_tokenizer(init)):
        other = f"tokenizer.path={path} is set" if path else f"the weights of {init} come with theirs"
        raise UserError(f"tokenizer.train_vocab={train_vocab} makes a new tokenizer and {other}; set it to 0.")
    if train_vocab:
        seen = (text for r in records for text in (add_instruction(r.query, _task(config, r)), *r.documents[:1]))
        return train_sentencepiece(seen, train_vocab, None, config.seed)
    if not (path or init):
        raise UserError("No tokenizer: set tokenizer.path, tokenizer.train_vocab, or init_from.")
    tokenizer = load_tokenizer(path or init)
    if path and _has_tokenizer(init) and not load_tokenizer(init).gives_same_ids(tokenizer):
        raise UserError(
            f"tokenizer.path={path} splits texts into other tokens than the starting weights, whose tokenizer is in "
            f"{init}; leave it empty."
        )
    return tokenizer


def _has_tokenizer(folder: str | Path) -> bool:
    return bool(folder) and any(files.exists(files.join(folder, name)) for name in NAMES)


def _task(config, record: Record) -> str | None:
    return instructions(config).task(record)


def instructions(config) -> Instructions:
    data = config.data
    return Instructions(
        enabled=data.use_instructions,
        by_name=dict(data.instructions),
        symmetric_share=data.symmetric_share,
        symmetric_sources=tuple(data.symmetric_sources),
        seed=config.seed,
    )


def learns_scores(config) -> bool:
    """Returns whether a term of the loss uses the scores of a reranker, which batches then contain."""
    return bool(config.loss.score_weight or config.loss.score_margin_weight)


def row_rules(config, samples: Sequence[Sample], parts: int, texts: Mapping[str, int]) -> RowRules:
    """Returns the rules for the rows of a run whose batches are like the samples; see `choose_programs`."""
    rules = RowRules(config.data.row_length, config.model.chunk_rows)
    limit = config.data.programs or (CHUNKED_PROGRAMS if config.model.chunk_rows else PROGRAMS)
    return replace(rules, programs=choose_programs(samples, rules, parts, texts, limit))


class Loader:
    """The batch of each step: `loader.batch(step)` only depends on the seed and the step.

    Args:
        datasets: tokenized data sets, in memory or in a corpus.
        share: the packed rows that this process fills.
        weights: factors on the number of batches from each data set; None: 1.
        like: a loader whose shapes of packed rows and slots of negatives are used, so that both share programs.
    """

    def __init__(
        self,
        datasets: Sequence[AnyDataset],
        config,
        pad_id: int,
        share: RowShare = WHOLE,
        weights: Sequence[float] | None = None,
        like: "Loader | None" = None,
    ):
        data = config.data
        self.datasets, self.pad_id, self.share, self.batch_size = datasets, pad_id, share, data.batch_size
        self.scored = learns_scores(config)
        unindexed = sum(not dataset.is_indexed for dataset in datasets)
        if unindexed and 0 < len(share.own) < share.parts:
            say_once(
                f"{unindexed} data sets of the corpus have no index, so that each process reads all texts of their "
                "batches; `f2jax prepare --add --output CORPUS` writes it."
            )
        weights = weights or [1.0] * len(datasets)
        specs = [
            DatasetSpec(d.name, d.kind, len(d), d.max_negatives, w) for d, w in zip(datasets, weights, strict=True)
        ]
        self.mixture = Mixture(specs, data.batch_size, dict(data.negatives), config.seed, data.draw)
        self.slots: dict[str, int] = like.slots if like else self.mixture.slots()
        self.rules: RowRules
        if like:
            self.rules = like.rules
        else:
            texts = {kind: data.batch_size * texts_of_row(kind, slots) for kind, slots in self.slots.items()}
            self.rules = row_rules(config, self.samples, share.parts, texts)

    @property
    def steps_per_epoch(self) -> int:
        return self.mixture.steps_per_epoch

    def program_shares(self) -> dict[tuple[str, RowShape], float]:
        """Returns about how often a batch has each shape of a kind, the most frequent first; see `rules`."""
        return program_shares(self.samples, self.rules, self.share.parts)

    @cached_property
    def samples(self) -> list[Sample]:
        """The lengths of texts in some batches of each data set, or of the most frequent data sets if there are many.

        The rows are evenly spaced, so that runs on a prepared corpus have the same shapes with any seed, and find each
        other's compiled programs. With files, the seed also determines which rows are held out, and what a tokenizer
        is trained on.
        """
        shares = [row["share"] for row in self.mixture.table()]
        order = sorted(range(len(shares)), key=lambda i: -shares[i])
        first = {self.datasets[i].kind: i for i in reversed(order)}  # so that no kind is left out
        chosen = list(dict.fromkeys([*first.values(), *order[:SAMPLED_SETS]]))
        found = []
        for i in chosen:
            dataset, spec = self.datasets[i], self.mixture.specs[i]
            size, columns = min(self.batch_size, spec.rows) or 1, list(range(spec.max_negatives))
            count = min(spec.rows // size, max(1, SAMPLED_BATCHES // len(chosen)))
            for n in range(count):
                numbers = [k * spec.rows // (size * count) for k in range(n, size * count, count)]
                rows = dataset.rows(numbers, columns, self.mixture.negatives[i])
                found.append(Sample(dataset.kind, shares[i] / count, rows.distinct()))
        return found

    def batch(self, step: int) -> tuple[str, Batch]:
        """Returns (name of the data set, packed batch) for a step."""
        plan = self.mixture.plan(step)
        dataset = self.datasets[plan.dataset]
        slots = self.slots[dataset.kind]  # held-out rows may have more negatives than those of training
        rows = dataset.rows(plan.rows.tolist(), plan.columns.tolist(), min(plan.negatives, slots))
        batch = assemble(
            rows,
            slots,
            kind=dataset.kind,
            batch_size=self.batch_size,
            rules=self.rules,
            pad_id=self.pad_id,
            share=self.share,
            scored=self.scored,
        )
        return dataset.name, batch

    def batches(self, steps: Iterable[int], ahead: int = 2) -> Iterator[tuple[int, str, Batch]]:
        """Yields (step, data set, batch) of these steps; a thread packs up to `ahead` steps in advance."""
        ready: queue.Queue = queue.Queue(maxsize=ahead)
        stopped = threading.Event()

        def put(item) -> None:
            while not stopped.is_set():
                try:
                    return ready.put(item, timeout=0.1)
                except queue.Full:
                    continue

        def work():
            try:
                for step in steps:
                    if stopped.is_set():
                        return
                    put((step, *self.batch(step)))
                put(None)
            except BaseException as error:  # passed to the consumer, which raises it
                put(error)

        thread = threading.Thread(target=work, name="batches", daemon=True)
        thread.start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stopped.set()
            thread.join()
