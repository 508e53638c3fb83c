"""Formats plans as a table with a column for each topology."""

import dataclasses
import json
import math
from collections.abc import Sequence

from tqdm import tqdm

from f2jax import files
from f2jax.parallel.chips import GIB, PRICES, canonical_topology, chip_of
from f2jax.parallel.mesh import ROW_AXES
from f2jax.plan.run import SlicePlan, plan_slice
from f2jax.plan.search import layout_of, search_layouts
from f2jax.plan.step_time import TILE
from f2jax.tables import text_table


def plan_topologies(
    config,
    topologies: Sequence[str],
    tokens_per_text: int | None = None,
    rows: float | None = None,
    searches: bool = False,
    json_path: str | None = None,
    lengths: str | None = None,
    price: float | None = None,
) -> str:
    """Plans a config for some topologies and returns a table of the plans.

    Args:
        tokens_per_text: see `plan_slice`.
        rows: see `plan_slice`.
        searches: whether to search for the layout (see `search_layouts`) and to add the options that train with it;
            otherwise, the layout is the config's.
        json_path: file to which the plans are written as a list, with all figures.
        lengths: see `plan_slice`.
        price: US dollars per chip-hour; None: the price of the chip in `chips.PRICES`.

    Raises:
        UserError: see `plan_slice`.
    """
    plans: list[SlicePlan] = []
    for topology in tqdm([canonical_topology(text) for text in topologies], unit="plan", dynamic_ncols=True):
        plan = search_layouts if searches else plan_slice
        plans.append(plan(config, topology, tokens_per_text, rows, lengths))
        if json_path:  # after each plan, so that an interruption loses none
            files.write_atomically(json_path, json.dumps([dataclasses.asdict(plan) for plan in plans], indent=2) + "\n")
    commands = [f"{plan.topology}: f2jax train … {layout_options(plan)}" for plan in plans if searches and plan.fits]
    return "\n".join([plan_table(plans, lengths, tokens_per_text, price), *larger_batches(config), *commands])


def larger_batches(config) -> list[str]:
    """Returns a warning if batches of another kind have more texts than those of retrieval, which a plan compiles."""
    negatives = config.data.negatives
    kind, count = max(negatives.items(), key=lambda item: item[1])
    if count <= negatives.retrieval:
        return []
    more = (2 + count) / (2 + negatives.retrieval) - 1
    return [
        f"Batches of {kind} have {count} negatives a query, {more:.0%} more texts than this; to plan them, add "
        f"--config.data.negatives.retrieval={count}."
    ]


def layout_options(plan: SlicePlan) -> str:
    """Returns the options of `f2jax train` that give the layout of a plan."""
    return " ".join(f"--config.{name}={value}" for name, value in layout_of(plan).items())


def plan_table(
    plans: Sequence[SlicePlan],
    lengths: str | None = None,
    tokens_per_text: int | None = None,
    price: float | None = None,
) -> str:
    """Returns the plans of one config side by side, and what to change in those that do not fit, or only just fit."""
    first = plans[0]
    origin = f"the mean of {lengths}" if lengths else "by --tokens-per-text" if tokens_per_text else "the worst case"
    lines = [
        f"{first.size}, {'teacher ' + first.teacher if first.teacher else 'no teacher'}; "
        f"texts of {first.tokens_per_text:,} tokens ({origin}) in rows of {first.row_length:,}; {first.steps:,} steps."
    ]
    columns = [_column(plan, price) for plan in plans]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [[name, *(column.get(name, "-") for column in columns)] for name in names]
    return "\n".join([*lines, text_table(rows, head=False), *filter(None, map(_warning, plans))])


def _warning(plan: SlicePlan) -> str:
    if not plan.fits:
        return f"{plan.topology} does not fit; {plan.advice}."
    if plan.is_tight:
        return (
            f"{plan.topology} takes {plan.needed / plan.hbm:.1%} of the memory and may fail when it runs, by transfers "
            f"and fragmentation; {plan.advice}."
        )
    return ""


def cost(plan: SlicePlan, price: float | None = None) -> str:
    """Returns what the chip-hours of a plan cost, and at which price, or "" if the price is not known.

    Args:
        price: see `plan_topologies`.
    """
    price = price or PRICES.get(chip_of(plan.topology).name)
    return f"${plan.chip_hours * price:,.0f} at ${price:,.2f}" if price else ""


def _column(plan: SlicePlan, price: float | None = None) -> dict[str, str]:
    """Returns the cells of a plan by the names of their rows."""
    mesh = " x ".join(f"{axis} {length}" for axis, length in plan.mesh.items() if length > 1) or "one device"
    row_devices = math.prod(plan.mesh.get(axis, 1) for axis in ROW_AXES)
    rows = {
        "topology": plan.topology,
        "fits": "TIGHT" if plan.is_tight else "yes" if plan.fits else "NO",
        "mesh": mesh,
        "remat": plan.remat,
        "layers of an iteration": f"{plan.unroll}",
        "rows on a device": f"{plan.rows / row_devices:,.2f}".removesuffix(".00"),
        "  of them at once": f"{plan.rows / row_devices / plan.chunks:,.0f}" if plan.chunks > 1 else "all",
        "useful tokens": f"{plan.useful_share:.1%}",
        "tiles of attention in a row": f"{plan.row_length / TILE + plan.tiles_below:,.1f}",
        "memory, GiB": f"{plan.needed / GIB:,.2f} of {plan.hbm / GIB:,.2f}",
    }
    rows |= {f"  {kind}": f"{used / GIB:,.2f}" for kind, used in plan.memory.items() if used}
    for exchange in sorted(plan.collectives, key=lambda exchange: -exchange["bytes"]):
        name = f"  {exchange['kind']} over {exchange['devices']}{', beside compute' if exchange['overlaps'] else ''}"
        rows[name] = f"{exchange['runs']:,} x, {exchange['bytes'] / GIB:,.2f} GiB"
    if plan.fits:
        rows["compiling, s of one core"] = f"{plan.compile_seconds:,.0f}"
        rows |= {f"{name}, s": f"{value:,.3f}" for name, value in plan.seconds.items()}
        rows |= {f"  {name}, s": f"{value:,.3f}" for name, value in plan.scopes.items()}
        rows |= {
            "limited by": plan.limit,
            "MFU": f"{plan.mfu:.1%}",
            "tokens/s a chip": f"{plan.tokens_per_second:,.0f}",
            "days": f"{plan.days:,.2f}",
            "chip-hours": f"{plan.chip_hours:,.0f}",
        }
        if paid := cost(plan, price):
            rows["cost, at the price of a chip-hour"] = paid
    return rows
