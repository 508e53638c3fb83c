"""Chooses the shapes of packed rows: few, since each is compiled, and with little padding on any number of chips.

A chip has rows of T tokens, in chunks that are encoded one after the other. XLA compiles a program for each number of
rows, each T, and each number of chunks that there is room for; how many chunks a batch fills is decided at run time.

Letters: u distinct texts of a batch, i samples of batches, o shapes to choose from.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

SHORTEST = 128  # tokens in the shortest rows
UNIT = 16  # row lengths are multiples of this many tokens, like the tiles of 16-bit numbers on a TPU
STEPS = 32  # sizes in each doubling of the number of rows, or of their length
BINS = (256, 512)  # tokens; attention on a TPU computes fewer tiles if no text crosses between such parts of a row
ATTENTION = 8192  # tokens in a row for which attention takes as long as everything else
# Tokens that a chip encodes in the time that it takes to add the gradients of a chunk to their sum. While a v5p, v5e or
# v6e moves 8 bytes per weight, it encodes 91, 132 or 308 tokens, with 8 operations per weight at 55 % of its peak.
CHUNK_COST = 128
PROGRAMS, CHUNKED_PROGRAMS = 48, 12  # default number of programs of a run, without and with chunks
ROUNDS = 3  # rounds of exchanges; further ones hardly change anything
IMPOSSIBLE = 1e30  # cost in tokens of a shape that a batch does not fit
MARGIN = 1.01  # room for batches larger than a sample
GAPS = (1, 1.01, 1.02, 1.04, 1.08)  # further room of the shapes to choose from, for the gaps beside long texts
LARGEST = 0.1  # room beyond the largest sample, as a share of it
MARGINS = tuple(1 + 0.005 * (2**i - 1) for i in range(20))  # increasing room, for packings with larger gaps


@dataclass(frozen=True, order=True)
class RowShape:
    """The rows of one part of a batch, which is what a device holds."""

    length: int  # tokens in a row, T
    rows: int  # rows in a chunk
    slots: int = 1  # chunks that the arrays have room for; 1: all rows are encoded at once

    def chunks(self, rows: int, parts: int) -> int:
        """Returns the number of chunks that are filled by this many rows of all parts."""
        return max(1, -(-rows // (parts * self.rows)))

    def cost(self, chunks: int) -> float:
        """Returns the time that this many chunks take, in tokens."""
        return chunks * (self.rows * self.length * (1 + self.length / ATTENTION) + CHUNK_COST)


@dataclass(frozen=True)
class Placement:
    """The place of each sequence u, and the resulting rows."""

    shape: RowShape
    parts: int
    chunks: int  # filled chunks
    row_u: np.ndarray  # among the rows of all parts; row r is in chunk r % slots
    start_u: np.ndarray  # first column
    segment_u: np.ndarray  # 1 … in the order of the row

    @property
    def rows(self) -> int:
        """The number of rows of all parts, including those of empty chunks."""
        return self.parts * self.shape.rows * self.shape.slots

    @property
    def tokens(self) -> int:
        """The number of tokens in all filled chunks, including padding."""
        return self.parts * self.shape.rows * self.chunks * self.shape.length


@dataclass(frozen=True)
class RowRules:
    """Rules by which the rows of batches are chosen.

    Args:
        row_length: tokens in a row that is long enough for any text.
        chunk_rows: rows of `row_length` tokens, or as many tokens in other rows, that a part encodes at once; 0: all.
        programs: the shapes to use, by kind; for other kinds, each batch has the shape that suits it best.
    """

    row_length: int
    chunk_rows: int = 0
    programs: Mapping[str, Sequence[RowShape]] = field(default_factory=dict)

    @property
    def lengths(self) -> list[int]:
        """The ladder of row lengths, which double from 128 up to `row_length`."""
        doubled = [SHORTEST << i for i in range(32)]
        return [*(length for length in doubled if length < self.row_length), self.row_length]

    def place(self, lengths_u: np.ndarray, parts: int = 1, kind: str = "") -> Placement:
        """Places sequences of these lengths in rows of the cheapest shape that they fit.

        >>> RowRules(row_length=1024).place(np.full(4608, 60), parts=256).shape
        RowShape(length=1088, rows=1, slots=1)

        Args:
            lengths_u: lengths in tokens, none above `row_length`.
            parts: number of equal parts into which the rows are split, one per device.
            kind: kind of the batch, see `programs`.
        """
        packed: dict[int, tuple] = {}  # by row length
        best: tuple[float, RowShape, int] = math.inf, RowShape(0, 0), 0  # cost, shape, chunks
        for shapes in filter(None, self._candidates(lengths_u, parts, kind)):
            rows_o = least_rows(lengths_u, np.array([shape.length for shape in shapes])).tolist()
            bounds = [shape.cost(shape.chunks(rows, parts)) for shape, rows in zip(shapes, rows_o, strict=True)]
            for bound, shape in sorted(zip(bounds, shapes, strict=True)):
                if bound >= best[0]:
                    break
                if shape.length not in packed:
                    packed[shape.length] = best_fit(lengths_u, shape.length)
                chunks = shape.chunks(packed[shape.length][3], parts)
                if chunks <= shape.slots:
                    best = min(best, (shape.cost(chunks), shape, chunks))
            if best[2]:
                break
        assert best[2], "there is a shape for any lengths up to row_length"
        _, shape, chunks = best
        if kind not in self.programs:
            shape = replace(shape, slots=1 << (shape.slots - 1).bit_length())
        row_u, start_u, segment_u, _ = packed[shape.length]
        room = parts * shape.rows * chunks
        for bin_length in (n for n in BINS if n < shape.length and shape.length % n == 0):
            in_bins = best_fit(lengths_u, shape.length, bin_length)
            if in_bins[3] <= room:  # the bins cost nothing
                row_u, start_u, segment_u, _ = in_bins
                break
        row_u = row_u % parts * (shape.rows * chunks) + row_u // parts  # gives each part long and short texts
        in_arrays_u = row_u // chunks * shape.slots + row_u % chunks
        return Placement(shape, parts, chunks, in_arrays_u, start_u, segment_u)

    def _candidates(self, lengths_u: np.ndarray, parts: int, kind: str) -> Iterator[Sequence[RowShape]]:
        """Yields sets of shapes to choose from, each for the case that no shape of the earlier ones has enough room.

        A batch that fits none of the `programs` of its kind gets rows of `row_length`, with four possible numbers of
        them in each doubling, so that it takes little more memory than it needs. Kinds without programs get shapes of
        the ladder, with as many slots as the batch should fill.
        """
        tokens, longest = max(int(lengths_u.sum()), 1), int(lengths_u.max(initial=1))
        needed = tokens / parts
        if kind in self.programs:
            yield [shape for shape in self.programs[kind] if shape.length >= longest]
            counts = {round_up(math.ceil(needed * margin / self.row_length), 4) for margin in MARGINS}
            yield from ([RowShape(self.row_length, count)] for count in sorted(counts))
        for margin in MARGINS:
            yield list(set(self.ladder(needed * margin, longest, tokens / max(len(lengths_u), 1))))

    def ladder(self, needed: float, longest: int, mean: float) -> Iterator[RowShape]:
        """Yields the smallest shape with room for `needed` tokens of a part, for each length of the ladder.

        There are either many rows of exactly that length, or a few that may be up to twice as long.
        """
        limit = self.chunk_rows * self.row_length or 2**62
        chunks = math.ceil(needed / limit) or 1
        for length in self.lengths:
            count = needed / chunks / length
            if length < min(4 * mean, self.row_length):
                continue  # the gaps would be large
            if count >= STEPS // 2 or self.row_length < SHORTEST:
                rows = min(round_up(math.ceil(count), STEPS), limit // length)
            else:
                rows = max(1, int(count))
                wanted = round_up(math.ceil(max(count * length / rows, longest)), STEPS, UNIT)
                length = min(wanted, max(limit // rows // UNIT * UNIT, length))
            if length >= longest:
                yield RowShape(length, rows, chunks)


@dataclass(frozen=True)
class Sample:
    """What the rows of a batch depend on."""

    kind: str
    weight: float  # frequency of such batches
    lengths_u: np.ndarray  # tokens in each of its distinct texts


def choose_programs(
    samples: Sequence[Sample], rules: RowRules, parts: int, texts: Mapping[str, int], limit: int
) -> dict[str, list[RowShape]]:
    """Chooses `limit` shapes, at least one per kind, with which batches like the samples take the least time.

    Each kind starts with the cheapest shape that holds all of its samples, and a somewhat larger batch. Then, the shape
    that saves the most is added, until there are `limit` of them. Finally, each shape is exchanged for the one that
    goes best with the others, in several rounds.

    Args:
        texts: largest number of texts in a batch of each kind.
    """
    kinds = sorted({sample.kind for sample in samples})
    samples = [*samples, *(_larger(samples, kind, rules) for kind in kinds)]
    options: list[tuple[str, RowShape]] = []
    for kind in kinds:
        own = [sample for sample in samples if sample.kind == kind]
        options += [(kind, shape) for shape in sorted(program_options(own, rules, parts, texts[kind]))]
    cost_io = np.stack([program_costs(sample, options, rules, parts) for sample in samples])
    fits_i = np.isfinite(cost_io).any(axis=1)  # a sample that no option holds gets other rows, whatever is chosen
    samples, cost_io = [sample for sample, fits in zip(samples, fits_i, strict=True) if fits], cost_io[fits_i]
    cost_io = cost_io.clip(max=IMPOSSIBLE)
    weight_i = np.array([sample.weight for sample in samples])

    def best(chosen: list[int]) -> int:
        """Returns the option that saves the most in addition to the chosen ones."""
        now_i = cost_io[:, chosen].min(axis=1, initial=np.inf)
        return int((weight_i @ np.minimum(cost_io, now_i[:, None])).argmin())

    kinds_o = np.array([kind for kind, _ in options])
    kinds_i = np.array([sample.kind for sample in samples])
    chosen = [
        int(np.where(kinds_o == kind, weight_i[own_i] @ cost_io[own_i], np.inf).argmin())
        for kind, own_i in ((kind, kinds_i == kind) for kind in kinds)
    ]
    while len(chosen) < limit and (other := best(chosen)) not in chosen:  # a chosen one saves nothing
        chosen.append(other)
    for place in ROUNDS * list(range(len(chosen))):
        chosen[place] = best(chosen[:place] + chosen[place + 1 :])
    programs: dict[str, list[RowShape]] = {}
    for option in dict.fromkeys(chosen):
        kind, shape = options[option]
        programs.setdefault(kind, []).append(shape)
    return programs


def _larger(samples: Sequence[Sample], kind: str, rules: RowRules) -> Sample:
    """Returns a batch larger than all samples of a kind, with a text of the greatest length; its weight is almost 0."""
    largest = max((sample.lengths_u for sample in samples if sample.kind == kind), key=np.sum)
    more = math.ceil(LARGEST * max(largest.sum(), 1) / rules.row_length)
    return Sample(kind, 1e-12, np.append(largest, np.full(more, rules.row_length)))


def program_options(samples: Sequence[Sample], rules: RowRules, parts: int, texts: int) -> set[RowShape]:
    """Returns the shapes that may suit batches of one kind: those that suit a sample, and one that holds any sample."""
    found: set[RowShape] = set()
    needed_i = [max(int(sample.lengths_u.sum()), 1) / parts for sample in samples]
    longest = max(int(sample.lengths_u.max(initial=1)) for sample in samples)
    for sample, needed in zip(samples, needed_i, strict=True):
        own_longest, mean = int(sample.lengths_u.max(initial=1)), float(sample.lengths_u.mean())
        for margin in GAPS:
            found |= set(rules.ladder(needed * MARGIN * margin, own_longest, mean))
            found |= set(rules.ladder(needed * MARGIN * margin, longest, mean))
    found = {shape for shape in found if shape.slots == 1}
    largest = min(rules.chunk_rows * rules.row_length, max(needed_i))
    for i in range(80) if rules.chunk_rows else ():  # chunks from the largest useful one to a thirty-second of it
        for shape in rules.ladder(largest * 2 ** (-i / 16), 1, 0):
            slots = texts if shape.length >= rules.row_length else 2 * max(needed_i) / shape.length
            slots = math.ceil(slots / (parts if shape.length >= rules.row_length else 1) / shape.rows)
            found.add(replace(shape, slots=max(2, 1 << (slots - 1).bit_length())))
    return found


def program_costs(sample: Sample, options: Sequence[tuple[str, RowShape]], rules: RowRules, parts: int) -> np.ndarray:
    """Returns about how long a batch takes in each shape; infinite if it does not fit or is of another kind."""
    length_o, rows_o, slots_o = np.array([(x.length, x.rows, x.slots) for _, x in options]).T
    row_lengths, back_o = np.unique(length_o, return_inverse=True)
    least_o = least_rows(sample.lengths_u, row_lengths)[back_o]
    chunks_o = np.ceil(MARGIN * least_o / (parts * rows_o)).clip(1)
    fits_o = (length_o >= sample.lengths_u.max(initial=1)) & (chunks_o <= slots_o)
    fits_o &= np.array([kind == sample.kind for kind, _ in options])
    cost_o = [shape.cost(chunks) for (_, shape), chunks in zip(options, chunks_o.tolist(), strict=True)]
    return np.where(fits_o, cost_o, np.inf)


def program_shares(samples: Sequence[Sample], rules: RowRules, parts: int) -> dict[tuple[str, RowShape], float]:
    """Returns about how often batches like the samples use each shape of `rules.programs`, the most frequent first."""
    options = [(kind, shape) for kind, shapes in rules.programs.items() for shape in shapes]
    share_o = np.zeros(len(options))
    for sample in samples:
        share_o[program_costs(sample, options, rules, parts).argmin()] += sample.weight
    return {options[o]: float(share_o[o]) for o in np.argsort(-share_o, kind="stable")}


def least_rows(lengths_u: np.ndarray, length_o: np.ndarray) -> np.ndarray:
    """Returns a lower bound on the number of rows that texts take, for each length of rows; the best fit is near it.

    Two texts of more than half a row never share one, and texts of at least a tokens do not fit beside one of more than
    T - a; whatever a is, the others fill the room beside those between (Martello and Toth, Lower bounds and reduction
    procedures for the bin packing problem, 1990).
    """
    count = np.bincount(lengths_u, minlength=int(length_o.max()) + 2)
    texts, tokens = (np.append(0, np.cumsum(x)) for x in (count, count * np.arange(len(count))))  # shorter than [i]
    length_oa = length_o[:, None]
    half_oa = length_oa // 2 + 1
    a_oa = np.minimum(np.arange(1, int(length_o.max()) // 2 + 2, UNIT), length_oa // 2)
    beside_oa = np.maximum(length_oa - a_oa + 1, half_oa)
    room_oa = (texts[beside_oa] - texts[half_oa]) * length_oa - (tokens[beside_oa] - tokens[half_oa])
    others_oa = np.maximum(0, tokens[half_oa] - tokens[a_oa] - room_oa)
    return (texts[-1] - texts[half_oa] - (-others_oa // length_oa)).max(axis=1)


def round_up(size: int, steps: int, multiple: int = 1) -> int:
    """Returns the smallest allowed number ≥ `size`.

    Multiples of `multiple` are allowed, at most `steps` of them in each doubling, so that less than 1/steps is wasted.

    >>> round_up(1000, steps=16)
    1024
    """
    units = -(-max(size, 1) // multiple)
    octave = 1 << (units - 1).bit_length()  # the next power of two is always a size
    step = max(1, octave // 2 // steps)
    return min(-(-units // step) * step, octave) * multiple


def best_fit(lengths: np.ndarray, row_length: int, bin_length: int = 0):
    """Returns (row, first column, segment number) of each sequence, packed by best fit, and the number of rows.

    Each sequence, the longest first, is placed in the smallest gap that it fits. Sequences of equal length fill a gap
    together, since what one of them leaves there is a smaller gap than any other that the next one fits.

    Args:
        bin_length: length of the equal parts of a row; sequences that fit a part do not cross into another. 0: a row
            is a single part.
    """
    bin_length = bin_length or row_length
    order = np.argsort(-lengths, kind="stable")
    distinct, counts = np.unique(lengths, return_counts=True)
    room: list[tuple[int, int, int]] = []  # gaps: (free tokens, row, first free column), sorted
    rows = 0
    pieces: list[tuple[int, int, int]] = []  # row, first column, number of sequences
    for length, left in zip(distinct[::-1].tolist(), counts[::-1].tolist(), strict=True):
        while left:
            place = bisect_left(room, (length, -1, -1))
            if place < len(room):
                free, row, start = room.pop(place)
            else:
                free, row, start = -(-length // bin_length) * bin_length, rows, 0
                for column in range(free, row_length, bin_length):
                    insort(room, (bin_length, row, column))
                rows += 1
            number = min(left, free // length)
            pieces.append((row, start, number))
            left -= number
            if more := free - number * length:
                insort(room, (more, row, start + number * length))
    row_p, start_p, number_p = np.array(pieces, np.int64).reshape(-1, 3).T
    within_s = np.arange(len(order)) - np.repeat(np.cumsum(number_p) - number_p, number_p)  # index in its piece
    row_s, start_s, segment_s = (np.zeros(len(lengths), np.int32) for _ in range(3))
    row_s[order] = np.repeat(row_p, number_p)
    start_s[order] = np.repeat(start_p, number_p) + within_s * lengths[order]
    in_rows = np.lexsort((start_s, row_s))
    segment_s[in_rows] = np.arange(1, len(order) + 1) - np.searchsorted(row_s[in_rows], row_s[in_rows])
    return row_s, start_s, segment_s, rows
