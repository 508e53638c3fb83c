"""The names that people have for a slice: its shape, its number of chips, and Google Cloud's accelerator types."""

import math

import pytest

from f2jax.errors import UserError
from f2jax.parallel.chips import CHIPS, canonical_topology, compiler_options, default_shape


@pytest.mark.parametrize(
    "text,topology",
    [
        ("v5e:16x16", "v5e:16x16"),
        ("v5e:16", "v5e:4x4"),
        ("v5e-16", "v5e:4x4"),
        ("v5litepod-16", "v5e:4x4"),
        ("v5litepod-8", "v5e:2x4"),
        ("v5litepod-1", "v5e:1x1"),
        ("V6E-256", "v6e:16x16"),
        ("v5p:128", "v5p:4x4x8"),
        ("v5p-128", "v5p:4x4x4"),  # 128 cores
        ("v5p-8", "v5p:2x2x1"),
        ("v4-32", "v4:2x2x4"),
        ("v5p:1", "v5p:1x1x1"),
    ],
)
def test_a_slice_is_known_by_its_shape_its_chips_and_its_accelerator_type(text, topology):
    assert canonical_topology(text) == topology


@pytest.mark.parametrize(
    "text,message",
    [
        ("v5e", "'v5e' should be a chip and the shape of its slice, such as v5e:4x4, or a number of chips that is"),
        ("v5e:12", "'v5e:12' should be a chip and the shape"),
        ("v5p-5", "such as v5p:2x2x4, or a number of chips that is a power of two, such as v5p:16"),
        ("v5p:4x", "'v5p:4x' should be"),
        ("v5e:0", "'v5e:0' should be"),
        ("v9:2x2", "There is no chip 'v9' to plan for"),
        ("", "There is no chip ''"),
    ],
)
def test_any_other_name_is_refused_in_one_sentence(text, message):
    with pytest.raises(UserError, match=message):
        canonical_topology(text)


@pytest.mark.parametrize("name", CHIPS)
def test_default_shapes_have_the_chips_that_are_asked_for_and_sides_in_order(name):
    for chips in (2**i for i in range(3, 12)):
        sides = [int(side) for side in default_shape(CHIPS[name], chips).split("x")]
        assert math.prod(sides) == chips and sides == sorted(sides) and sides[-1] <= 2 * sides[0]


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA H200"])
def test_a_device_that_is_no_tpu_has_only_the_compiler_options_that_are_given(kind):
    assert compiler_options(kind, 4096) == {}
    assert compiler_options(kind, 4096, ["a=1", "b=x=y", "c=true"]) == {"a": "1", "b": "x=y", "c": True}


def test_compiler_options_of_a_chip_can_be_added_to_changed_and_removed():
    own = compiler_options("TPU v5", 320)
    (name,) = own
    assert own == CHIPS["v5p"].flags
    assert compiler_options("TPU v5", 320, ["a=1", "b=true"]) == own | {"a": "1", "b": True}
    assert compiler_options("TPU v5", 320, [f"{name}=7"]) == {name: "7"}
    assert compiler_options("TPU v5", 320, [f"{name}=", "a=1"]) == {"a": "1"}


def test_a_chip_has_options_only_for_models_as_wide_as_they_make_faster():
    assert compiler_options("TPU v6 lite", 1024) == {}
    assert compiler_options("TPU v6 lite", 2048) == CHIPS["v6e"].flags != {}
    assert compiler_options("TPU v6 lite", 1024, ["a=1"]) == {"a": "1"}


@pytest.mark.parametrize("change", ["a", "=1", ""])
def test_a_compiler_option_without_name_or_value_is_refused(change):
    with pytest.raises(UserError, match=f"The compiler option '{change}' should be NAME=VALUE"):
        compiler_options("cpu", 320, [change])
