"""Plans the whole family for docs/plans.md: eight sizes, both stages and distillation, on three kinds of slices.

python -m benchmarks.plans          # compiles what is not yet in docs/plans.json; takes hours on two cores
python -m benchmarks.plans --only "0.6b 2 v5p" "80m 2 v5p"  # only these, in this order
python -m benchmarks.plans --layouts docs/plans.json --output build/plans.json  # again, without a search for layouts
python -m benchmarks.plans --only "80m 2 v5p" --change model.unroll=8  # another layout, which is kept if it is faster
python -m benchmarks.plans --table  # prints the plans in the file
python -m benchmarks.plans --cost   # prints what they cost
"""

import argparse
import dataclasses
import json
import os
from pathlib import Path

from tqdm import tqdm

from f2jax import config as configs
from f2jax import files
from f2jax.model import sizes
from f2jax.model.operations import model_operations
from f2jax.parallel import chips

ROOT = Path(__file__).parents[1]
TOPOLOGIES = {  # by size: slices on which a stage takes days rather than weeks
    "v5p": {"small": "v5p:2x2x2", "medium": "v5p:4x4x4", "large": "v5p:4x8x8"},
    "v5e": {"small": "v5e:4x4", "medium": "v5e:8x16", "large": "v5e:16x16"},
    "v6e": {"small": "v6e:4x4", "medium": "v6e:8x16", "large": "v6e:16x16"},
}
CLASSES = dict.fromkeys(("14b", "8b", "4b"), "large") | dict.fromkeys(("1.7b", "0.6b"), "medium")
CLASSES |= dict.fromkeys(("330m", "160m", "80m"), "small")
FIRST_STAGE = ("0.6b", "1.7b", "4b", "8b", "14b")  # the pruned sizes start with the second (recipe 2.1)
PARTS = ("attention", "mlp", "stacks", "other")
SCOPES = [f"{when} {part}" for when in ("forward", "recompute", "backward") for part in PARTS]
TEACHERS = ("80m", "160m", "330m", "0.6b", "1.7b")


def cases() -> list[tuple[str, str, str]]:
    """Returns (size, stage, topology) in the order of the table; stages: `2` without a teacher, `1`, `distill`."""
    found = []
    for slices in TOPOLOGIES.values():
        for size, group in CLASSES.items():
            stages = ["2", *(["1"] if size in FIRST_STAGE else []), *(["distill"] if size in TEACHERS else [])]
            found += [(size, stage, slices[group]) for stage in stages]
    return found


def load_config(size: str, stage: str):
    if stage == "1":
        return configs.load(f"{ROOT}/configs/stage1.py:size={size}")
    return configs.load(f"{ROOT}/configs/stage2.py:size={size},teacher={'auto' if stage == 'distill' else 'none'}")


def chosen(starts: list[str]) -> list[tuple[str, str, str]]:
    """Returns the cases whose names, such as `0.6b 2 v5p:4x4x4`, start with one of `starts`, in that order."""
    found = [case for start in starts for case in cases() if " ".join(case).startswith(start)]
    return list(dict.fromkeys(found))


def fill(
    path: Path,
    wanted: list[tuple[str, str, str]],
    tokens_per_text: int | None = None,
    layouts: Path | None = None,
    changes: dict | None = None,
) -> None:
    """Compiles the cases that are not in the file; a step without a teacher is the same in both stages.

    Args:
        layouts: file of earlier plans whose layouts are used; None: layouts are searched for.
        changes: fields of a config; the cases in the file are compiled with these, and replaced if that is faster.
    """
    from f2jax.plan.run import plan_slice, planned_steps
    from f2jax.plan.search import search_layouts, with_layout

    done, earlier = read(path), read(layouts) if layouts else {}
    for size, stage, topology in tqdm(wanted, unit="plan", dynamic_ncols=True):
        key, twin = f"{size} {stage} {topology}", f"{size} 2 {topology}"
        if (key in done) != bool(changes):
            continue
        config = load_config(size, stage)
        if stage == "1" and done.get(twin, {}).get("fits"):
            steps = planned_steps(config)
            days = done[twin]["seconds"]["step"] * steps / 86_400
            done[key] = done[twin] | {"steps": steps, "days": days, "chip_hours": days * 24 * done[twin]["chips"]}
        elif changes or layouts:
            layout = layout_of(done[key] if changes else earlier[key]) | (changes or {})
            plan = plan_slice(with_layout(config, layout), topology, tokens_per_text)
            tqdm.write(f"{key} {layout}: {f'{plan.seconds}, {plan.mfu:.1%}' if plan.fits else plan.advice}")
            if not changes or (plan.fits and plan.seconds["step"] < done[key]["seconds"]["step"]):
                done[key] = dataclasses.asdict(plan)
        else:
            done[key] = dataclasses.asdict(search_layouts(config, topology, tokens_per_text))
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(one)}" for name, one in done.items())
        files.write_atomically(path, f"{{\n{lines}\n}}\n")


def layout_of(plan: dict) -> dict:
    """Returns the fields of a config that a search chooses, with their values in a plan of the file."""
    layout = {f"mesh.{axis}": length for axis, length in plan["mesh"].items()}
    return layout | {f"model.{name}": plan[name] for name in ("remat", "chunk_rows", "unroll")}


def field(text: str) -> tuple[str, int | str]:
    """Returns the name and the value of a field, given `NAME=VALUE`."""
    name, _, value = text.partition("=")
    return name, int(value) if value.lstrip("-").isdecimal() else value


def read(path: Path) -> dict[str, dict]:
    return json.loads(path.read_text()) if path.exists() else {}


def table(done: dict[str, dict]) -> str:
    """Returns a Markdown table of the cases in the file."""
    names = ["size", "stage", "slice", "mesh", "remat", "GiB a chip", "step, s", "limited by", "MFU"]
    names += ["tokens/s a chip", "days", "chip-hours"]
    lines = [f"| {' | '.join(names)} |", "|---|---|---|---|---|---:|---:|---|---:|---:|---:|---:|"]
    for size, stage, topology in cases():
        one = done.get(f"{size} {stage} {topology}")
        if one is None:
            continue
        mesh = " × ".join(f"{axis} {n}" for axis, n in one["mesh"].items() if n > 1)
        remat = one["remat"] + (f", {one['chunk_rows']} rows at once" if one["chunk_rows"] else "")
        remat += ", unrolled" if one["unroll"] > 1 else ""
        memory = f"{one['needed'] / 2**30:.1f} of {one['hbm'] / 2**30:.0f}"
        start = f"| {size} | {stage} | {topology} | {mesh} | {remat} | {memory} |"
        if one["fits"]:
            start += f" {one['seconds']['step']:.2f} | {one['limit']} | {one['mfu']:.1%} |"
            lines.append(f"{start} {one['tokens_per_second']:,.0f} | {one['days']:.2f} | {one['chip_hours']:,.0f} |")
        else:
            lines.append(f"{start} does not fit | | | | | |")
    return "\n".join(lines)


def costs(done: dict[str, dict]) -> str:
    """Returns a Markdown table of the cost of all stages by size and kind of slice, at the list prices in `chips`."""
    priced = {name: chips.PRICES[name] for name in TOPOLOGIES}
    lines = [
        f"| size | {' | '.join(f'{name}, ${price:.2f}' for name, price in priced.items())} |",
        "|---|---:|---:|---:|",
    ]
    totals = dict.fromkeys(priced, 0.0)
    for size in CLASSES:
        paid = dict.fromkeys(priced, 0.0)
        for other, stage, topology in cases():  # a size with a teacher is trained with it
            if other == size and not (stage == "2" and size in TEACHERS):
                name = topology.partition(":")[0]
                paid[name] += done[f"{size} {stage} {topology}"]["chip_hours"] * priced[name]
        totals = {name: totals[name] + paid[name] for name in priced}
        lines.append(f"| {size} | {' | '.join(f'${cost:,.0f}' for cost in paid.values())} |")
    return "\n".join([*lines, f"| all | {' | '.join(f'${cost:,.0f}' for cost in totals.values())} |"])


def parts(done: dict[str, dict]) -> str:
    """Returns a Markdown table of the time of a step by part, and of the same operations at the chip's peak.

    Attention kernels, for which the compiler gives no cycles, have their own column.
    """
    names = ["size", "slice", "step, s", "attention", "its kernels", "both at peak", "MLP", "at peak", "MLP again"]
    names += ["attention again", "all else", "exchanges that wait"]
    lines = [f"| {' | '.join(names)} |", f"|---|---|{'---:|' * (len(names) - 2)}"]
    for size, stage, topology in cases():
        one = done.get(f"{size} {stage} {topology}")
        if stage != "2" or one is None or not one["fits"]:
            continue
        architecture, peak = sizes.size(size), chips.chip_of(topology).peak
        tokens = one["tokens_per_second"] * one["seconds"]["step"]
        mlp = 6 * tokens * architecture.layers * 3 * architecture.width * architecture.mlp / peak
        all_parts = model_operations(architecture, tokens, one["tokens_per_text"], passes=3) / peak
        seconds = {name: one["scopes"].get(name, 0.0) for name in SCOPES}
        once = {part: seconds[f"forward {part}"] + seconds[f"backward {part}"] for part in ("attention", "mlp")}
        again = {part: seconds[f"recompute {part}"] for part in ("attention", "mlp")}
        total, kernels = sum(one["scopes"].values()), one["seconds"]["compute"] - sum(one["scopes"].values())
        cells = [one["seconds"]["step"], once["attention"], kernels, all_parts - mlp, once["mlp"], mlp]
        cells += [again["mlp"], again["attention"], total - sum(once.values()) - sum(again.values())]
        cells += [one["seconds"]["exposed"]]
        lines.append(f"| {size} | {topology} | {' | '.join(f'{cell:.2f}' for cell in cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "docs/plans.json", help="goes on where it stopped")
    parser.add_argument("--only", nargs="+", default=[""], metavar="START", help="cases that start so; default: all")
    parser.add_argument("--tokens-per-text", type=int, help="mean length; default: the worst case")
    parser.add_argument("--layouts", type=Path, help="earlier plans whose layouts are taken; default: search them")
    parser.add_argument("--change", nargs="+", type=field, default=[], metavar="NAME=VALUE", help="try in --output")
    parser.add_argument("--table", action="store_true", help="print the plans that are there, compile none")
    parser.add_argument("--cost", action="store_true", help="print what they cost, compile none")
    parser.add_argument("--parts", action="store_true", help="print where their time goes, compile none")
    args = parser.parse_args()
    if not (args.table or args.parts or args.cost):
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        fill(args.output, chosen(args.only), args.tokens_per_text, args.layouts, dict(args.change))
    print((parts if args.parts else costs if args.cost else table)(read(args.output)))


if __name__ == "__main__":
    main()
