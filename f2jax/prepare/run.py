"""`f2jax prepare`: from source files to a corpus folder.

A data set that is finished, from the same rows by the same options, is not made again. An input is read twice, for the
numbers of its rows and for the texts of those that stay, and never again unless it changes. Memory grows with the
distinct documents of the largest data set (8 bytes each), with the rows of the corpus (1 byte each), and with those of
the largest input (8 bytes each), no further.
"""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from f2jax import __version__, files
from f2jax.data.corpus import CARD, TOKENIZER
from f2jax.data.corpus_index import INDEX, SPLITS
from f2jax.data.released import files_after_stage_1
from f2jax.data.skip_list import say_once
from f2jax.data.sources import list_inputs, source_files
from f2jax.data.tokenizer import Tokenizer
from f2jax.errors import UserError
from f2jax.prepare import data_card as cards
from f2jax.prepare.add import AddedTo
from f2jax.prepare.curate.decontaminate import MTEB, Index, build_index, set_files
from f2jax.prepare.datasets import DatasetPlan, groups, plan_datasets, settings_digest
from f2jax.prepare.describe import describe, write_missing
from f2jax.prepare.duplicates import REASONS, find_duplicates, join_lists, list_duplicates
from f2jax.prepare.options import PrepareOptions
from f2jax.prepare.read_inputs import InputFolder, InputSummary, read_input
from f2jax.prepare.spill import WORK, spill, spilled_documents, spilled_rows
from f2jax.prepare.tokenizer import choose_tokenizer
from f2jax.prepare.workers import exclusive, run_in_processes

SURVEYS, FINISHED, VOCABULARY = "survey", "finished", "vocabulary"  # folders next to the data sets
EVALUATION, SIGNATURE = "evaluation", "mteb.txt"  # folder of indexes of evaluation texts; in one: of which tests
READER = 4  # raised when inputs are read in another way, so that they are read again
STATES, SETS = "states", "sets"  # in the folder for work: what becomes of each row of each input; texts of data sets


def prepare(
    sources: Sequence[str],
    output: str | Path,
    tokenizer: str | Path | int,
    options: PrepareOptions,
    licences: Mapping[str, str] | None = None,
    jobs: int = 1,
    listing: str | Path | None = None,
    before: AddedTo | None = None,
) -> dict:
    """Writes a corpus of `sources` to the folder `output`; returns the data card.

    Args:
        sources: as in `data.sources` of a training config.
        tokenizer: a file or folder; a number: pieces of a SentencePiece model to train on the texts.
        licences: {name or pattern: licence}, for the card.
        jobs: processes; each reads inputs and makes data sets of its own.
        listing: a file for the skipped rows, as lines of JSON; None: they are only counted.
        before: the corpus that is there, to which these sources are added; tokenizer and options are its own.

    Raises:
        UserError: an input, the tokenizer or an option cannot be used, no row is left, the output is another process's
            or no corpus, the listing is another file, or a source is in the corpus already.
    """
    if files.is_remote(output):
        raise UserError(f"--output {output}: a corpus is written to a local or mounted folder; copy it from there.")
    if jobs < 1:
        raise UserError(f"--jobs {jobs} should be at least 1.")
    output, options = Path(output).resolve(), options.of_stage()
    signatures = sign_inputs(sources, files_after_stage_1() if options.stage == 1 else ())
    _check_output(output)
    if listing:
        _begin_listing(listing)
    with exclusive(output):
        (output / SURVEYS).mkdir(exist_ok=True)
        chosen = choose_tokenizer(tokenizer, signatures, options, output / VOCABULARY)
        names = names_of(signatures, options, sets_signatures(options, evaluation_folder(output, options)))
        inputs = [InputFolder(spec, output / SURVEYS / name) for spec, name in names.items()]
        if before and not (inputs := [folder for folder in inputs if folder.folder.name not in before.names]):
            return before.card  # all are in it
        return _Preparation(output, inputs, chosen, options, licences or {}, jobs, listing, before).make()


@dataclasses.dataclass(frozen=True)
class _Preparation:
    """One call of `prepare`, whose output is locked."""

    output: Path
    inputs: Sequence[InputFolder]
    tokenizer: Tokenizer
    options: PrepareOptions
    licences: Mapping[str, str]
    jobs: int
    listing: str | Path | None
    before: AddedTo | None

    def run(self, function: Callable, items: Sequence) -> Iterator:
        return run_in_processes(function, items, self.jobs)

    def make(self) -> dict:
        """Reads what is not read yet, makes the data sets that are not made yet, and writes the card."""
        unread = [folder for folder in self.inputs if not folder.is_complete(bool(self.listing))]
        for left in (self.output / SURVEYS).glob("*.part"):  # by a run that was killed
            shutil.rmtree(left)
        self._read(unread)
        summaries = [folder.summary() for folder in self.inputs]
        states = self._find_duplicates(summaries)
        counts = count(summaries, states)
        parts = [summary.parts for summary in summaries]
        plans = plan_datasets(self.inputs, parts, states, self.options, self.tokenizer.fingerprint())
        if not plans:
            raise cards.empty_corpus(counts["skipped"])
        if self.before:
            self.before.check_new(plan.source_kind[0] for plan in plans)
        listings = listings_of(self.inputs, states) if self.listing else {}
        self._make_datasets(plans, states, listings)
        entries = [cards.read_data_card(self.output / FINISHED, plan.key) for plan in plans]
        staying = self.before.datasets if self.before else []
        write_missing(self.output, (*staying, *entries), self.jobs)
        if self.listing:
            lists = [path for n, folder in enumerate(self.inputs) for path in (folder.listing, listings.get(n)) if path]
            join_lists(lists, self.listing)
        self._forget_card()  # it names nothing that is removed now
        surveys = {folder.folder.name for folder in self.inputs}.union(self.before.names if self.before else ())
        evaluation = {evaluation_folder(self.output, self.options).name}
        remove_leftovers(self.output, surveys, {entry["folder"] for entry in (*staying, *entries)}, evaluation)
        return self._write_card(entries, counts)

    def _forget_card(self) -> None:
        """Removes the card of a corpus that is made anew; what is added to one leaves all that it names."""
        if not self.before:
            (self.output / CARD).unlink(missing_ok=True)

    def _find_duplicates(self, summaries: Sequence[InputSummary]) -> list[np.ndarray]:
        """What becomes of each row of each input; rows that are in the corpus stay."""
        old = [InputFolder("", self.output / SURVEYS / name) for name in self.before.names] if self.before else []
        if not all(folder.is_complete(listing=False) for folder in old):
            raise UserError(f"{self.output} lacks a part of {SURVEYS}/; prepare it again before you add to it.")
        rows = [summary.rows for summary in (*(folder.summary() for folder in old), *summaries)]
        return find_duplicates([*old, *self.inputs], rows, self.options.curate, len(old))[len(old) :]

    def _read(self, inputs: Sequence[InputFolder]) -> None:
        index = self._evaluation_index() if inputs else None
        read = partial(read_input, options=self.options, listing=bool(self.listing), index=index)
        results = self.run(read, inputs)
        for _ in tqdm(results, "inputs", len(inputs), unit="file", disable=None if inputs else True):
            pass

    def _evaluation_index(self) -> Path | None:
        """The folder of the index of all evaluation texts, which is made once for all workers."""
        curate = self.options.curate
        if not curate or not curate.evaluation_sets:
            return None
        folder = evaluation_folder(self.output, self.options)
        if not folder.exists():
            part = folder.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            signature = content_signature(set_files(MTEB)) if MTEB in curate.evaluation_sets else ""
            build_index(curate.evaluation_sets, curate.ngram, curate.fewest_letters).save(part)
            (part / SIGNATURE).write_text(signature)
            part.rename(folder)
            Index.open.cache_clear()  # it may hold one that was deleted
        return folder

    def _make_datasets(
        self, plans: Sequence[DatasetPlan], states: Sequence[np.ndarray], listings: Mapping[int, Path]
    ) -> None:
        """Makes the data sets that are not finished, and lists the duplicates of inputs that are not listed yet."""
        output, work = self.output, self.output / WORK
        todo = [plan for plan in plans if not cards.is_finished(output, output / FINISHED, plan.key, plan.fingerprint)]
        unlisted = [number for number, path in listings.items() if not path.exists()]
        needed = sorted({*unlisted, *(number for plan in todo for number in plan.inputs)})
        index = self._evaluation_index() if needed else None
        if todo:
            self._forget_card()
        if not self.before:
            write_tokenizer(self.tokenizer, output / TOKENIZER)  # not before: a corpus that stays keeps its own
        for name in (STATES, SETS):
            shutil.rmtree(work / name, ignore_errors=True)
        (work / STATES).mkdir(parents=True)
        for number in needed:
            np.save(states_path(output, number), states[number])
        lists = [(self.inputs[n], states_path(output, n), listings[n]) for n in unlisted]
        for _ in self.run(partial(_list_one, options=self.options, index=index), lists):
            pass
        make = partial(make_group, output=output, inputs=self.inputs, options=self.options, index=index)
        batches = groups(todo)
        if batches:
            self._say_disk(batches)
        results = self.run(make, batches)
        with tqdm(total=len(todo), desc="data sets", disable=None) as bar:
            for plans_made, _ in zip(batches, results, strict=True):
                bar.update(len(plans_made))

    def _say_disk(self, batches: Sequence[Sequence[DatasetPlan]]) -> None:
        """Says how much of the disk the texts of the data sets that are made at the same time take, at most."""
        sizes = sorted((sum(plan.text_bytes for plan in plans) for plans in batches), reverse=True)
        most, free = math.ceil(sum(sizes[: self.jobs]) / 1e6), shutil.disk_usage(self.output).free // 10**6
        say_once(f"{self.output / WORK} takes up to {most:,} MB until the data sets are made; {free:,} MB are free.")

    def _write_card(self, entries: Sequence[dict], counts: dict) -> dict:
        card = cards.new_card(self.tokenizer.fingerprint(), self.options, counts, entries, self.licences)
        card["inputs"] = sorted(folder.folder.name for folder in self.inputs)
        if self.before:
            card = self.before.joined(card)
        files.write_atomically(self.output / CARD, json.dumps(card, indent=1, ensure_ascii=False))
        return card


def _check_output(output: Path) -> None:
    """Raises UserError where the folder holds files and none of an earlier `prepare`."""
    visible = output.is_dir() and any(not path.name.startswith(".") for path in output.iterdir())
    if visible and not (output / SURVEYS).is_dir():
        raise UserError(
            f"--output {output} contains files that f2jax prepare did not write; name a new or empty folder."
        )


def _begin_listing(path: str | Path) -> None:
    """Empties the list, since it is better said now than after hours that it cannot be written.

    Raises:
        UserError: it cannot be written, or is a file that `prepare` did not write.
    """
    if files.exists(path) and (first := files.read_bytes(path).partition(b"\n")[0]):
        try:
            files.check_object(files.parse_json(first, path), path, {"reason": str, "where": str})
        except UserError as error:
            raise UserError(f"--skipped {path} is a file that f2jax prepare did not write; name another.") from error
    files.write_atomically(path, "")


def sign_inputs(sources: Iterable[str], ignored: Sequence[str] = ()) -> dict[str, str]:
    """{input: signature that changes with its content} of all there is to read, in order.

    Args:
        ignored: patterns of the names of files that are left out.

    Raises:
        UserError: there are no sources, or one is missing.
    """
    signatures = {name: content_signature(source_files(name)) for name in list_inputs(sources, ignored)}
    if not signatures:
        raise UserError("There is nothing to prepare; name files or built-in sets with --input.")
    return signatures


def content_signature(paths: Sequence[str]) -> str:
    """A text that changes with the content of files; without files (a built-in set) with the version of f2jax."""
    stats = []
    for path in paths:
        filesystem, name = files.filesystem(path)
        info = filesystem.info(name)
        stats.append(" ".join(str(info[key]) for key in ("name", "size", "mtime", "md5Hash", "etag") if key in info))
    return "\n".join(stats) or f"f2jax {__version__}"


def names_of(signatures: Mapping[str, str], options: PrepareOptions, sets: Sequence[str]) -> dict[str, str]:
    """A name for each input, made from all that decides which records it gives.

    Args:
        sets: the signature of each evaluation set.
    """
    curate = options.curate and dataclasses.asdict(options.curate)
    return {
        spec: settings_digest([READER, spec, signature, options.kinds, options.seed, curate, sets])
        for spec, signature in signatures.items()
    }


def evaluation_folder(output: Path, options: PrepareOptions) -> Path:
    """Where the index of the evaluation texts lies, as long as the corpus: tests of MTEB come and go in the cache."""
    curate = options.curate
    sets = [spec for spec in curate.evaluation_sets if spec != MTEB] if curate else []
    made_of = [[content_signature(set_files(spec)) for spec in sets], *(dataclasses.astuple(curate) if curate else ())]
    return output / EVALUATION / settings_digest(made_of)


def sets_signatures(options: PrepareOptions, folder: Path) -> list[str]:
    """A text for each evaluation set that changes with its content; that of MTEB's tests is of those in the index.

    Args:
        folder: of the index of their texts, if there is one.
    """
    sets = options.curate.evaluation_sets if options.curate else ()
    signatures = {spec: content_signature(set_files(spec)) for spec in sets}
    if MTEB in signatures and folder.exists():
        old = (folder / SIGNATURE).read_text()
        if old != signatures[MTEB]:
            say_once(
                "mteb: the tests in the hub's cache are others than when this corpus was begun, whose tests are looked "
                f"for; delete {folder} to look for those of now, which reads all inputs again."
            )
        signatures[MTEB] = old
    return list(signatures.values())


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes the tokenizer to `folder`, atomically."""
    part = folder.with_name(f"{folder.name}.part")
    for path in (part, folder):
        shutil.rmtree(path, ignore_errors=True)
    tokenizer.save(part)
    part.rename(folder)


def count(summaries: Sequence[InputSummary], states: Sequence[np.ndarray]) -> dict[str, dict]:
    """Over all inputs, for the card: rows skipped by reason, rows by note, rows and share of each language.

    Languages and notes are those of all rows that pass the steps for single rows, duplicates included.
    """
    skipped, *others = cards.sum_counts((found.skipped, found.noted, found.languages) for found in summaries)
    for duplicate, reason in REASONS.items():
        skipped[reason] += sum(int((state == duplicate).sum()) for state in states)
    return cards.for_card(skipped, *others)


def states_path(output: Path, number: int) -> Path:
    return output / WORK / STATES / f"{number:05d}.npy"


def listings_of(inputs: Sequence[InputFolder], states: Sequence[np.ndarray]) -> dict[int, Path]:
    """{number of an input that has duplicates: the file that lists them}."""
    paths = {}
    for number, state in enumerate(states):
        duplicates = np.isin(state, list(REASONS))
        if duplicates.any():
            paths[number] = inputs[number].path(f"duplicates-{settings_digest(mask=duplicates)}.jsonl")
    return paths


def _list_one(item: tuple[InputFolder, Path, Path], options: PrepareOptions, index: Path | None) -> None:
    list_duplicates(*item, options, index)


def make_group(
    plans: list[DatasetPlan], output: Path, inputs: Sequence[InputFolder], options: PrepareOptions, index: Path | None
) -> None:
    """Spills the inputs of some data sets, then writes and describes each."""
    work = output / WORK / SETS / plans[0].key
    folders = {number: work / f"{number:05d}" for plan in plans for number in plan.inputs}
    work.mkdir(parents=True)
    wanted = {plan.source_kind: plan.wanted for plan in plans}
    for number, folder in folders.items():
        spill(inputs[number], states_path(output, number), folder, wanted, options, index)
    for plan in plans:
        cards.forget(output / FINISHED, plan.key)
        for kind in ("documents", "rows", "texts"):
            shutil.rmtree(output / kind / plan.key, ignore_errors=True)
        shards = write_dataset(plan, [folders[number] for number in plan.inputs], output, options)
        entry = cards.new_entry(plan.name, plan.source_kind, plan.key, shards) | {"fingerprint": plan.fingerprint}
        cards.write_data_card(output / FINISHED, plan.key, entry | describe(output, entry))
    shutil.rmtree(work)


def write_dataset(
    plan: DatasetPlan, folders: Sequence[Path], output: Path, options: PrepareOptions
) -> dict[str, dict[str, list[int]]]:
    """Writes a data set from spilled texts, and returns the records of each of its files by kind and split."""
    from f2jax.prepare import tfds

    writer = tfds.ShardWriter.of(str(output), plan.key, plan.tokenizer, options)
    shards, keys, buckets = [], [np.zeros(0, np.int64)], plan.wanted.buckets
    for bucket in range(buckets):
        documents = spilled_documents(folders, plan.wanted, bucket)
        keys.append(np.array([document.key for document in documents], np.int64))
        shards += writer.documents(bucket, buckets, documents)
    all_keys = np.concatenate(keys)  # 8 bytes each
    for split in SPLITS:
        count, rows = spilled_rows(folders, plan.wanted, split)
        files_of_split = -(-count // tfds.SHARD_ROWS)
        for number in range(files_of_split):
            shards += writer.rows(split, number, files_of_split, islice(rows, tfds.SHARD_ROWS), all_keys)
    return writer.describe(shards)


def remove_leftovers(output: Path, surveys: set[str], names: set[str], evaluation: set[str]) -> None:
    """Removes what is not needed once all data sets are complete, and what earlier runs made for others.

    Args:
        surveys, names, evaluation: of the folders of inputs, data sets and indexes of evaluation texts that stay.
    """
    shutil.rmtree(output / WORK, ignore_errors=True)
    keep = {SURVEYS: surveys, EVALUATION: evaluation, FINISHED: {f"{name}.json" for name in names}}
    for name, stays in (keep | {"documents": names, "rows": names, "texts": names, INDEX: names}).items():
        for path in (output / name).glob("*"):
            if path.name not in stays:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
