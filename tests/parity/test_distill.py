"""Every distillation term against a PyTorch autograd oracle: values, gradients of the student and the projection."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from f2jax.train.distill import distill_loss
from f2jax.train.losses import LossConfig
from tests.tiny import loss_config

torch = pytest.importorskip("torch")
F = pytest.importorskip("torch.nn.functional")
pytestmark = pytest.mark.parity

B = 5
ALL = {"distill_weight": 0.7, "distill_hard_weight": 1.3, "distill_in_batch_weight": 0.4}


def example(student: int, teacher: int, slots: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"q": (B,), "p": (B,), "n": (B, slots)}
    x = {f"s{name}": rng.normal(size=(*shape, student)).astype(np.float32) for name, shape in shapes.items()}
    x |= {f"t{name}": rng.normal(size=(*shape, teacher)).astype(np.float32) for name, shape in shapes.items()}
    x["w"] = rng.normal(size=(student, teacher)).astype(np.float32) / student**0.5
    x["n_mask"], x["rows"] = rng.random((B, slots)) < 0.7, np.array([True] * (B - 1) + [False])
    x["n_mask"][-1] = False
    return x


def oracle(x: dict, config: LossConfig, projected: bool):
    """Vector by vector, row by row."""
    s = {name: torch.tensor(x["s" + name], requires_grad=True) for name in "qpn"}
    t = {name: torch.tensor(x["t" + name]) for name in "qpn"}
    w = torch.tensor(x["w"], requires_grad=True)
    rows = [b for b in range(B) if x["rows"][b]]
    slots = [(b, j) for b in rows for j in range(x["n_mask"].shape[1]) if x["n_mask"][b, j]]
    dims = config.matryoshka_dims if config.distill_matryoshka else (s["q"].shape[1],)
    total = torch.zeros(())
    for rank, dim in enumerate(dims, 1):

        def distance(a, b, dim=dim):
            a, b = (a[:dim] @ w[:dim], b) if projected else (a[:dim], b[:dim])
            return F.mse_loss(a, b) if config.distill == "mse" else 1 - F.cosine_similarity(a, b, dim=0)

        def divergence(b, names, dim=dim):
            """KL of the softmax over the candidates `names` of row b."""
            mine, theirs = (
                torch.stack([F.cosine_similarity(v["q"][b, :d], v[n][i][:d], dim=0) for n, i in names])
                for v, d in ((s, dim), (t, t["q"].shape[1]))
            )
            mine, theirs = (F.log_softmax(v / config.distill_temperature, dim=0) for v in (mine, theirs))
            return F.kl_div(mine, theirs, reduction="sum", log_target=True)

        pairs = {"q": rows, "p": rows, "n": slots}
        near = sum(
            torch.stack([distance(s[n][i], t[n][i]) for i in where]).mean() for n, where in pairs.items() if where
        )
        own = [divergence(b, [("p", b), *(("n", i) for i in slots if i[0] == b)]) for b in rows]
        batch = [divergence(b, [("p", c) for c in rows]) for b in rows]
        terms = (
            (near, config.distill_weight),
            (own, config.distill_hard_weight),
            (batch, config.distill_in_batch_weight),
        )
        for term, factor in terms:
            value = torch.stack(term).mean() if isinstance(term, list) else term
            total = total + (dim / dims[0]) ** 0.5 / rank * factor * value
    total.backward()
    return total.item(), [np.zeros(v.shape) if v.grad is None else v.grad.numpy() for v in (*s.values(), w)]


@pytest.mark.parametrize("slots", [0, 3])
@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("dims", [(), (20, 16, 8)], ids=["full", "nested"])
@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_all_terms_together(distance, dims, projected, slots):
    x = example(20, 28, slots)
    config = loss_config(matryoshka_dims=dims, distill=distance, distill_matryoshka=bool(dims), **ALL)

    def loss(student, w):
        teacher = tuple(jnp.asarray(x["t" + name]) for name in "qpn")
        masks = {"n_mask_bj": jnp.asarray(x["n_mask"]), "row_mask_b": jnp.asarray(x["rows"])}
        return distill_loss(student, teacher, config=config, projection_er=w if projected else None, **masks)[0]

    student = tuple(jnp.asarray(x["s" + name]) for name in "qpn")
    value, (grads, grad_w) = jax.jit(jax.value_and_grad(loss, (0, 1)))(student, jnp.asarray(x["w"]))
    expected, expected_grads = oracle(x, config, projected)
    assert float(value) == pytest.approx(expected, rel=1e-5)
    for ours, theirs in zip((*grads, grad_w), expected_grads, strict=True):
        scale = max(np.abs(theirs).max(initial=0), 1e-3)
        assert np.abs(np.asarray(ours) - theirs).max(initial=0) <= 1e-4 * scale


@pytest.mark.parametrize("term", ALL)
def test_each_term_alone(term):
    x = example(12, 12, 2)
    config = loss_config(**(dict.fromkeys(ALL, 0.0) | {term: 1.0}))
    masks = {"n_mask_bj": jnp.asarray(x["n_mask"]), "row_mask_b": jnp.asarray(x["rows"])}
    student, teacher = (tuple(jnp.asarray(x[who + name]) for name in "qpn") for who in "st")
    value, _ = distill_loss(student, teacher, config=config, **masks)
    assert float(value) == pytest.approx(oracle(x, config, False)[0], rel=1e-5)
