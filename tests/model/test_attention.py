"""Attention kernels against a loop over positions, and against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from f2jax.errors import UserError
from f2jax.model.attention import attention, check_kernel_fits, choose_kernel
from f2jax.model.qwen3 import Qwen3
from f2jax.model.sizes import SIZES


def brute_force(q, k, v, segments):
    """One query position and head at a time, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    batch, length, heads, _ = q.shape
    group = heads // k.shape[2]
    out = np.zeros(q.shape)
    for b in range(batch):
        for t in range(length):
            seen = [s for s in range(t + 1) if segments[b, s] == segments[b, t]]
            for n in range(heads):
                logits = k[b, seen, n // group] @ q[b, t, n]
                weights = np.exp(logits - logits.max())
                out[b, t, n] = weights @ v[b, seen, n // group] / weights.sum()
    return out


def inputs(batch, length, heads, kv_heads, head_dim, seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    shapes = [(batch, length, n, head_dim) for n in (heads, kv_heads, kv_heads)]
    q, k, v = (jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))
    q *= head_dim**-0.5
    lengths = np.random.default_rng(seed).integers(1, max(2, length // 3), (batch, 4))
    segments = np.zeros((batch, length), np.int32)
    for b in range(batch):
        ends = np.minimum(np.cumsum(lengths[b]), length)
        for number, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True), 1):
            segments[b, start:end] = number
    return q, k, v, segments


@pytest.mark.parametrize("heads,kv_heads", [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("length", [1, 13, 32, 150])  # on a CPU 150 go in blocks of 64, 64 and 22 queries
@pytest.mark.parametrize("dtype,tolerance", [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("kernel", ["xla", "blocks"])
def test_kernels_for_any_platform_equal_brute_force(monkeypatch, kernel, length, heads, kv_heads, dtype, tolerance):
    monkeypatch.setattr("f2jax.model.attention_blocks.BLOCK", 32)
    *qkv, segments = inputs(2, length, heads, kv_heads, 16)
    qkv = [x.astype(dtype) for x in qkv]
    out = jax.jit(lambda *qkv: attention(*qkv, segments, kernel))(*qkv)
    assert out.dtype == dtype and out.shape == qkv[0].shape
    assert np.abs(np.asarray(out, np.float64) - brute_force(*qkv, segments)).max() < tolerance


def textbook(q, k, v, segments):
    """All scores at once, by operations whose gradients are JAX's own."""
    k, v = (jnp.repeat(x, q.shape[2] // k.shape[2], axis=2) for x in (k, v))
    seen = np.tril(segments[:, :, None] == segments[:, None])
    scores = jnp.where(seen[:, None], jnp.einsum("btnh,bunh->bntu", q, k, precision="highest"), -jnp.inf)
    return jnp.einsum("bntu,bunh->btnh", jax.nn.softmax(scores), v, precision="highest")


@pytest.mark.parametrize("dtype,tolerance", [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("heads,kv_heads", [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize(
    "kernel,length",
    [("xla", 150), ("xla whole", 150), ("xla", 1), ("blocks", 150), ("blocks", 96), ("blocks", 7)],
)
def test_gradients_of_attention_are_those_that_jax_derives(
    monkeypatch, kernel, length, heads, kv_heads, dtype, tolerance
):
    monkeypatch.setattr("f2jax.model.attention_blocks.BLOCK", 32)
    kernel, whole, _ = kernel.partition(" whole")
    if whole:  # as on platforms other than a CPU
        monkeypatch.setattr("f2jax.parallel.sharding.platform", lambda: "other")
    *qkv, segments = inputs(2, length, heads, kv_heads, 16)
    qkv = [x.astype(dtype) for x in qkv]

    def gradients(function, *qkv):
        loss = jax.grad(lambda *qkv: jnp.sum(jnp.sin(function(*qkv).astype(jnp.float32))), argnums=(0, 1, 2))
        return jax.jit(loss)(*qkv)

    found = gradients(lambda *qkv: attention(*qkv, segments, kernel), *qkv)
    expected = gradients(lambda *qkv: textbook(*qkv, segments), *(x.astype("float32") for x in qkv))
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype
        assert np.abs(a.astype("float32") - b).max() <= tolerance * max(np.abs(b).max(), 0.1)


@pytest.mark.parametrize(
    "kernel,length,heads,kv_heads,head_dim",
    [
        pytest.param("splash_interpret", 256, 2, 2, 64, marks=pytest.mark.slow),
        pytest.param("splash_interpret", 256, 4, 2, 128, marks=pytest.mark.slow),
        pytest.param("splash_interpret", 256, 2, 1, 128, marks=pytest.mark.slow),
        pytest.param("splash_interpret", 640, 2, 1, 128, marks=pytest.mark.slow),
        pytest.param("splash_interpret", 144, 2, 1, 64, marks=pytest.mark.slow),  # padded to 256
        ("segments_interpret", 128, 2, 2, 128),
        ("segments_interpret", 384, 4, 2, 128),
        ("segments_interpret", 1024, 3, 1, 128),  # an odd group; four blocks
        ("segments_interpret", 600, 2, 1, 256),  # padded to 640, five blocks
        ("triton_interpret", 128, 2, 2, 64),
        ("triton_interpret", 300, 4, 2, 64),  # padded to 384, six blocks
        ("triton_interpret", 512, 2, 1, 128),
    ],
)
def test_pallas_kernels_equal_xla_in_values_and_gradients(kernel, length, heads, kv_heads, head_dim):
    q, k, v, segments = inputs(1, length, heads, kv_heads, head_dim)

    def loss(qkv, kernel):
        out = attention(*qkv, segments, kernel)
        return jnp.sum(jnp.sin(out) * (segments > 0)[..., None, None]), out

    grad = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)
    found_grads, found = grad((q, k, v), kernel)
    xla_grads, xla = grad((q, k, v), "xla")
    seen = (segments > 0)[..., None, None]
    assert np.abs((found - xla) * seen).max() < 1e-5
    for a, b in zip(found_grads, xla_grads, strict=True):
        assert np.abs(a - b).max() < 1e-4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_segment_attention_rounds_no_further_than_xla_and_never_reads_the_blocks_of_other_texts(dtype):
    """A first text of 256 positions fills the first of two blocks; what is not finite there must not reach the second,
    as weights of 0 times it would."""
    q, k, v, _ = inputs(1, 512, 2, 1, 128)
    segments = np.repeat([[1, 2, 3]], [256, 100, 156], axis=1)
    exact = np.asarray(attention(q, k, v, segments, "xla"), np.float64)
    q, k, v = (x.astype(dtype) for x in (q, k, v))
    errors = [
        np.linalg.norm(np.asarray(attention(q, k, v, segments, kernel), np.float64) - exact)
        for kernel in ("segments_interpret", "xla")
    ]
    assert errors[0] <= max(1.1 * errors[1], 1e-5 * np.linalg.norm(exact))
    k, v = (x.at[:, :256].set(jnp.nan) for x in (k, v))
    out, back = jax.vjp(lambda *qkv: attention(*qkv, segments, "segments_interpret"), q, k, v)
    for x in (out, *back(jnp.ones_like(out).at[:, :256].set(0))):
        assert np.isfinite(x[:, 256:].astype("float32")).all()


def test_the_kernel_for_a_gpu_becomes_programs_of_triton_and_passes_over_the_tiles_of_other_texts():
    """No GPU is needed to lower it. Queries of the second text read no key of the first."""
    q, k, v, _ = inputs(1, 256, 2, 1, 64)
    segments = np.repeat([[1, 2]], 128, axis=1)

    def loss(*qkv, kernel):
        return attention(*qkv, segments, kernel).astype("float32").sum()

    gradient = jax.jit(jax.grad(loss, (0, 1, 2)), static_argnames="kernel")
    arrays = [x.astype("bfloat16") for x in (q, k, v)]
    text = gradient.trace(*arrays, kernel="triton").lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("custom_call @__gpu$xla.gpu.triton") == 3  # forward, queries, keys and values
    first, second = slice(None, 128), slice(128, None)
    unread = (q, *(x.at[:, first].set(jnp.nan) for x in (k, v)))
    assert np.isfinite(attention(*unread, segments, "triton_interpret")[:, second]).all()
    dq, _, _ = gradient(*unread, kernel="triton_interpret")
    assert np.isfinite(dq[:, second]).all()
    _, dk, dv = gradient(q.at[:, second].set(jnp.nan), k, v, kernel="triton_interpret")
    assert np.isfinite(dk[:, first]).all() and np.isfinite(dv[:, first]).all(), "keys are seen by no query behind them"


@pytest.mark.parametrize(
    ("kernel", "platform", "head_dim", "message"),
    [
        ("triton", "cpu", 64, "The attention kernel 'triton' is for a GPU, not for a CPU; choose auto."),
        ("triton", "tpu", 64, "The attention kernel 'triton' is for a GPU, not for a TPU; choose auto."),
        ("segments", "cpu", 128, "The attention kernel 'segments' is for a TPU, not for a CPU; choose auto."),
        ("splash", "gpu", 128, "The attention kernel 'splash' is for a TPU, not for a GPU; choose auto."),
        ("triton", "gpu", 96, "The attention kernel 'triton' needs a power of two as head_dim, not 96; choose auto."),
        ("triton", "gpu", 64, ""),
        ("segments", "tpu", 64, ""),
        ("splash", "tpu", 96, ""),
        ("auto", "cpu", 96, ""),
        ("xla", "tpu", 96, ""),
        ("triton_interpret", "cpu", 96, ""),
        ("segments_interpret", "cpu", 128, ""),
    ],
)
def test_a_kernel_that_does_not_fit_is_refused_before_it_is_compiled(kernel, platform, head_dim, message):
    if not message:
        return check_kernel_fits(kernel, head_dim, platform)
    with pytest.raises(UserError) as refused:
        check_kernel_fits(kernel, head_dim, platform)
    assert str(refused.value) == message


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="is about a CPU")
@pytest.mark.parametrize("kernel", ["segments", "splash", "triton"])
def test_a_model_refuses_a_kernel_of_another_platform(kernel):
    row = np.ones((1, 128), np.int32)
    with pytest.raises(UserError, match=f"'{kernel}' is for a"):
        jax.eval_shape(Qwen3(SIZES["tiny"], kernel=kernel).init, jax.random.key(0), row, row, row)


def test_segments_never_see_each_other_and_padding_reaches_nothing():
    q, k, v, _ = inputs(1, 32, 2, 1, 8)
    segments = np.array([[1] * 10 + [2] * 12 + [0] * 10], np.int32)
    second = segments == 2
    noise = jnp.where(second, 0.0, 100.0)[..., None, None]
    changed = attention(q + noise, k + noise, v + noise, segments, "xla")
    assert np.array_equal(np.asarray(changed)[second], np.asarray(attention(q, k, v, segments, "xla"))[second])


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="is about a CPU")
@pytest.mark.parametrize("gradient", [False, True], ids=["values", "gradient"])
def test_on_a_cpu_the_memory_of_attention_grows_with_the_length_of_a_row(gradient):
    """What the compiler reserves; with all scores of a row in memory it would grow fourfold."""

    def peak(length: int) -> int:
        q, k = (jax.ShapeDtypeStruct((1, length, n, 8), jnp.float32) for n in (2, 1))
        segments = jax.ShapeDtypeStruct((1, length), jnp.int32)

        def loss(*qkv):
            return jnp.sum(attention(*qkv))

        compiled = jax.jit(jax.grad(loss) if gradient else attention).lower(q, k, k, segments).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert peak(16_384) < 2.2 * peak(8_192) < 2.2 * 8_192 * 600


@pytest.mark.parametrize(
    "platform,dtype,length,head_dim,kernel",
    [
        ("tpu", jnp.bfloat16, 1024, 128, "segments"),
        ("tpu", jnp.bfloat16, 1056, 128, "segments"),
        ("tpu", jnp.bfloat16, 4096, 128, "splash"),
        ("tpu", jnp.bfloat16, 100, 128, "xla"),
        ("tpu", jnp.bfloat16, 1024, 64, "xla"),
        ("gpu", jnp.bfloat16, 100, 128, "cudnn"),
        ("gpu", jnp.float32, 100, 128, "xla"),
        ("cpu", jnp.float32, 1024, 128, "xla"),
        ("cpu", jnp.float32, 1280, 128, "blocks"),
    ],
)
def test_auto_chooses_a_kernel_that_can_do_the_shape(platform, dtype, length, head_dim, kernel):
    q = jax.ShapeDtypeStruct((2, length, 4, head_dim), dtype)
    assert choose_kernel("auto", q, platform) == kernel


def test_an_unknown_kernel_is_refused():
    q, k, v, segments = inputs(1, 96, 2, 1, 8)
    with pytest.raises(UserError, match="did you mean 'splash'"):
        attention(q, k, v, segments, "spalsh")
