"""`f2jax prepare`: makes a corpus folder from source files.

A complete data set is not made again from the same rows with the same options. An input is read twice, for the numbers
of its rows and for the texts of the kept ones, and not again unless it changes. Memory holds numbers for each row of
the corpus, for each row of one input, and for each distinct document of one data set, but few texts at a time.
"""

import dataclasses
import json
import math
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
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
from f2jax.data.sources import check_apart, list_inputs, say_unused, source_files
from f2jax.data.tokenizer import Tokenizer
from f2jax.errors import UserError
from f2jax.locks import exclusive
from f2jax.prepare import data_card as cards
from f2jax.prepare.add import AddedTo
from f2jax.prepare.curate.decontaminate import MTEB, Index, build_index, set_files
from f2jax.prepare.datasets import DatasetPlan, groups, plan_datasets, settings_digest
from f2jax.prepare.describe import describe, write_missing
from f2jax.prepare.duplicates import REASONS, find_duplicates, list_duplicates
from f2jax.prepare.options import PrepareOptions
from f2jax.prepare.read_inputs import InputFolder, InputSummary, bytes_of_row, read_input
from f2jax.prepare.spill import WORK, spill, spilled_documents, spilled_rows
from f2jax.prepare.tokenizer import choose_tokenizer
from f2jax.prepare.workers import run_in_processes

SURVEYS, VOCABULARY = "survey", "vocabulary"  # folders next to the data sets
EVALUATION, SIGNATURE = "evaluation", "mteb.txt"  # folder of indexes of evaluation texts; in one: of which tests
READER = 5  # raised when inputs are read in another way, so that they are read again


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
        tokenizer: a file or folder, or the number of pieces of a SentencePiece model to train on the texts.
        licences: {name or pattern: licence}, for the card.
        jobs: number of processes; each reads inputs and makes data sets of its own.
        listing: file for the skipped rows, as lines of JSON; None: only count them.
        before: existing corpus to which these sources are added, with its tokenizer and options.

    Raises:
        UserError: an input, the tokenizer or an option cannot be used, no row is left, the output is another process's
            or no corpus, input or output lie in each other, the listing is another file, or a source is in the corpus
            already.
    """
    if files.is_remote(output):
        raise UserError(f"--output {output}: a corpus is written to a local or mounted folder; copy it from there.")
    if jobs < 1:
        raise UserError(f"--jobs {jobs} should be at least 1.")
    output, options = Path(output).resolve(), options.of_stage()
    signatures = sign_inputs(sources, options)
    _check_output(output)
    check_apart(sources, signatures, output)
    if listing:
        _begin_listing(listing)
    with exclusive(output, "prepare"):
        (output / SURVEYS).mkdir(exist_ok=True)
        chosen = choose_tokenizer(tokenizer, signatures, options, output / VOCABULARY)
        curate = options.curate and dataclasses.asdict(options.curate)
        evaluation, sets = sign_evaluation_sets(output, options)
        decides = (options.kinds, options.seed, curate, sets)  # with the content, all records of an input
        names = [settings_digest([READER, spec, signature, *decides]) for spec, signature in signatures.items()]
        inputs = [InputFolder(spec, output / SURVEYS / name) for spec, name in zip(signatures, names, strict=True)]
        if before and not (inputs := [folder for folder in inputs if folder.folder.name not in before.names]):
            return before.card  # all are in it
        return _Preparation(output, inputs, chosen, options, evaluation, licences or {}, jobs, listing, before).make()


@dataclasses.dataclass(frozen=True)
class _Preparation:
    """A call of `prepare`, with its output locked."""

    output: Path
    inputs: Sequence[InputFolder]
    tokenizer: Tokenizer
    options: PrepareOptions
    evaluation: Path  # folder of the index of evaluation texts
    licences: Mapping[str, str]
    jobs: int
    listing: str | Path | None
    before: AddedTo | None

    def make(self) -> dict:
        """Reads the inputs that have not been read, makes the missing data sets, and writes the card."""
        old = self._old_inputs()  # first, because reading may take hours
        unread = [folder for folder in self.inputs if not folder.is_complete(bool(self.listing))]
        for left in (self.output / SURVEYS).glob("*.part"):  # by a run that was killed
            shutil.rmtree(left)
        self._read(unread)
        summaries = [folder.summary() for folder in self.inputs]
        states = find_duplicates([*old, *self.inputs], self.options.curate, len(old))[len(old) :]
        counts = count(summaries, states)
        plans = plan_datasets(self.inputs, states, self.options, self.tokenizer.fingerprint())
        if not plans:
            raise cards.empty_corpus(counts["skipped"])
        if self.before:
            self.before.check_new(plan.source_kind[0] for plan in plans)
        self._make_datasets(plans, states, sum(sum(summary.sizes.values()) for summary in summaries))
        entries = [files.read_json_object(cards.entry_path(self.output, plan.key)) for plan in plans]
        staying = self.before.datasets if self.before else []
        write_missing(self.output, (*staying, *entries), self.jobs)
        if self.listing:
            self._list_skipped(self.listing, states)
        self._forget_card()  # it names nothing that is removed now
        names = {entry["folder"] for entry in (*staying, *entries)}
        keep = {
            SURVEYS: {folder.folder.name for folder in self.inputs}.union(self.before.names if self.before else ()),
            EVALUATION: {self.evaluation.name},
            cards.FINISHED: {f"{name}.json" for name in names},
        }
        remove_leftovers(self.output, keep | dict.fromkeys(("documents", "rows", "texts", INDEX), names))
        return self._write_card(entries, counts)

    def _forget_card(self) -> None:
        """Removes the card of a corpus that is made again; adding to a corpus keeps all that its card names."""
        if not self.before:
            (self.output / CARD).unlink(missing_ok=True)

    def _old_inputs(self) -> list[InputFolder]:
        """Returns the inputs of the corpus to which others are added, if any; their rows stay.

        Raises:
            UserError: their numbers are missing, or in the format of an earlier version.
        """
        old = [InputFolder("", self.output / SURVEYS / name) for name in self.before.names] if self.before else []
        if unusable := [folder for folder in old if not folder.is_complete(listing=False)]:
            earlier = all(folder.is_whole() for folder in unusable)
            reason = "was prepared by an earlier version" if earlier else f"lacks a part of {SURVEYS}/ that is needed"
            raise UserError(f"{self.output} {reason}; prepare it again, then add to it.")
        return old

    def _read(self, inputs: Sequence[InputFolder]) -> None:
        if inputs:
            each = bytes_of_row(self.options)
            say_once(f"{self.output / SURVEYS} permanently takes {each:,} bytes of disk for each kept row.")
        index = self._evaluation_index() if inputs else None
        read = partial(read_input, options=self.options, listing=bool(self.listing), index=index)
        results = run_in_processes(read, inputs, self.jobs)
        for _ in tqdm(results, "inputs", len(inputs), unit="file", disable=None if inputs else True):
            pass

    def _evaluation_index(self) -> Path | None:
        """Returns the folder with the index of all evaluation texts, which is made once for all workers."""
        curate, folder = self.options.curate, self.evaluation
        if not curate or not curate.evaluation_sets:
            return None
        if not folder.exists():
            part = folder.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            signature = content_signature(set_files(MTEB)) if MTEB in curate.evaluation_sets else ""
            build_index(curate.evaluation_sets, curate.ngram, curate.fewest_letters).save(part)
            (part / SIGNATURE).write_text(signature)
            part.rename(folder)
            Index.open.cache_clear()  # it may hold one that was deleted
        return folder

    def _make_datasets(self, plans: Sequence[DatasetPlan], states: Sequence[np.ndarray], kept: int) -> None:
        """Makes the missing data sets; `kept` is the number of bytes that the inputs keep on disk."""
        output = self.output
        todo = [plan for plan in plans if not cards.is_finished(output, plan.key, plan.fingerprint)]
        index = self._evaluation_index() if todo else None
        if todo:
            self._forget_card()
        if not self.before:
            write_tokenizer(self.tokenizer, output / TOKENIZER)  # not before: a corpus that stays keeps its own
        shutil.rmtree(output / WORK, ignore_errors=True)
        batches = groups(todo)
        if batches:
            self._say_disk(batches, kept)
        items = [(some, {n: (self.inputs[n], states[n]) for plan in some for n in plan.inputs}) for some in batches]
        make = partial(make_group, output=output, options=self.options, index=index)
        results = run_in_processes(make, items, self.jobs)
        with tqdm(total=len(todo), desc="data sets", disable=None) as bar:
            for some, _ in zip(batches, results, strict=True):
                bar.update(len(some))

    def _say_disk(self, batches: Sequence[Sequence[DatasetPlan]], kept: int) -> None:
        """Says how much of the disk the texts of the data sets that are made at the same time take, at most."""
        sizes = sorted((sum(plan.text_bytes for plan in plans) for plans in batches), reverse=True)
        most, free = math.ceil(sum(sizes[: self.jobs]) / 1e6), shutil.disk_usage(self.output).free // 10**6
        say_once(
            f"{self.output / WORK} takes up to {most:,} MB until the data sets are made; {free:,} MB are free. "
            f"{self.output / SURVEYS} permanently takes {math.ceil(kept / 1e6):,} MB."
        )

    def _list_skipped(self, target: str | Path, states: Sequence[np.ndarray]) -> None:
        """Writes the list of all rows that are left out: for each input, the skipped rows and then the duplicates."""
        index = self._evaluation_index()
        duplicates = partial(list_duplicates, options=self.options, index=index)
        lists = run_in_processes(duplicates, list(zip(self.inputs, states, strict=True)), self.jobs)
        with files.atomic_path(target) as part, files.clear_errors(target, "written"), open(part, "wb") as file:
            for folder, listed in zip(self.inputs, lists, strict=True):
                for path in (folder.listing, listed):
                    with path.open("rb") as source:
                        shutil.copyfileobj(source, file)

    def _write_card(self, entries: Sequence[dict], counts: dict) -> dict:
        card = cards.new_card(self.tokenizer.fingerprint(), self.options, counts, entries, self.licences)
        card["inputs"] = sorted(folder.folder.name for folder in self.inputs)
        if self.before:
            card = self.before.joined(card)
        files.write_atomically(self.output / CARD, json.dumps(card, indent=1, ensure_ascii=False))
        return card


def _check_output(output: Path) -> None:
    """Raises UserError if the folder has files, but none of an earlier `prepare`."""
    visible = output.is_dir() and any(not path.name.startswith(".") for path in output.iterdir())
    if visible and not (output / SURVEYS).is_dir():
        raise UserError(
            f"--output {output} contains files that f2jax prepare did not write; name a new or empty folder."
        )


def _begin_listing(path: str | Path) -> None:
    """Empties the list, to find out now, and not after hours, whether it can be written.

    Raises:
        UserError: it cannot be written, or `prepare` did not write it.
    """
    if files.exists(path) and (first := files.read_bytes(path).partition(b"\n")[0]):
        try:
            files.check_object(files.parse_json(first, path), path, {"reason": str, "where": str})
        except UserError as error:
            raise UserError(f"--skipped {path} is a file that f2jax prepare did not write; name another.") from error
    files.write_atomically(path, "")


def sign_inputs(sources: Iterable[str], options: PrepareOptions) -> dict[str, str]:
    """Returns {input: signature that changes with its content} for all inputs of the stage, in order.

    Raises:
        UserError: there are no sources, or one is missing.
    """
    ignored = files_after_stage_1() if options.stage == 1 else ()
    signatures = {name: content_signature(source_files(name)) for name in list_inputs(sources, ignored)}
    if not signatures:
        raise UserError("There is nothing to prepare; name files or built-in sets with --input.")
    say_unused(options.kinds, signatures)
    return signatures


def content_signature(paths: Sequence[str]) -> str:
    """A text that changes with the content of files; without files (a built-in set) with the version of f2jax."""
    stats = []
    for path in paths:
        filesystem, name = files.filesystem(path)
        info = filesystem.info(name)
        stats.append(" ".join(str(info[key]) for key in ("name", "size", "mtime", "md5Hash", "etag") if key in info))
    return "\n".join(stats) or f"f2jax {__version__}"


def sign_evaluation_sets(output: Path, options: PrepareOptions) -> tuple[Path, list[str]]:
    """Returns the folder of the index of the evaluation texts, and for each set, a text that changes with its content.

    Tests of MTEB come and go in the hub's cache, so the folder, which lasts as long as the corpus, does not depend on
    them; if it exists, their text is that of the tests in the index.
    """
    curate = options.curate
    signatures = {spec: content_signature(set_files(spec)) for spec in (curate.evaluation_sets if curate else ())}
    others = [signature for spec, signature in signatures.items() if spec != MTEB]
    folder = output / EVALUATION / settings_digest([others, *(dataclasses.astuple(curate) if curate else ())])
    if MTEB in signatures and folder.exists():
        old = (folder / SIGNATURE).read_text()
        if old != signatures[MTEB]:
            say_once(
                "mteb: the tests in the hub's cache are others than when this corpus was begun, whose tests are looked "
                f"for; delete {folder} to look for those of now, which reads all inputs again."
            )
        signatures[MTEB] = old
    return folder, list(signatures.values())


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


def make_group(
    item: tuple[list[DatasetPlan], dict[int, tuple[InputFolder, np.ndarray]]],
    output: Path,
    options: PrepareOptions,
    index: Path | None,
) -> None:
    """Spills the inputs of some data sets, given the states of their rows, and then writes and describes each."""
    plans, inputs = item
    work = output / WORK / plans[0].key
    folders = {number: work / f"{number:05d}" for number in inputs}
    wanted = {plan.source_kind: plan for plan in plans}
    for number, (source, states) in inputs.items():
        spill(source, states, folders[number], wanted, options, index)
    for plan in plans:
        finished = cards.entry_path(output, plan.key)
        finished.unlink(missing_ok=True)
        for kind in ("documents", "rows", "texts"):
            shutil.rmtree(output / kind / plan.key, ignore_errors=True)
        shards = write_dataset(plan, [folders[number] for number in plan.inputs], output, options)
        entry = cards.new_entry(plan.name, plan.source_kind, plan.key, shards) | {"fingerprint": plan.fingerprint}
        files.write_atomically(finished, json.dumps(entry | describe(output, entry), ensure_ascii=False))
    shutil.rmtree(work)


def write_dataset(
    plan: DatasetPlan, folders: Sequence[Path], output: Path, options: PrepareOptions
) -> dict[str, dict[str, list[int]]]:
    """Writes a data set from spilled texts, and returns the records of each of its files by kind and split."""
    from f2jax.prepare import tfds

    writer = tfds.ShardWriter(str(output), plan.key, plan.tokenizer, options)
    shards, keys = [], [np.zeros(0, np.int64)]
    for bucket in range(plan.buckets):
        documents = spilled_documents(folders, plan.key, bucket)
        keys.append(np.array([document.key for document in documents], np.int64))
        shards += writer.documents(bucket, plan.buckets, documents)
    all_keys = np.concatenate(keys)  # 8 bytes each
    for split in SPLITS:
        count, rows = spilled_rows(folders, plan.key, split)
        files_of_split = -(-count // tfds.SHARD_ROWS)
        for number in range(files_of_split):
            shards += writer.rows(split, number, files_of_split, islice(rows, tfds.SHARD_ROWS), all_keys)
    return writer.describe(shards)


def remove_leftovers(output: Path, keep: Mapping[str, Collection[str]]) -> None:
    """Removes temporary files, and in some folders of a corpus all but the names to keep."""
    shutil.rmtree(output / WORK, ignore_errors=True)
    for folder, names in keep.items():
        for path in (output / folder).glob("*"):
            if path.name not in names:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
