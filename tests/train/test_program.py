"""What a run is compiled with: options of the chip and of the config, kernel and remat policy, checked first."""

import importlib.util
from functools import wraps

import jax
import pytest

from f2jax import config as configs
from f2jax.errors import UserError
from f2jax.model.sizes import size
from f2jax.parallel.chips import compiler_options
from f2jax.parallel.mesh import make_mesh
from f2jax.plan.run import topology_devices
from f2jax.train.loop import train
from f2jax.train.program import Program, check_settings
from tests.tiny import ROOT


@pytest.fixture
def compiled_with(monkeypatch):
    """The options of the step and of the validation of a program, given devices and options of the config."""
    jitted = []

    @wraps(jax.jit)
    def record(function, compiler_options=None, **others):
        if "static_argnames" in others:  # the two functions that take a batch
            jitted.append(compiler_options)
        return jit(function, compiler_options=compiler_options, **others)

    jit = jax.jit
    monkeypatch.setattr("jax.jit", record)

    def build(devices, options: tuple[str, ...] = ()):
        config = configs.load(f"{ROOT}/configs/stage2.py:size=tiny,teacher=none", [])
        config.model.compiler_options = options
        Program(config, size("tiny"), make_mesh(devices=devices), steps=1000)
        step, evaluate = jitted
        assert step == evaluate
        return step

    return build


def test_a_program_for_a_cpu_has_the_options_of_the_config(compiled_with):
    assert compiled_with(jax.devices()[:1], ("xla_embed_ir_in_executable=true",)) == {
        "xla_embed_ir_in_executable": True
    }


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu, from the `tpu` extra")
def test_a_program_for_a_tpu_has_the_options_of_its_chip(compiled_with):
    assert compiled_with(topology_devices("v5p:2x2x1")) == compiler_options("TPU v5", size("tiny").width) != {}


@pytest.mark.parametrize(("field", "message"), [("kernel", "attention kernel 'x'"), ("remat", "remat policy 'x'")])
def test_a_wrong_name_in_the_config_is_refused_before_the_data_is_read(tmp_path, field, message):
    config = configs.load(f"{ROOT}/configs/stage2.py:size=tiny,teacher=none", [f"--config.model.{field}=x"])
    config.data.sources = ("no such file",)
    with pytest.raises(UserError, match=f"There is no {message}"):
        train(config, tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss.distill=cosin", "There is no distillation loss 'cosin'"),
        ("loss.matryoshka_weights=even", "There are no Matryoshka weights 'even'"),
        ("loss.kind_temperatures=('texts=1',)", "'texts=1' in loss.kind_temperatures should be"),
        ("optim.name=lion", "There is no optimizer 'lion'"),
        ("optim.freeze=('loss_temperatures',)", "No weight is named 'loss_temperatures'"),
        ("mesh.tensor=7", "mesh replica=1, data=-1, fsdp=1, tensor=7 does not fit"),
        ("optim.warmup_steps=2000", "optim.warmup_steps=2000 leaves nothing of 1000 steps"),
    ],
)
def test_a_setting_that_no_program_can_have_is_refused_before_the_data_is_read(tmp_path, override, message):
    overrides = ["--config.steps=1000", f"--config.{override}"]
    config = configs.load(f"{ROOT}/configs/stage2.py:size=tiny,teacher=none", overrides)
    config.data.sources = ("no such file",)
    with pytest.raises(UserError, match=message):
        train(config, tmp_path / "run")


def test_weights_that_the_loss_adds_may_be_named():
    config = configs.load(f"{ROOT}/configs/stage2.py:size=tiny,teacher=none", ["--config.steps=1000"])
    config.loss.trained_temperatures, config.optim.no_decay = True, ("loss_temperatures",)
    check_settings(config, size("tiny"))


def test_an_option_that_the_compiler_does_not_know_is_one_sentence(compiled_with):
    with pytest.raises(UserError, match=r"The compiler refuses model\.compiler_options \(.*xla_no_such.*\); correct"):
        compiled_with(jax.devices()[:1], ("xla_no_such_option=1",))
