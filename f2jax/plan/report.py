"""A plan in words: a table with a column for each topology."""

import dataclasses
import json
from collections.abc import Sequence

from tqdm import tqdm

from f2jax import files
from f2jax.plan.run import SlicePlan, plan_slice
from f2jax.plan.search import search_layouts

GIB = 2**30


def report(config, topologies: Sequence[str], tokens_per_text=None, rows=None, searches=False, json_path=None) -> str:
    """Plan a config for some topologies; the table, and all figures in the file `json_path`, a list of plans.

    Args:
        searches: choose the layout, see `plan_layout.search`, and say how to train with it; else that of the config.

    Raises:
        UserError: see `plan.plan`.
    """
    make = search_layouts if searches else plan_slice
    plans = []
    for topology in tqdm(topologies, unit="plan", dynamic_ncols=True):
        plans.append(make(config, topology, tokens_per_text, rows))
        if json_path:  # after each: one that is interrupted has not compiled for nothing
            files.write_atomically(json_path, json.dumps([dataclasses.asdict(one) for one in plans], indent=2) + "\n")
    chosen = [f"{one.topology}: f2jax train … {overrides(one)}" for one in plans if searches and one.fits]
    return "\n".join([table(plans), *larger_batches(config), *chosen])


def larger_batches(config) -> list[str]:
    """A sentence where batches of another kind have more texts than those of retrieval, which a plan compiles."""
    negatives = config.data.negatives
    kind, most = max(negatives.items(), key=lambda item: item[1])
    if most <= negatives.retrieval:
        return []
    more = (2 + most) / (2 + negatives.retrieval) - 1
    return [
        f"Batches of {kind} have {most} negatives a query, {more:.0%} more texts than this; to plan them, add "
        f"--config.data.negatives.retrieval={most}."
    ]


def overrides(plan: SlicePlan) -> str:
    """The options of `f2jax train` that lay it out as planned."""
    layout = {f"mesh.{axis}": length for axis, length in plan.mesh.items()}
    layout |= {"model.remat": plan.remat, "model.chunk_rows": plan.chunk_rows}
    return " ".join(f"--config.{name}={value}" for name, value in layout.items())


def table(plans: Sequence[SlicePlan]) -> str:
    """The plans of one config side by side, then what each waits for or what to change."""
    first = plans[0]
    worst = "the worst case" if first.tokens_per_text == first.row_length else "by --tokens-per-text"
    lines = [
        f"{first.size}, {'teacher ' + first.teacher if first.teacher else 'no teacher'}; "
        f"texts of {first.tokens_per_text:,} tokens ({worst}) in rows of {first.row_length:,}; {first.steps:,} steps."
    ]
    columns = [_column(plan) for plan in plans]
    names = list(dict.fromkeys(name for column in columns for name in column))
    width = max(len(name) for name in names)
    cells = [[column.get(name, "-") for column in columns] for name in names]
    widths = [max(len(row[i]) for row in cells) for i in range(len(plans))]
    for name, row in zip(names, cells, strict=True):
        lines.append("  ".join([name.ljust(width), *(cell.rjust(w) for cell, w in zip(row, widths, strict=True))]))
    lines += [f"{plan.topology} does not fit; {plan.advice}." for plan in plans if not plan.fits]
    return "\n".join(lines)


def _column(plan: SlicePlan) -> dict[str, str]:
    """The cells of one plan by the name of their row."""
    mesh = " x ".join(f"{axis} {length}" for axis, length in plan.mesh.items() if length > 1) or "one device"
    rows = {
        "topology": plan.topology,
        "fits": "yes" if plan.fits else "NO",
        "mesh": mesh,
        "remat": plan.remat,
        "rows on a device": f"{plan.rows / _row_devices(plan):,.2f}".removesuffix(".00"),
        "  of them at once": f"{plan.chunk_rows:,}" if plan.chunk_rows else "all",
        "memory, GiB": f"{plan.needed / GIB:,.2f} of {plan.hbm / GIB:,.0f}",
    }
    rows |= {f"  {kind}": f"{held / GIB:,.2f}" for kind, held in plan.memory.items() if held}
    for one in sorted(plan.collectives, key=lambda one: -one["bytes"]):
        name = f"  {one['kind']} over {one['devices']}{', beside compute' if one['overlaps'] else ''}"
        rows[name] = f"{one['runs']:,} x, {one['bytes'] / GIB:,.2f} GiB"
    if plan.fits:
        rows |= {f"{name}, s": f"{value:,.3f}" for name, value in plan.seconds.items()}
        rows |= {f"  {name}, s": f"{value:,.3f}" for name, value in plan.scopes.items()}
        rows |= {
            "limited by": plan.limit,
            "MFU": f"{plan.mfu:.1%}",
            "tokens/s a chip": f"{plan.tokens_per_second:,.0f}",
            "days": f"{plan.days:,.2f}",
            "chip-hours": f"{plan.chip_hours:,.0f}",
        }
    return rows


def _row_devices(plan: SlicePlan) -> int:
    devices = 1
    for axis, length in plan.mesh.items():
        devices *= length if axis != "tensor" else 1
    return devices
