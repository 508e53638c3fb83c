"""Configs load, are locked, and name the nearest known field or option."""

import re
from pathlib import Path

import pytest

from f2jax import config
from f2jax.configs import common
from f2jax.errors import UserError
from f2jax.model.qwen3 import abstract_params
from f2jax.model.sizes import size
from f2jax.train.loop import train

ROOT = Path(__file__).parents[1]
NEEDS_MODELS = ("ablation.py", "cached.py", "finetune.py")  # see tests/test_ablations.py, tests/start/test_run.py
FILES = sorted(p for p in (ROOT / "configs").glob("*.py") if p.name not in ("__init__.py", *NEEDS_MODELS))
SIZES = [name for name in common.HYPER_PARAMETERS if name not in ("nano", "tiny")]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_every_config_loads_and_its_model_has_shapes(path):
    loaded = config.load(str(path))
    assert loaded.is_locked
    assert abstract_params(size(loaded.model.size))


def test_a_config_of_f2jax_is_found_by_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config.load("stage2:size=80m").to_dict() == config.load(f"{ROOT}/configs/stage2.py:size=80m").to_dict()
    (tmp_path / "stage2").write_text("from f2jax.configs import mini\nget_config = mini.get_config\n")
    assert config.load("stage2").model.size == "mini"  # a file of that name comes first


@pytest.mark.parametrize(
    "name,message",
    [
        ("stage3", "There is no config file stage3, and f2jax has no config of that name; did you mean 'stage"),
        ("configs/nano.py:stage=1", "There is no config file configs/nano.py here; give f2jax's own by name: nano."),
        ("__init__", "There is no config file __init__"),
    ],
)
def test_a_config_that_is_nowhere_is_told_the_names(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        config.load(name)


@pytest.mark.parametrize(
    "name,field",
    [
        ("optim.lr", "optim.peak_lr"),
        ("learning_rate", "optim.peak_lr"),
        ("train.learning-rate", "optim.peak_lr"),
        ("per_device_train_batch_size", "data.batch_size"),
        ("num_train_epochs", "epochs"),
        ("max_seq_length", "data.max_length"),
        ("bf16", "model.dtype"),
        ("gradient_checkpointing", "model.remat"),
        ("warmup_ratio", "optim.warmup_share"),
        ("weight_decay", "optim.weight_decay"),  # the name of a field, in no group
        ("model.temperature", "loss.temperature"),  # in another group
        ("optim.peek_lr", "optim.peak_lr"),  # mistyped
    ],
)
def test_a_field_by_the_name_of_another_trainer_is_told_its_own(name, field):
    with pytest.raises(UserError, match=f"^The config has no field '{name}'; did you mean '{re.escape(field)}'"):
        config.load("stage2", [f"--config.{name}=1"])


def test_every_synonym_stands_for_a_field_and_is_none():
    names = config.fields(common.get_config())
    assert set(config.SYNONYMS.values()) <= set(names)
    assert not set(config.SYNONYMS) & set(names)


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_every_size_has_its_hyper_parameters_in_both_stages(stage, name):
    loaded = config.load(str(ROOT / f"configs/{stage}.py:size={name}"))
    assert (loaded.optim.peak_lr, loaded.epochs) == common.HYPER_PARAMETERS[name][:2]
    assert loaded.data.batch_size == 512


def test_only_the_sizes_of_the_recipe_have_a_teacher():
    paths = {name: config.load(str(ROOT / f"configs/stage2.py:size={name}")).teacher.path for name in SIZES}
    assert {name for name, path in paths.items() if path} == {"80m", "160m", "330m", "0.6b", "1.7b"}
    assert paths["80m"].endswith("0.6B")
    assert config.load(str(ROOT / "configs/stage2.py:size=80m,teacher=none")).teacher.path == ""
    assert config.load(str(ROOT / "configs/stage2.py:size=80m,teacher=runs/x")).teacher.path == "runs/x"


def test_an_ablation_of_distillation_is_one_option():
    path = str(ROOT / "configs/distill.py:size=80m,teacher=runs/x,objective=")
    recipe, projected = config.load(f"{path}recipe"), config.load(f"{path}projected")
    changed = config.differences(recipe.to_dict(), projected.to_dict())
    assert changed == ["loss.distill", "loss.distill_projection"]
    plain = config.load(str(ROOT / "configs/stage2.py:size=80m,teacher=runs/x"))
    assert config.differences(recipe.to_dict(), plain.to_dict()) == []


def test_a_cache_stands_in_the_place_of_the_teacher():
    loaded = config.load(str(ROOT / "configs/distill.py:size=80m,cache=vectors"))
    assert (loaded.teacher.path, loaded.teacher.cache) == ("", "vectors")


OWN = "from f2jax.configs import nano\n\ndef get_config(options=None):\n    config = nano.get_config(options)\n"


@pytest.mark.parametrize(
    "text,message",
    [
        ("", "The config file {file} defines no function get_config; write one as in configs/nano.py."),
        ("def get_config(:", "The config file {file} is not valid Python: invalid syntax"),
        (
            "import nosuch\ndef get_config(options=None): ...",
            "{file}: line 1: ModuleNotFoundError: No module named 'nos",
        ),
        (
            "def get_config(options=None): return {{}}",
            "get_config of {file} returns dict and should return a ConfigDict.",
        ),
        (OWN + "    config.optim.peek_lr = 1\n    return config", "{file} sets 'optim.peek_lr', which is no field"),
        (
            OWN + "    del config.log\n    return config",
            "{file} has no field 'log.compare'; start from common.get_config()",
        ),
        (
            OWN + "    config.optim.peak_lr = 'fast'\n    return config",
            "{file}: TypeError: Could not override field 'pe",
        ),
        (OWN + "    return config.nosuch", "{file}: line 5: AttributeError: \"'nosuch'\""),
    ],
)
def test_what_is_wrong_in_a_config_of_a_user_is_said_in_one_line(tmp_path, text, message):
    file = tmp_path / "own.py"
    file.write_text(text.replace("{{}}", "{}"))
    with pytest.raises(UserError, match=f"^{re.escape(message.format(file=file))}") as error:
        config.load(str(file))
    assert "\n" not in str(error.value)


def test_a_config_of_a_user_may_name_prompts_and_instructions(tmp_path):
    (tmp_path / "own.py").write_text(
        OWN + "    config.prompts.mine = 'p'\n    config.data.instructions.a = 'b'\n    return config"
    )
    assert config.load(str(tmp_path / "own.py")).prompts.mine == "p"


def test_any_leaf_can_be_overridden_and_keeps_its_type():
    loaded = config.load(
        str(ROOT / "configs/nano.py:stage=2"),
        ["--config.optim.peak_lr=4e-5", "--config.data.sources=('a.parquet',)", "--config.loss.matryoshka=false"],
    )
    assert loaded.optim.peak_lr == 4e-5
    assert loaded.data.sources == ("a.parquet",)
    assert loaded.loss.matryoshka is False


@pytest.mark.parametrize(
    "path,overrides,message",
    [
        ("nano.py", ["--config.optim.peek_lr=1"], "did you mean 'optim.peak_lr'"),
        ("nano.py:stagee=1", [], "did you mean 'stage'"),
        ("nano.py:stage=one", [], "should be of type int"),
        ("nano.py:stage=3", [], "There is no stage 3; stages are 1 and 2"),
        ("stage2.py:size=90m", [], "no size '90m'"),
        ("distill.py:objective=cosin", [], "did you mean 'cosine'"),
        ("nano.py", ["--config.optim.peak_lr=fast"], "peak_lr"),
        ("nothing.py", [], "no config file"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(path, overrides, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        config.load(str(ROOT / "configs" / path), overrides)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "override,message",
    [
        ("model.dtype=bf16", "model.dtype=bf16 should be float32 or bfloat16."),
        ("optim.state_dtype=half", "optim.state_dtype=half should be float32 or bfloat16."),
        ("log.every=0", "log.every=0 should be at least 1."),
        ("checkpoint.every=0", "checkpoint.every=0 should be at least 1."),
        ("checkpoint.keep_every=-1", "checkpoint.keep_every=-1 should be at least 0."),
        ("loss.spread_weight=-1", "loss.spread_weight=-1.0 should be at least 0."),
        ("loss.distill_weight=-1", "loss.distill_weight=-1.0 should be at least 0."),
        ("seed=-1", "seed=-1 should be at least 0."),
        (f"seed={2**31}", f"seed={2**31} should be below {2**31}, because the weights are random."),
        ("data.programs=-1", "data.programs=-1 should be at least 0."),
        ("data.negatives.retrieval=-1", "data.negatives.retrieval=-1 should be at least 0."),
        ("optim.peak_lr=0", "optim.peak_lr=0.0 should be above 0."),
        ("loss.temperature=0", "loss.temperature=0.0 should be above 0."),
        ("loss.distill_temperature=nan", "loss.distill_temperature=nan should be above 0."),
        ("optim.warmup_steps=-3", "optim.warmup_steps=-3 should be at least 0."),
        ("optim.b2=1.0", "optim.b2=1.0 should be from 0 to below 1."),
        ("data.validation_share=1.0", "data.validation_share=1.0 should be from 0 to below 1."),
        ("data.symmetric_share=30", "data.symmetric_share=30.0 should be from 0 to 1."),
    ],
)
def test_a_value_that_no_run_can_use_is_refused_before_anything_is_read(tmp_path, override, message):
    loaded = config.load(str(ROOT / "configs/nano.py"), [f"--config.{override}"])
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        train(loaded, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "overrides,message",
    [
        (
            ["model.gradient_dtype=bfloat16"],
            "model.gradient_dtype is for gradients of chunks; set model.chunk_rows",
        ),
        (["steps=0", "epochs=-1"], "epochs=-1 should be at least 1."),
        (["data.row_length=16", "data.max_length=32"], "data.row_length=16 is below data.max_length=32; raise it."),
        (["optim.state_dtype=bfloat16", "optim.b2=0.999"], "optim.b2=0.999 moves a moment in bfloat16 by less than it"),
        (["loss.distill_matryoshka=true", "loss.matryoshka=false"], "loss.distill_matryoshka is on and there are no"),
        (
            ["optim.decay_steps=20"],
            "optim.decay_steps=20 changes nothing without optim.schedule=wsd; set that too, or leave it out.",
        ),
        (
            ["model.size=", "model.layers=4"],
            "model.layers=4 changes nothing without model.size; set that too, or leave",
        ),
        (["log.evaluate_data=('d',)"], "log.evaluate_data=('d',) changes nothing without log.evaluate_every; set"),
        (["log.profile=(9,1)", "steps=9"], "log.profile=(9, 1) begins after the last of 9 steps; lower it."),
        (["loss.contrastive_weight=0"], "loss.contrastive_weight is 0 and nothing else is to be learned"),
        (["loss.contrastive_weight=0", "teacher.path=t", "loss.distill_weight=0"], "loss.contrastive_weight is 0 and"),
    ],
)
def test_values_that_no_run_can_use_together_are_refused(tmp_path, overrides, message):
    loaded = config.load(str(ROOT / "configs/nano.py"), [f"--config.{override}" for override in overrides])
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        train(loaded, tmp_path / "run")


def test_fields_that_need_another_are_accepted_with_it():
    overrides = ["optim.decay_steps=20", "optim.schedule=wsd", "model.layers=4", "log.evaluate_tasks=('cldr-names',)"]
    overrides += ["log.evaluate_every=5", "log.profile=(8,1)", "steps=9"]
    config.check(config.load("nano", [f"--config.{override}" for override in overrides]))


@pytest.mark.parametrize("name", ["shared_negatives", "query_query", "document_document"])
def test_each_term_of_infonce_is_enough_to_learn_from(name):
    overrides = ("--config.loss.contrastive_weight=0", f"--config.loss.{name}_weight=1")
    config.check(config.load("common", overrides))
    with pytest.raises(UserError, match="nothing else is to be learned"):
        config.check(config.load("common", overrides[:1]))


def test_a_locked_config_refuses_a_new_field():
    loaded = config.load(str(ROOT / "configs/nano.py"))
    with pytest.raises((AttributeError, KeyError)):
        loaded.optim.peek_lr = 1


def test_every_field_has_a_comment():
    """The lines of common.py that set a field; a group may go without."""
    lines = (ROOT / "configs/common.py").read_text().splitlines()
    fields = [line for line in lines if re.match(r"    \w+\.\w+(\.\w+)? = (?!\w+ = ConfigDict)", line)]
    assert len(fields) > 40
    assert [line for line in fields if "  # " not in line] == []
