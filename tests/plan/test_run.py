"""What a plan says, without compiling: bytes against exact counts, advice, layouts to try, the table, errors."""

import importlib.util
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from f2jax import cli
from f2jax import config as configs
from f2jax.data.dataset import Row, texts_of
from f2jax.data.packing import assemble
from f2jax.data.shapes import RowRules, RowShape
from f2jax.data.teacher_vectors import TeacherVectorsInfo, begin
from f2jax.errors import UserError
from f2jax.model.sizes import size
from f2jax.parallel.mesh import make_mesh
from f2jax.plan import report as plan_report
from f2jax.plan import search
from f2jax.plan.lengths import PlannedRows, rows_of_lengths, rows_of_mean, tiles_below
from f2jax.plan.run import (
    SlicePlan,
    abstract_teacher,
    bytes_on_device,
    bytes_used,
    memory_by_kind,
    plan_slice,
    teacher_size,
    topology_devices,
    what_to_change,
)
from f2jax.plan.search import possible_shares, saved_bytes, with_layout
from f2jax.plan.step_time import StepSeconds
from f2jax.train.program import Program, abstract_batch
from f2jax.train.step import DeviceBatch
from tests.tiny import ROOT

GIB = 2**30
STAGE2 = str(ROOT / "configs/stage2.py")


def config(options: str = "size=tiny,teacher=none", *overrides: str):
    return configs.load(f"{STAGE2}:{options}", list(overrides))


def one_device():
    return make_mesh(devices=jax.devices()[:1])


@pytest.mark.parametrize("name,parameters", [("80m", 80_084_288), ("14b", 13_990_394_880)])
def test_the_bytes_of_weights_and_moments_are_exact(name, parameters):
    program = Program(config(f"size={name},teacher=none"), size(name), one_device(), 1000)
    assert bytes_on_device(program.state.params) == 4 * parameters
    assert bytes_on_device(program.state.opt_state) == 2 * 4 * parameters + 2 * 4  # two moments, two counters


def test_weights_that_are_not_trained_have_neither_gradient_nor_moments(monkeypatch):
    monkeypatch.setattr(search, "topology_devices", lambda topology: [None])
    settings = config("size=80m,teacher=none", "--config.optim.freeze=('token_table',)")
    trained = 80_084_288 - size("80m").vocab_size * 320
    program = Program(settings, size("80m"), one_device(), 1000)
    assert bytes_on_device(program.state.params) == 4 * 80_084_288
    assert bytes_on_device(program.state.opt_state) == 2 * 4 * trained + 2 * 4
    assert search.weights_and_shares(settings, "v5e:1x1")[0] == 16 * trained + 4 * (80_084_288 - trained)


def test_weights_of_the_loss_are_searched_with_those_of_the_model(monkeypatch):
    monkeypatch.setattr(search, "topology_devices", lambda topology: [None])
    fields = ["loss.trained_temperatures=true", "loss.distill_projection=true"]
    fields.append("optim.no_decay=('loss_temperatures','distill_projection')")
    settings = config("size=80m,teacher=0.6b", *(f"--config.{field}" for field in fields))
    weights, _ = search.weights_and_shares(settings, "v5e:1x1")
    assert weights == 16 * (80_084_288 + 320 * 1024 + 3) + 2 * size("0.6b").parameters


def test_the_batch_is_that_of_the_recipe_and_its_rows_hold_the_mean_length():
    mesh = one_device()
    worst = abstract_batch(config(), mesh, "retrieval", 7, rows_of_mean(config(), 1, 1024).shape)
    assert worst.tokens_bt.shape == (512 * 9, 1024)
    assert worst.row_s.shape == (512 * 9,)
    assert worst.negative_mask_bj.shape == (512, 7)
    rows, tokens = RowShape(512, 512 * 9 // 4), 512 * 9 * 128
    assert rows_of_mean(config(), 1, 128) == PlannedRows(rows, 1, tokens, 128, 1.0, 1, tiles_below=0.0)


def test_chunks_have_the_slots_of_training_and_those_that_are_filled_count():
    """72 rows of 1,024 tokens hold 288 texts of 256, and a batch has 4,608 of them."""
    planned = rows_of_mean(config("size=tiny,teacher=none", "--config.model.chunk_rows=100"), 1, 256)
    assert planned.chunks == 12 and planned.shape.slots == 16
    assert planned.encoded == 512 * 9 * 256 == planned.tokens


@pytest.mark.parametrize("chunk_rows", [0, 64])
def test_the_batch_has_the_arrays_of_one_that_training_packs(chunk_rows):
    settings = config("size=tiny,teacher=none", f"--config.model.chunk_rows={chunk_rows}")
    ids = iter(np.arange(512 * 9 * 64, dtype=np.int32).reshape(-1, 64))
    rows = [Row(next(ids), next(ids), [next(ids) for _ in range(7)], b, [b] * 7) for b in range(512)]
    rules = RowRules(1024, chunk_rows)
    packed = assemble(texts_of(rows), 7, kind="retrieval", batch_size=512, rules=rules, pad_id=0)
    slots = len(packed.chunk_mask_c) if chunk_rows else 1
    shape = RowShape(packed.tokens_bt.shape[1], packed.rows // slots, slots)
    batch = abstract_batch(settings, one_device(), "retrieval", 7, shape)
    expected = DeviceBatch.of(packed.arrays())
    assert jax.tree.map(lambda x: (x.shape, x.dtype), batch) == jax.tree.map(lambda x: (x.shape, x.dtype), expected)


def test_real_lengths_are_packed_as_in_training(tmp_path):
    lengths = np.clip(np.random.default_rng(0).lognormal(4, 0.6, 1000), 1, 1024).astype(int)
    path = tmp_path / "lengths.txt"
    path.write_text("\n".join(map(str, lengths)))
    settings = config("size=tiny,teacher=none")
    for parts, lowest in ((1, 0.97), (256, 0.93)):
        planned = rows_of_lengths(settings, parts, str(path))
        assert planned.mean == pytest.approx(lengths.mean(), rel=0.03)
        assert planned.useful_share > lowest
        assert planned.tokens == pytest.approx(planned.useful_share * parts * planned.encoded, rel=0.05)


@pytest.mark.parametrize("mean,below", [(1024, 6), (512, 2), (256, 0), (300, 3)])
def test_the_tiles_that_attention_visits_follow_from_where_texts_lie(mean, below):
    """Of 4 blocks of 256 positions; texts of 300 reach from each into the next."""
    assert tiles_of(np.arange(0, 1024, mean), mean) == below


def tiles_of(start_u, mean: int) -> int:
    """Counts blocks of keys, before the block of queries itself, that hold a position of the same text."""
    text_t = np.searchsorted(start_u, np.arange(1024), side="right")
    blocks = text_t.reshape(4, 256)
    expected = sum(bool(set(blocks[i]) & set(blocks[j])) for i in range(4) for j in range(i))
    assert tiles_below(start_u, np.minimum(start_u + mean, 1024), 1024) == expected
    return expected


def test_the_rows_of_real_lengths_are_those_of_a_program_of_training_of_which_a_batch_fills_some(tmp_path):
    path = tmp_path / "lengths.txt"
    path.write_text("\n".join(map(str, np.random.default_rng(0).integers(1, 1025, 1000))))
    planned = rows_of_lengths(config("size=tiny,teacher=none", "--config.model.chunk_rows=8"), 4, str(path))
    assert 1 < planned.chunks < planned.shape.slots
    assert 0.9 < planned.tokens / (4 * planned.encoded) < 1


@pytest.mark.parametrize(
    "content,message",
    [("20\n-3", "it has '-3'"), ("2000", "from 1 to 1024 in each line; it has '2000'"), ("", "it has nothing")],
)
def test_a_file_of_lengths_that_holds_something_else_is_refused(tmp_path, content, message):
    path = tmp_path / "lengths.txt"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        rows_of_lengths(config(), 1, str(path))
    with pytest.raises(UserError, match="neither a file with a length in each line nor a prepared corpus"):
        rows_of_lengths(config(), 1, str(tmp_path / "none"))


@pytest.mark.parametrize(
    "path,name",
    [("codefuse-ai/F2LLM-v2-1.7B", "1.7b"), ("runs/0.6b", "0.6b"), ("0.6b", "0.6b"), ("runs/mine", ""), ("", "")],
)
def test_the_size_of_a_teacher_is_read_from_its_name(path, name):
    assert teacher_size(path) == name


def test_a_teacher_costs_its_weights_in_its_own_type():
    teacher = abstract_teacher(config("size=80m,teacher=auto"), one_device())
    assert bytes_on_device(teacher) == 2 * 596_049_920


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_cached_teacher_is_a_vector_for_each_text_of_the_batch(tmp_path, dtype):
    begin(tmp_path, TeacherVectorsInfo("hash", 48, dtype))
    settings = config("size=tiny,teacher=none", f"--config.teacher.cache={tmp_path}")
    batch = abstract_batch(settings, one_device(), "retrieval", 7, RowShape(1024, 4))
    assert (batch.teacher_se.shape, batch.teacher_se.dtype) == ((512 * 9, 48), dtype)


def test_memory_is_split_by_kind_and_adds_up_to_what_the_compiler_says():
    stats = SimpleNamespace(
        argument_size_in_bytes=130,
        output_size_in_bytes=100,
        alias_size_in_bytes=96,
        temp_size_in_bytes=50,
        generated_code_size_in_bytes=7,
    )
    memory, needed = memory_by_kind(stats, {"parameters": 40, "optimizer": 80})
    assert memory == {"parameters": 40, "optimizer": 80, "padding": 10, "temporaries": 54, "code": 7}
    assert needed == 130 + 50 + 7 + 4


@pytest.mark.parametrize(
    "message,needed",
    [
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm.", int(20.5 * GIB)),
        ("RESOURCE_EXHAUSTED: memory required for HLO temporaries (32.00G) exceeds available HBM (15.75G).", 33 * GIB),
        ("RESOURCE_EXHAUSTED: no figures", 0),
    ],
)
def test_what_a_step_would_take_is_read_from_the_complaint_of_the_compiler(message, needed):
    assert bytes_used(message, arguments=GIB) == needed


@pytest.mark.parametrize(
    "states,fsdp,remat,advice",
    [
        (14, 2, "full", "mesh.fsdp=4 or more"),
        (14, 16, "dots", "model.remat=full"),
        (1, 2, "dots", "model.remat=full"),
        (1, 2, "full", "model.chunk_rows=2"),
    ],
)
def test_the_advice_names_the_field_to_change(states, fsdp, remat, advice):
    mesh = {"replica": 1, "data": 16 // fsdp, "fsdp": fsdp, "tensor": 1}
    known = {"mesh": mesh, "hbm": 16 * GIB, "remat": remat, "chunk_rows": 0, "rows": 64, "row_length": 1024}
    memory = {"parameters": states * GIB, "optimizer": 0, "teacher": 0}
    assert advice in what_to_change(known, memory, 1024)


@pytest.mark.parametrize(
    "width,devices,parts", [(1024, 8, [1, 2, 4, 8]), (320, 256, [1, 2, 4, 8, 16, 32, 64]), (5, 4, [1])]
)
def test_weights_are_split_into_parts_of_one_size(width, devices, parts):
    assert possible_shares(width, devices) == parts


@pytest.mark.parametrize(
    "remat,of_a_token",
    [
        ("full", 5120),  # the input of the layer
        ("qkv", 2 * 5120 + 40 * 128),  # that of the MLP, and what attention gives
        ("mlp", 2 * 5120 + 2 * 40 * 128 + 2 * 8 * 128),  # that of the MLP, q, k, v and what attention gives
        ("dots", 2 * 5120 + 2 * 40 * 128 + 2 * 8 * 128 + 2 * 17_408),  # and the wide products of the MLP
    ],
)
def test_the_activations_that_a_remat_policy_keeps_of_each_layer(remat, of_a_token):
    more, fewer = (saved_bytes(size("14b", layers=layers), remat, tokens=1024) for layers in (40, 39))
    assert more - fewer == 2 * 1024 * of_a_token


@pytest.fixture
def layouts(monkeypatch):
    """(remat, fsdp, rows of a chunk) of the layouts to try for a size on some v5e chips of 16 GiB."""

    def of(name: str, chips: int, tokens_per_text: int) -> list[tuple[str, int, int]]:
        rows = 512 * 9 * tokens_per_text // 1024
        monkeypatch.setattr(search, "topology_devices", lambda topology: range(chips))
        monkeypatch.setattr(search, "make_mesh", lambda devices: None)
        planned = SimpleNamespace(encoded=rows // chips * 1024)
        monkeypatch.setattr(search, "planned_rows", lambda *_: planned)
        found = search.candidate_layouts(config(f"size={name},teacher=none"), "v5e:16x16", tokens_per_text)
        return [tuple(layout[field] for field in ("model.remat", "mesh.fsdp", "model.chunk_rows")) for layout in found]

    return of


@pytest.mark.parametrize(
    "tokens_per_text,remats",
    [
        (1024, ["dots in chunks", "full in chunks"]),  # 4,608 rows on a chip: more than there is room for on paper
        (8, ["dots", "mlp", "qkv", "full", "dots in chunks", "full in chunks"]),
    ],
)
def test_the_layouts_to_try_compute_ever_more_again(layouts, tokens_per_text, remats):
    """In chunks as in `full`, all layers run forward twice; `full` in chunks runs them three times."""
    found = [remat + " in chunks" * bool(chunk) for remat, _, chunk in layouts("80m", 1, tokens_per_text)]
    assert list(dict.fromkeys(found)) == remats


def test_the_last_layout_is_the_most_frugal_and_there_without_room_on_paper(layouts):
    assert layouts("0.6b", 1, 1024)[-1] == ("full", 1, 1)


def test_weights_are_shared_by_as_few_chips_as_leave_room_for_the_activations(layouts):
    """Of 14.2 GiB of room 596,049,920 weights of 16 bytes take 8.9; dots keeps 14.9 of 18 rows, mlp 9.0, qkv 5.1."""
    assert layouts("0.6b", 256, 1024)[:2] == [("mlp", 2, 0), ("qkv", 1, 0)]


def test_nothing_is_tried_where_the_weights_alone_do_not_fit(layouts):
    assert layouts("14b", 4, 1024) == []


def test_a_layout_changes_a_copy_of_the_config():
    before = config()
    after = with_layout(before, {"mesh.fsdp": 4, "model.remat": "mlp"})
    assert (after.mesh.fsdp, after.model.remat) == (4, "mlp")
    assert (before.mesh.fsdp, before.model.remat) == (1, "full")


FITS = SlicePlan(
    topology="v5e:2x2",
    size="80m",
    teacher="",
    chips=4,
    mesh={"data": 2, "fsdp": 2, "tensor": 1},
    remat="full",
    chunk_rows=0,
    unroll=1,
    rows=12,
    row_length=1024,
    chunks=1,
    useful_share=1.0,
    tiles_below=6.0,
    tokens_per_text=32,
    steps=1000,
    fits=True,
    memory={"parameters": GIB, "teacher": 0, "temporaries": 3 * GIB},
    hbm=16 * GIB,
    needed=4 * GIB,
    collectives=[{"kind": "all-gather", "devices": 2, "overlaps": True, "runs": 28, "bytes": GIB}],
    seconds={"compute": 0.5, "links": 0.1, "exposed": 0.0, "step": 0.5},
    scopes={"forward mlp": 0.2},
    mfu=0.515,
    tokens_per_second=1234.5,
    days=0.1,
    chip_hours=9.6,
    limit="compute",
    advice="",
)


def test_the_table_has_a_column_for_each_topology_and_says_what_to_change():
    too_large = replace(FITS, topology="v6e:2x2", fits=False, seconds={}, advice="take more chips")
    lines = plan_report.plan_table([FITS, too_large], tokens_per_text=32).splitlines()
    rows = {line[:40].strip(): line.split()[-2:] for line in lines}
    assert "texts of 32 tokens (by --tokens-per-text)" in lines[0]
    assert ["yes", "NO"] in rows.values()
    assert any(line.split()[:1] == ["MFU"] and "51.5%" in line for line in lines)
    assert any("all-gather over 2, beside compute" in line and "28 x, 1.00 GiB" in line for line in lines)
    assert lines[-1] == "v6e:2x2 does not fit; take more chips."


@pytest.mark.parametrize(
    "topology,price,cost",
    [("v5e:2x2", None, "$12 at $1.20"), ("v5e:2x2", 0.5, "$5 at $0.50"), ("tpu7x:2x2x1", 0.5, "$5 at $0.50")],
)
def test_the_table_has_what_the_chip_hours_cost_at_the_list_price_or_your_own(topology, price, cost):
    assert cost in plan_report.plan_table([replace(FITS, topology=topology)], price=price)


def test_no_cost_is_made_up_where_the_price_is_not_known():
    assert "cost" not in plan_report.plan_table([replace(FITS, topology="tpu7x:2x2x1")])


@pytest.mark.parametrize("share,word", [(0.95, "yes"), (0.951, "TIGHT"), (0.994, "TIGHT")])
def test_a_plan_that_takes_nearly_all_of_the_memory_is_called_tight_and_says_what_to_change(share, word):
    plan = replace(FITS, needed=int(share * 16 * GIB), advice="encode fewer rows at once: model.chunk_rows=6")
    table = plan_report.plan_table([plan])
    assert next(line for line in table.splitlines() if line.startswith("fits")).split() == ["fits", word]
    warning = f"v5e:2x2 takes {share:.1%} of the memory and may fail when it runs, by transfers and fragmentation; "
    assert (f"{warning}{plan.advice}." in table) is (word == "TIGHT")


def test_a_search_prefers_a_layout_with_memory_to_spare_to_a_faster_tight_one():
    tight = replace(FITS, needed=int(15.9 * GIB), seconds={"step": 0.4})
    assert search.fastest_plan([tight, FITS]) is FITS
    assert search.fastest_plan([tight, replace(tight, seconds={"step": 0.5})]) is tight


def test_a_layout_that_was_searched_for_is_printed_as_options_that_give_it(monkeypatch):
    before = config()
    layout = {"mesh.data": 2, "mesh.fsdp": 2, "model.remat": "mlp", "model.chunk_rows": 3, "model.unroll": 2}
    chosen = with_layout(before, layout)
    found = replace(FITS, mesh=dict(chosen.mesh), remat="mlp", chunk_rows=3, unroll=2)
    monkeypatch.setattr(plan_report, "search_layouts", lambda *args: found)
    line = plan_report.plan_topologies(before, ["v5e:2x2"], searches=True).splitlines()[-1]
    again = config("size=tiny,teacher=none", *line.split(" … ")[1].split())
    assert line.startswith("v5e:2x2: f2jax train …") and again == chosen


@pytest.mark.parametrize(
    "overhead,tried",
    [
        (0, [("dots", 1), ("dots", 256)]),  # what the paper says is so; then all chips share
        (4, [("dots", 1), ("dots", 2), ("dots", 256)]),  # half of 9 GiB of weights is more than is missing
        (7, [("dots", 1), ("dots", 8), ("dots", 256)]),  # seven eighths are 7.9
        (
            12,
            [("dots", 1), ("mlp", 1), ("qkv", 1), ("full", 1), ("full", 2), ("full", 256)],
        ),  # all is too little; then less is kept
    ],
)
def test_weights_are_shared_further_where_the_compiler_needs_more_than_the_paper(layouts, monkeypatch, overhead, tried):
    """0.6b with 15.9 GiB needed of 16 by dots, 10 by mlp, 7 by full, and so much more; the weights are 8.9 of it."""
    seen, needs = [], {"dots": 15.9, "mlp": 15.5, "qkv": 15.2, "full": 7}

    def compiled(changed, *_):
        if changed.model.unroll > 1:
            return replace(FITS, fits=False)
        remat, share = changed.model.remat, changed.mesh.fsdp
        seen.append((remat, share))
        needed = needs[remat] + overhead - 8.88 * (1 - 1 / share)
        faster_shared = {"step": 0.5 - share / 1000}
        return replace(FITS, fits=needed <= 16, needed=int(needed * GIB), hbm=16 * GIB, seconds=faster_shared)

    layouts("0.6b", 256, 1)  # a machine of 256 chips
    monkeypatch.setattr(search, "plan_slice", compiled)
    assert search.search_layouts(config("size=0.6b,teacher=none"), "v5e:16x16", 1).fits
    assert seen == tried


@pytest.mark.parametrize("shared,chosen", [(0.4, 256), (0.6, 1)])
def test_of_weights_shared_little_and_by_all_chips_the_faster_layout_is_taken(layouts, monkeypatch, shared, chosen):
    layouts("0.6b", 256, 1)

    def compiled(changed, *_):
        if changed.model.unroll > 1:
            return replace(FITS, fits=False)
        share = changed.mesh.fsdp
        return replace(FITS, mesh={"fsdp": share}, seconds={"step": 0.5 if share == 1 else shared})

    monkeypatch.setattr(search, "plan_slice", compiled)
    assert search.search_layouts(config("size=0.6b,teacher=none"), "v5e:16x16", 1).mesh["fsdp"] == chosen


@pytest.mark.parametrize(
    "needed,seconds_of_mlp,tried,chosen",
    [
        (14, 0.4, ["dots"], "dots"),  # of 16 GiB: there is room to spare
        (15, 0.4, ["dots", "mlp"], "mlp"),
        (15, 0.6, ["dots", "mlp"], "dots"),
        (15, None, ["dots", "mlp"], "dots"),  # the next one does not fit
    ],
)
def test_where_the_fastest_layout_on_paper_fills_the_memory_the_next_one_has_its_turn(
    layouts, monkeypatch, needed, seconds_of_mlp, tried, chosen
):
    layouts("80m", 1, 1)
    seen = []

    def compiled(changed, *_):
        if changed.model.unroll > 1:
            return replace(FITS, fits=False)
        remat = changed.model.remat
        seen.append(remat)
        seconds = {"dots": 0.5, "mlp": seconds_of_mlp}[remat]
        fits = seconds is not None
        memory = {"needed": (needed if remat == "dots" else 15 if fits else 17) * GIB, "hbm": 16 * GIB}
        return replace(FITS, remat=remat, fits=fits, seconds={"step": seconds} if fits else {}, **memory)

    monkeypatch.setattr(search, "plan_slice", compiled)
    assert search.search_layouts(config("size=80m,teacher=none"), "v5e:16x16", 1).remat == chosen
    assert seen == tried


@pytest.mark.parametrize(
    "unrolled,nothing_again,tried,chosen",
    [  # seconds of a step, None if it does not fit
        (0.4, 0.3, [(8, "dots"), (8, "none")], (8, "none")),
        (0.4, 0.5, [(8, "dots"), (8, "none")], (8, "dots")),
        (0.4, None, [(8, "dots"), (8, "none")], (8, "dots")),
        (0.6, 0.3, [(8, "dots")], (1, "dots")),
        (None, 0.3, [(8, "dots")], (1, "dots")),
    ],
)
def test_at_last_a_search_unrolls_the_layers_of_the_fastest_layout_and_computes_nothing_again(
    layouts, monkeypatch, unrolled, nothing_again, tried, chosen
):
    layouts("80m", 4, 1)
    seen = []

    def compiled(changed, *_):
        found = replace(FITS, mesh=dict(changed.mesh), remat=changed.model.remat, unroll=changed.model.unroll)
        seen.append((found.unroll, found.remat, found.mesh["fsdp"]))
        if found.unroll == 1:
            return replace(found, seconds={"step": 0.5 - 0.01 * changed.mesh.fsdp})
        seconds = unrolled if found.remat == "dots" else nothing_again
        return replace(found, fits=seconds is not None, seconds={"step": seconds})

    monkeypatch.setattr(search, "plan_slice", compiled)
    found = search.search_layouts(config("size=80m,teacher=none"), "v5e:2x2", 1)
    assert seen == [(1, "dots", 1), (1, "dots", 4), *((*layout, 4) for layout in tried)]
    assert (found.unroll, found.remat) == chosen
    assert f"--config.model.unroll={chosen[0]}" in plan_report.layout_options(found)


def test_a_search_computes_again_what_the_layout_of_the_loop_does_if_it_has_to(layouts, monkeypatch):
    layouts("80m", 1, 1)
    seen = []

    def compiled(changed, *_):
        seen.append((changed.model.unroll, changed.model.remat))
        found = replace(FITS, remat=changed.model.remat, unroll=changed.model.unroll)
        return replace(found, fits=found.remat != "dots", seconds={"step": 1 / found.unroll})

    monkeypatch.setattr(search, "plan_slice", compiled)
    found = search.search_layouts(config("size=80m,teacher=none"), "v5e:16x16", 1)
    assert seen[-1] == (found.unroll, found.remat) == (8, "mlp")


def test_the_worst_case_is_called_that():
    assert "(the worst case)" in plan_report.plan_table([replace(FITS, tokens_per_text=1024, row_length=1152)])


def test_a_plan_says_which_batches_have_more_texts_than_those_it_compiles():
    config = configs.load(str(ROOT / "configs/stage2.py:size=80m,teacher=none"), [])
    assert plan_report.larger_batches(config) == [
        "Batches of clustering have 9 negatives a query, 22% more texts than this; to plan them, add "
        "--config.data.negatives.retrieval=9."
    ]
    config.data.negatives.retrieval = 9
    assert plan_report.larger_batches(config) == []


@pytest.mark.parametrize(
    "argv,message",
    [
        (["--config", f"{STAGE2}:size=80m"], "plan needs --topology"),
        (["--topology", "v9:2x2", "--config", f"{STAGE2}:size=80m"], "There is no chip 'v9' to plan for"),
        (["--topology", "v5e:3x", "--config", f"{STAGE2}:size=80m"], "such as v5e:4x4, or a number of chips that is"),
        (
            ["--topology", "v5e:2x2", "--config", f"{STAGE2}:size=80m", "--config.model.remat=ful"],
            "There is no remat policy 'ful'; did you mean 'full'?",
        ),
        (
            ["--topology", "v5e:2x2", "--config", f"{STAGE2}:size=80m", "--config.model.kernel=flash"],
            "There is no attention kernel 'flash'; did you mean 'splash'?",
        ),
        (
            ["--topology", "v5e:2x2", "--config", f"{STAGE2}:size=80m", "--config.model.kernel=triton"],
            "The attention kernel 'triton' is for a GPU, not for a TPU; choose auto.",
        ),
        (["--topology", "v5e:2x2", "--config", f"{STAGE2}:size=80m", "--tokens=3"], "plan has no option '--tokens'"),
        (["--topology", "v5e:2x2", "--config", "nothing.py"], "There is no config file nothing.py"),
    ],
)
def test_a_wrong_command_line_is_answered_in_one_sentence(capsys, argv, message):
    assert cli.main(["plan", *argv]) == 1
    assert message in capsys.readouterr().err


def test_without_the_compiler_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install 'f2jax\\[tpu\\]'"):
        topology_devices("v5e:2x2")


def test_a_step_that_the_compiler_finds_no_room_for_is_an_answer(monkeypatch):
    def no_room(compile_step):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory. Used 20.50G of 15.75G hbm.")

    monkeypatch.setattr("f2jax.plan.run.topology_devices", lambda topology: np.array(jax.devices()[:1]))
    monkeypatch.setattr("f2jax.plan.run.interruptible", no_room)
    found = plan_slice(config("size=tiny,teacher=none", "--config.model.remat=dots"), "v5e:1x1", tokens_per_text=64)
    assert not found.fits and found.needed == int(20.5 * GIB)
    assert found.advice == "keep fewer activations: model.remat=full"


@pytest.mark.parametrize(
    "gib,advice", [(14, ""), (15.5, "encode fewer rows at once: model.chunk_rows=144"), (15.8, "encode fewer rows")]
)
def test_a_plan_counts_what_the_runtime_reserves_of_the_memory(monkeypatch, gib, advice):
    """A v5e chip has 16 GiB, of which the TPU compiler lets a program use 15.75."""
    sizes = dict.fromkeys(("argument", "output", "alias", "generated_code"), 0) | {"temp": int(gib * GIB)}
    stats = SimpleNamespace(**{f"{name}_size_in_bytes": size for name, size in sizes.items()})
    compiled = SimpleNamespace(memory_analysis=lambda: stats, as_text=lambda: "ENTRY %main (p: s32[]) -> s32[] {\n}\n")
    monkeypatch.setattr("f2jax.plan.run.topology_devices", lambda topology: np.array(jax.devices()[:1]))
    monkeypatch.setattr("f2jax.plan.run.interruptible", lambda compile_step: compiled)
    monkeypatch.setattr("f2jax.plan.run.step_seconds", lambda *_: StepSeconds(compute=1, links=0, exposed=0))
    monkeypatch.setattr("f2jax.plan.run.device_coordinates", lambda mesh: [(0, 0, 0, 0)])
    plan = plan_slice(config("size=tiny,teacher=none"), "v5e:1x1", tokens_per_text=64)
    assert (plan.fits, plan.is_tight) == (gib < 15.75, 15 < gib < 15.75)
    assert plan.hbm == 15.75 * GIB and plan.advice.startswith(advice) and bool(plan.advice) == bool(advice)


def test_a_program_larger_than_the_chip_does_not_fit_though_the_compiler_lets_it_pass(monkeypatch):
    sizes = dict.fromkeys(("argument", "output", "alias", "generated_code"), 0) | {"temp": 17 * GIB}
    stats = SimpleNamespace(**{f"{name}_size_in_bytes": size for name, size in sizes.items()})
    compiled = SimpleNamespace(memory_analysis=lambda: stats)
    monkeypatch.setattr("f2jax.plan.run.topology_devices", lambda topology: np.array(jax.devices()[:1]))
    monkeypatch.setattr("f2jax.plan.run.interruptible", lambda compile_step: compiled)
    found = plan_slice(config("size=tiny,teacher=none"), "v5e:1x1", tokens_per_text=64)
    assert not found.fits and found.needed >= 17 * GIB > found.hbm


def test_a_text_longer_than_a_row_is_refused(monkeypatch):
    monkeypatch.setattr("f2jax.plan.run.topology_devices", lambda topology: np.array(jax.devices()[:1]))
    with pytest.raises(UserError, match=r"--tokens-per-text=4096 should be from 1 to data\.max_length=1024"):
        plan_slice(config(), "v5e:2x2", tokens_per_text=4096)
