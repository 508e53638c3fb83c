"""Reads the text of a compiled TPU program: cycles, kernels and collectives of one run, with the trips of its loops.

The TPU compiler annotates each operation with `estimated_cycles`, and the condition of a loop says how often it runs.
The condition of a loop over the chunks of a batch has two limits: how many chunks there is room for, which is a
constant, and how many of them have rows.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8}
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_INSTRUCTION = re.compile(
    r"^\s+(?P<root>ROOT )?%?(?P<name>[\w.-]+) = (?P<shape>.*?) (?P<op>[a-z][\w-]*)\((?P<rest>.*)$"
)
_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.-]+) .*\{$")
_ARRAY = re.compile(r"\b([a-z]\w*?)\[([\d,]*)\](\{[^{}]*\})?")
_INTEGER = re.compile(r"[su]\d+\[\]")
_MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^()]*(?:\([\d,]+\))?)\))? ?\{([^}]*)\}")


@dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    op: str
    shape: str
    rest: str  # operands and attributes
    root: str | None = None  # `ROOT ` before the result of a computation

    def attribute(self, name: str) -> str | None:
        """Returns the computation that an attribute such as `body=` names, or None."""
        match = re.search(rf"\b{name}=%?([\w.-]+)", self.rest)
        return match.group(1) if match else None

    def called(self, name: str) -> str:
        """Returns the computation that an attribute names.

        Raises:
            ValueError: the attribute is missing.
        """
        computation = self.attribute(name)
        if computation is None:
            raise ValueError(f"{self.op} {self.name} has no {name}=")
        return computation

    @property
    def cycles(self) -> int | None:
        """The compiler's estimate; None if it made none."""
        match = re.search(r'"estimated_cycles":"(\d+)"', self.rest)
        return int(match.group(1)) if match else None


@dataclass(frozen=True)
class Collective:
    """A collective operation between devices."""

    kind: str
    bytes: int  # of the complete array that is gathered, reduced or exchanged, per device
    group: tuple[int, ...]  # the devices of the first group, by their position in the mesh; (): all
    overlaps: bool  # runs concurrently with computation
    runs: float = 1  # times that it runs in one run of the program


@dataclass
class Cost:
    """The cost of one run of a program."""

    cycles: float = 0.0  # of all operations that the compiler estimates
    products: float = 0.0  # of these, the cycles of matrix products
    by_scope: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # cycles by named scope
    kernels: list[tuple[str, tuple[int, ...], float]] = field(default_factory=list)  # name, shape of heads, runs
    collectives: list[Collective] = field(default_factory=list)
    moved: float = 0.0  # bytes that operations without an estimate (gather, scatter, sort) read and write

    def add(self, other: "Cost", times: float) -> None:
        """Adds `times` runs of another program."""
        self.cycles += times * other.cycles
        self.products += times * other.products
        for scope, cycles in other.by_scope.items():
            self.by_scope[scope] += times * cycles
        self.kernels += [(name, shape, times * runs) for name, shape, runs in other.kernels]
        self.collectives += [replace(exchange, runs=times * exchange.runs) for exchange in other.collectives]
        self.moved += times * other.moved


def parse_hlo(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Returns the computations of a program by name, and the name of its entry."""
    computations: dict[str, list[Instruction]] = {}
    entry = current = ""
    for line in _lines(text):
        if match := _INSTRUCTION.match(line):
            computations[current].append(Instruction(**match.groupdict()))
        elif match := _COMPUTATION.match(line):
            current = match.group("name")
            computations[current] = []
            entry = current if match.group("entry") else entry
    return computations, entry


def _lines(text: str):
    """Yields the lines of a program; the metadata of a kernel, up to a line that starts with `}},`, as one line."""
    open_line = ""
    for line in text.splitlines():
        open_line += line
        if line.endswith("kernel_metadata={") or (open_line != line and not line.startswith("}}")):
            continue
        yield open_line
        open_line = ""


def program_cost(text: str, chunks: int | None = None) -> Cost:
    """Returns the cost of one run of a program, given its optimized HLO.

    Args:
        chunks: number of chunks that have rows; None: as many as there is room for.
    """
    computations, entry = parse_hlo(text)
    return _computation(computations, entry, chunks)


def loops(text: str) -> list[tuple[int, Cost]]:
    """Returns, for each loop of the program's entry in order, its number of trips and the cost of one of them."""
    computations, entry = parse_hlo(text)
    return [
        (loop_trips(computations, x, None), _computation(computations, x.called("body"), None))
        for x in computations[entry]
        if x.op == "while"
    ]


def _computation(computations: dict[str, list[Instruction]], name: str, chunks: int | None) -> Cost:
    """Returns the cost of one run of the computation `name`."""
    total = Cost()
    seen: set[str] = set()  # collectives that several operations of this computation belong to
    for x in computations[name]:
        if x.op == "while":
            total.add(_computation(computations, x.called("body"), chunks), loop_trips(computations, x, chunks))
        elif x.op == "call":
            total.add(_computation(computations, x.called("to_apply"), chunks), 1)
        elif x.op == "conditional":
            (branches,) = re.findall(r"branch_computations=\{([^}]*)\}", x.rest)
            costs = [_computation(computations, branch.strip(" %"), chunks) for branch in branches.split(",")]
            total.add(max(costs, key=lambda branch: branch.cycles), 1)
        else:
            for collective, key in _collectives(computations, x):
                if key not in seen:
                    seen.add(key)
                    total.collectives.append(collective)
            _operation(total, computations, x)
    return total


def _operation(total: Cost, computations, x: Instruction) -> None:
    if _is_kernel(x) and (heads := _heads(x)):
        total.kernels.append((x.name, heads, 1))
    elif x.cycles is not None:
        total.cycles += x.cycles
        total.products += x.cycles if _is_product(computations, x) else 0
        total.by_scope[scope(x)] += x.cycles
    elif _is_irregular(x) and not any(_collectives(computations, x)):
        total.moved += 2 * array_bytes(x.shape)


def _is_irregular(x: Instruction) -> bool:
    """Returns whether an operation reads or writes at positions that depend on data; the compiler estimates none."""
    return x.op in ("gather", "scatter", "sort") or _is_kernel(x) or (x.op == "fusion" and "kind=kCustom" in x.rest)


def _is_kernel(x: Instruction) -> bool:
    return x.op == "custom-call" and 'custom_call_target="tpu_custom_call"' in x.rest


def _is_product(computations, x: Instruction) -> bool:
    operations = computations.get(x.attribute("calls"), []) if x.op == "fusion" else [x]
    return any(operation.op in ("convolution", "dot") for operation in operations)


def _heads(x: Instruction) -> tuple[int, ...]:
    """Returns the shape of the largest array of heads that a kernel reads (rows, heads, T, H), or ().

    Groups of heads may have an axis of their own.
    """
    operands = re.search(r"operand_layout_constraints=\{(.*?)\}, \w+=", x.rest)
    shapes = [dims for _, dims in arrays(operands.group(1) if operands else "") if len(dims) in (4, 5)]
    heads = max(shapes, key=math.prod, default=())
    return (heads[0], heads[1] * heads[2], *heads[3:]) if len(heads) == 5 else heads


def scope(x: Instruction) -> str:
    """Returns the pass (`forward`, `recompute` or `backward`) of an operation, and its part of the step.

    Parts are the named scopes of a layer; `stacks`, the copies into and out of arrays of all layers, in which a loop
    over layers keeps activations and gradients; and `other`.
    """
    match = re.search(r'op_name="([^"]*)"', x.rest)
    path = match.group(1) if match else ""
    direction = "recompute" if "rematted_computation" in path else "backward" if "transpose(jvp" in path else "forward"
    outside = "stacks" if re.search(r"/while/body/.*dynamic_(update_)?(index|slice)", path) else "other"
    part = next((name for name in ("attention", "mlp") if f"/{name}/" in path), outside)
    return f"{direction} {part}"


def _collectives(computations, x: Instruction, started: bool = False):
    """Yields the collectives of an operation, each with a key that all operations of the same collective share."""
    base = x.op.removesuffix("-start")
    if base in COLLECTIVES:
        chain = re.search(r'chain_id="\d+"|async_collective_name="[\w.-]+"', x.rest)
        channel = re.search(r"channel_id=\d+", x.rest)
        key = f"{channel.group() if channel else ''} {chain.group()}" if chain else x.name
        overlaps = started or chain is not None or x.op != base
        yield Collective(base, _result_bytes(x), first_group(x.rest), overlaps), key
    elif x.op in ("fusion", "async-start"):
        called = x.attribute("calls") or ""
        for inner in computations.get(called, []):
            for exchange, key in _collectives(computations, inner, x.op == "async-start"):
                yield replace(exchange, kind="reduce-scatter" if "all-reduce-scatter" in called else exchange.kind), key


def _result_bytes(x: Instruction) -> int:
    """Returns the bytes of a collective's results; a start operation lists its operands before its results."""
    if x.op in ("all-gather-start", "collective-permute-start"):
        both = [f"{kind}[{','.join(map(str, dims))}]" for kind, dims in arrays(x.shape) if dims]
        return sum(array_bytes(shape) for shape in both[len(both) // 2 :])
    return array_bytes(x.shape)


def loop_trips(computations: dict[str, list[Instruction]], loop: Instruction, chunks: int | None) -> int:
    """Returns how often the body of a loop runs, see `trip_count`; where it advances by several, so much less often."""
    return math.ceil(trip_count(computations, loop.called("condition"), chunks) / counter_step(computations, loop))


def counter_step(computations: dict[str, list[Instruction]], loop: Instruction) -> int:
    """Returns by how much a loop's counter grows in a run of its body.

    It is 1, but 2 in loops over the pieces of a product with exchanges beside it: the compiler does two in one run.
    """
    body = {x.name: x for x in computations[loop.called("body")]}
    result = next(x for x in body.values() if x.root)
    if result.op != "tuple":
        return 1
    results = _operands(result)
    for x in computations[loop.called("condition")]:
        if x.op == "get-tuple-element" and _INTEGER.match(x.shape):
            (position,) = re.findall(r"\bindex=(\d+)", x.rest)
            grown = body.get(results[int(position)])
            for name in _operands(grown) if grown and grown.op == "add" else []:
                if name in body and body[name].op == "constant":
                    return int(body[name].rest.partition(")")[0])
    return 1


def _operands(x: Instruction) -> list[str]:
    """Returns the names of the operands of an operation that does not call a computation."""
    return re.findall(r"%([\w.-]+)", x.rest.partition(")")[0])


def trip_count(computations: dict[str, list[Instruction]], condition: str, chunks: int | None) -> int:
    """Returns up to where a loop counts: its counter starts at 0, and its condition compares it with a constant.

    Args:
        chunks: value of a second limit, see `program_cost`.

    Raises:
        ValueError: the condition has no constant.
    """
    operations = _with_fusions(computations, condition)
    limits = [int(x.rest.partition(")")[0]) for x in operations if x.op == "constant" and _INTEGER.match(x.shape)]
    if not limits:
        raise ValueError(f"The loop with the condition {condition} runs an unknown number of times.")
    if chunks is not None and any(x.op == "and" for x in operations):
        return min(max(limits), chunks)
    return max(limits)


def _with_fusions(computations: dict[str, list[Instruction]], name: str) -> list[Instruction]:
    """Returns the operations of a computation, including those inside its fusions."""
    inner = [_with_fusions(computations, x.called("calls")) for x in computations[name] if x.op == "fusion"]
    return [*computations[name], *(x for operations in inner for x in operations)]


def arrays(shape: str) -> list[tuple[str, tuple[int, ...]]]:
    """Returns the type and dimensions of each array of a shape, which may be a tuple."""
    return [(kind, tuple(int(d) for d in dims.split(",") if d)) for kind, dims, _ in _ARRAY.findall(shape)]


def array_bytes(shape: str) -> int:
    """Returns the bytes of all arrays of a shape."""
    return sum(BYTES.get(kind, 4) * math.prod(dims) for kind, dims in arrays(shape))


def first_group(text: str) -> tuple[int, ...]:
    """Returns the devices of the first of the `replica_groups` in any notation; () if they are all devices, or unknown.

    `{{0,1},{2,3}}` lists them; `[2,4]<=[4,2]T(1,0)` cuts a transposed grid of all devices into 2 groups of 4;
    `mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}` names axes of a mesh, whose devices may be given as such a grid.
    """
    if match := re.search(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]+)\}", text):
        return _numbers(match.group(1))
    if match := re.search(r"replica_groups=\[([\d,]+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", text):
        return _grid(match.group(2))[: _numbers(match.group(1))[-1]]
    if match := _MESH_GROUPS.search(text):
        sizes = {name: int(n) for name, n in re.findall(r"'([^']+)'=(\d+)", match.group(1))}
        axes = [list(sizes).index(name) for name in re.findall(r"'([^']+)'", match.group(3))]
        devices = _grid(match.group(2)) if match.group(2) else range(math.prod(sizes.values()))
        return tuple(devices[position] for position in _strided(list(sizes.values()), axes))
    return ()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def _grid(text: str) -> tuple[int, ...]:
    """Returns the devices of `[4,2]T(1,0)`, a grid read along its transposed axes, or of a plain list."""
    match = re.match(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    if not match:
        return _numbers(text)
    sizes = _numbers(match.group(1))
    return _strided(sizes, _numbers(match.group(2)) if match.group(2) else range(len(sizes)))


def _strided(sizes: Sequence[int], axes: Iterable[int]) -> tuple[int, ...]:
    """Returns the positions in a grid of `sizes` along `axes`, the last one varying fastest; others stay at 0."""
    positions = [0]
    for axis in axes:
        stride = math.prod(sizes[axis + 1 :])
        positions = [position + i * stride for position in positions for i in range(sizes[axis])]
    return tuple(positions)
