"""Reads the text of a compiled TPU program: cycles, kernels and collectives of one run, loops counted.

The TPU compiler writes its own `estimated_cycles` beside each operation; a loop runs as often as its condition says.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8}
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<shape>.*?) (?P<op>[a-z][\w-]*)\((?P<rest>.*)$")
_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.-]+) .*\{$")
_ARRAY = re.compile(r"\b([a-z]\w*?)\[([\d,]*)\](\{[^{}]*\})?")
_MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^()]*(?:\([\d,]+\))?)\))? ?\{([^}]*)\}")


@dataclass(frozen=True)
class Instruction:
    name: str
    op: str
    shape: str
    rest: str  # operands and attributes

    def attribute(self, name: str) -> str | None:
        """The computation that an attribute such as `body=` names."""
        found = re.search(rf"\b{name}=%?([\w.-]+)", self.rest)
        return found.group(1) if found else None

    @property
    def cycles(self) -> int | None:
        """The compiler's estimate; None where it made none."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.rest)
        return int(found.group(1)) if found else None


@dataclass(frozen=True)
class Collective:
    """One kind of exchange between devices."""

    kind: str
    bytes: int  # of the whole array: gathered, reduced or exchanged, per device
    group: tuple[int, ...]  # the devices of the first group, by their place in the mesh; (): all
    overlaps: bool  # runs beside the computation
    runs: float = 1  # in one run of the program


@dataclass
class Cost:
    """What one run of a program costs."""

    cycles: float = 0.0  # of all operations for which the compiler gives them
    products: float = 0.0  # of those, the cycles of matrix products
    by_scope: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # the same, by named scope
    kernels: list[tuple[str, tuple[int, ...], float]] = field(default_factory=list)  # name, shape of queries, runs
    collectives: list[Collective] = field(default_factory=list)
    moved: float = 0.0  # bytes that operations without an estimate (gather, scatter, sort) read and write

    def add(self, other: "Cost", times: float) -> None:
        self.cycles += times * other.cycles
        self.products += times * other.products
        for scope, cycles in other.by_scope.items():
            self.by_scope[scope] += times * cycles
        self.kernels += [(name, shape, times * runs) for name, shape, runs in other.kernels]
        self.collectives += [replace(one, runs=times * one.runs) for one in other.collectives]
        self.moved += times * other.moved


def parse_hlo(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """The computations of a program by name, and the name of the one that it starts with."""
    computations: dict[str, list[Instruction]] = {}
    entry = current = ""
    for line in _lines(text):
        if found := _INSTRUCTION.match(line):
            computations[current].append(Instruction(**{k: found.group(k) for k in ("name", "op", "shape", "rest")}))
        elif found := _COMPUTATION.match(line):
            current = found.group("name")
            computations[current] = []
            entry = current if found.group("entry") else entry
    return computations, entry


def _lines(text: str):
    """Lines of the program; what a kernel says of itself goes over several, the last of which starts with `}},`."""
    open_line = ""
    for line in text.splitlines():
        open_line += line
        if line.endswith("kernel_metadata={") or (open_line != line and not line.startswith("}}")):
            continue
        yield open_line
        open_line = ""


def program_cost(text: str) -> Cost:
    """The cost of one run of the program whose optimized HLO is `text`."""
    computations, entry = parse_hlo(text)
    return _computation(computations, entry)


def loops(text: str) -> list[tuple[int, Cost]]:
    """How often each loop of the program's entry runs, and what one iteration costs, in their order."""
    computations, entry = parse_hlo(text)
    return [
        (trip_count(computations, x.attribute("condition")), _computation(computations, x.attribute("body")))
        for x in computations[entry]
        if x.op == "while"
    ]


def _computation(computations: dict[str, list[Instruction]], name: str) -> Cost:
    total = Cost()
    seen: set[str] = set()  # collectives that several operations of this computation carry forward
    for x in computations[name]:
        if x.op == "while":
            trips = trip_count(computations, x.attribute("condition"))
            total.add(_computation(computations, x.attribute("body")), trips)
        elif x.op == "call":
            total.add(_computation(computations, x.attribute("to_apply")), 1)
        elif x.op == "conditional":
            branches = re.search(r"branch_computations=\{([^}]*)\}", x.rest).group(1)
            costs = [_computation(computations, branch.strip(" %")) for branch in branches.split(",")]
            total.add(max(costs, key=lambda branch: branch.cycles), 1)
        else:
            for collective, key in _collectives(computations, x):
                if key not in seen:
                    seen.add(key)
                    total.collectives.append(collective)
            _operation(total, computations, x)
    return total


def _operation(total: Cost, computations, x: Instruction) -> None:
    if _is_kernel(x) and (queries := _queries(x)):
        total.kernels.append((x.name, queries, 1))
    elif x.cycles is not None:
        total.cycles += x.cycles
        total.products += x.cycles if _is_product(computations, x) else 0
        total.by_scope[scope(x)] += x.cycles
    elif _is_irregular(x) and not any(_collectives(computations, x)):
        total.moved += 2 * array_bytes(x.shape)


def _is_irregular(x: Instruction) -> bool:
    """Does it read or write at places that are data? The compiler gives no cycles for that."""
    return x.op in ("gather", "scatter", "sort") or _is_kernel(x) or (x.op == "fusion" and "kind=kCustom" in x.rest)


def _is_kernel(x: Instruction) -> bool:
    return x.op == "custom-call" and 'custom_call_target="tpu_custom_call"' in x.rest


def _is_product(computations, x: Instruction) -> bool:
    inside = computations.get(x.attribute("calls"), []) if x.op == "fusion" else [x]
    return any(inner.op in ("convolution", "dot") for inner in inside)


def _queries(x: Instruction) -> tuple[int, ...]:
    """The largest array of four axes that a kernel reads: queries (rows, heads, T, H); () for other kernels."""
    operands = re.search(r"operand_layout_constraints=\{(.*?)\}, \w+=", x.rest)
    shapes = [dims for _, dims in arrays(operands.group(1) if operands else "") if len(dims) == 4]
    return max(shapes, key=math.prod, default=())


def scope(x: Instruction) -> str:
    """`forward`, `recompute` or `backward`, and the named scope of the model's layer that an operation belongs to."""
    found = re.search(r'op_name="([^"]*)"', x.rest)
    path = found.group(1) if found else ""
    way = "recompute" if "rematted_computation" in path else "backward" if "transpose(jvp" in path else "forward"
    part = next((name for name in ("attention", "mlp") if f"/{name}/" in path), "other")
    return f"{way} {part}"


def _collectives(computations, x: Instruction, started: bool = False):
    """The collectives that an operation is or holds, each with a key that its other parts share."""
    base = x.op.removesuffix("-start")
    if base in COLLECTIVES:
        chain = re.search(r'chain_id="\d+"|async_collective_name="[\w.-]+"', x.rest)
        channel = re.search(r"channel_id=\d+", x.rest)
        key = f"{channel.group() if channel else ''} {chain.group()}" if chain else x.name
        overlaps = started or chain is not None or x.op != base
        yield Collective(base, _result_bytes(x), first_group(x.rest), overlaps), key
    elif x.op in ("fusion", "async-start"):
        called = x.attribute("calls")
        for inner in computations.get(called, []):
            for found, key in _collectives(computations, inner, x.op == "async-start"):
                yield replace(found, kind="reduce-scatter" if "all-reduce-scatter" in called else found.kind), key


def _result_bytes(x: Instruction) -> int:
    """Bytes that an exchange leaves; one that is only started lists what it takes before what it leaves."""
    if x.op in ("all-gather-start", "collective-permute-start"):
        both = [f"{kind}[{','.join(map(str, dims))}]" for kind, dims in arrays(x.shape) if dims]
        return sum(array_bytes(shape) for shape in both[len(both) // 2 :])
    return array_bytes(x.shape)


def trip_count(computations: dict[str, list[Instruction]], condition: str) -> int:
    """How often a loop runs: the constant that its condition compares its counter with, which starts at 0."""
    constants = []
    for x in computations[condition]:
        if x.op == "constant" and x.shape.startswith("s32[]"):
            constants.append(int(re.match(r"-?\d+", x.rest).group()))
        elif x.op == "fusion":
            constants.append(trip_count(computations, x.attribute("calls")))
    return max(constants, default=0)


def arrays(shape: str) -> list[tuple[str, tuple[int, ...]]]:
    """Type and dimensions of each array of a shape, which may be a tuple."""
    return [(kind, tuple(int(d) for d in dims.split(",") if d)) for kind, dims, _ in _ARRAY.findall(shape)]


def array_bytes(shape: str) -> int:
    return sum(BYTES.get(kind, 4) * math.prod(dims) for kind, dims in arrays(shape))


def first_group(text: str) -> tuple[int, ...]:
    """The devices of the first of the `replica_groups`, in any of the notations for them.

    `{{0,1},{2,3}}` lists them; `[2,4]<=[4,2]T(1,0)` cuts a transposed grid of all devices into 2 groups of 4;
    `mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}` names axes of a mesh, which may stand on such a grid.
    (): all devices, or a notation that is not known.
    """
    if found := re.search(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]+)\}", text):
        return _numbers(found.group(1))
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", text):
        return _grid(found.group(2))[: _numbers(found.group(1))[-1]]
    if found := _MESH_GROUPS.search(text):
        sizes = {name: int(n) for name, n in re.findall(r"'([^']+)'=(\d+)", found.group(1))}
        axes = [list(sizes).index(name) for name in re.findall(r"'([^']+)'", found.group(3))]
        devices = _grid(found.group(2)) if found.group(2) else range(math.prod(sizes.values()))
        return tuple(devices[place] for place in _strided(list(sizes.values()), axes))
    return ()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def _grid(text: str) -> tuple[int, ...]:
    """The devices of `[4,2]T(1,0)`, a grid read along its transposed axes, or of a plain list."""
    found = re.match(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    if not found:
        return _numbers(text)
    sizes = _numbers(found.group(1))
    return _strided(sizes, _numbers(found.group(2)) if found.group(2) else range(len(sizes)))


def _strided(sizes: Sequence[int], axes: Iterable[int]) -> tuple[int, ...]:
    """Places in a grid of `sizes` along `axes`, the last one fastest, at 0 on the other axes."""
    places = [0]
    for axis in axes:
        stride = math.prod(sizes[axis + 1 :])
        places = [place + i * stride for place in places for i in range(sizes[axis])]
    return tuple(places)
