"""Every loss against a PyTorch autograd oracle written in the plain style of the reference: values and gradients."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from f2jax.model.nested import matryoshka_dims
from f2jax.train.losses import LossConfig, contrastive_loss
from tests.tiny import loss_config

torch = pytest.importorskip("torch")
F = pytest.importorskip("torch.nn.functional")
pytestmark = pytest.mark.parity

B, J = 6, 3


def example(width: int, slots: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Raw embeddings with near duplicates, so that margins matter; labels, documents and masks with every case."""
    rng = np.random.default_rng(seed)
    q = rng.normal(size=(B, width)).astype(np.float32)
    n_mask = rng.random((B, slots)) < 0.7
    if slots:
        n_mask[2] = False  # a row without negatives
    return {
        "q": q,
        "p": (q + 0.7 * rng.normal(size=(B, width))).astype(np.float32),
        "n": (q[:, None] + rng.normal(size=(B, slots, width))).astype(np.float32),
        "n_mask_bj": n_mask,
        "row_mask_b": np.array([True] * (B - 1) + [False]),  # the last batch of an epoch
        "label_b": np.array([0, 0, -1, -1, 2, 3], np.int32),
        "positive_b": np.array([0, 1, 2, 2, 4, 5], np.int32),
        "negative_bj": rng.integers(0, 8, (B, slots)).astype(np.int32),
    }


def oracle(x: dict, kind: str, config: LossConfig):
    """One row at a time, with lists of logits; returns the loss and the gradients of q, p and n."""
    q, p, n = (torch.tensor(x[name], requires_grad=True) for name in "qpn")
    rows = [b for b in range(B) if x["row_mask_b"][b]]
    dims = config.matryoshka_dims or (q.shape[1],)
    total = torch.zeros(())
    for rank, dim in enumerate(dims, 1):
        weight = (dim / dims[0]) ** 0.5 / rank if config.matryoshka_weights == "sqrt_rank" else 1.0
        qs, ps, ns = (F.normalize(t[..., :dim], dim=-1) for t in (q, p, n))
        hard, in_batch = [], []
        for b in rows:
            own = qs[b] @ ps[b]

            def allowed(score, own=own):
                return config.mask_margin < 0 or score.item() <= own.item() + config.mask_margin

            logits = [own]
            for j in range(ns.shape[1]):
                duplicate = config.mask_duplicates and x["negative_bj"][b, j] == x["positive_b"][b]
                if x["n_mask_bj"][b, j] and not duplicate and allowed(qs[b] @ ns[b, j]):
                    logits.append(qs[b] @ ns[b, j])
            hard.append(F.cross_entropy(torch.stack(logits)[None] / config.temperature, torch.tensor([0])))
            logits = [own if config.passage_gradient else qs[b] @ ps[b].detach()]
            for c in rows:
                same = config.label_mask and x["label_b"][b] >= 0 and x["label_b"][b] == x["label_b"][c]
                duplicate = config.mask_duplicates and x["positive_b"][b] == x["positive_b"][c]
                if c != b and not same and not duplicate and allowed(qs[b] @ ps[c]):
                    logits.append(qs[b] @ (ps[c] if config.passage_gradient else ps[c].detach()))
            in_batch.append(F.cross_entropy(torch.stack(logits)[None] / config.temperature, torch.tensor([0])))
        total = total + weight * torch.stack(hard).mean()
        if kind == "retrieval":
            total = total + weight * torch.stack(in_batch).mean()
    total.backward()
    return total.item(), [np.zeros(t.shape) if t.grad is None else t.grad.numpy() for t in (q, p, n)]


def ours(x: dict, kind: str, config: LossConfig):
    extra = {name: jnp.asarray(value) for name, value in x.items() if name not in "qpn"}

    def loss(embeddings):
        return contrastive_loss(*embeddings, kind=kind, config=config, **extra)[0]

    value, grads = jax.jit(jax.value_and_grad(loss))(tuple(jnp.asarray(x[name]) for name in "qpn"))
    return float(value), grads


def assert_equal(x, kind, config):
    value, grads = ours(x, kind, config)
    expected, expected_grads = oracle(x, kind, config)
    assert value == pytest.approx(expected, rel=1e-5, abs=1e-6)
    for ours_, theirs in zip(grads, expected_grads, strict=True):
        scale = max(np.abs(theirs).max(initial=0), 1e-3)
        assert np.abs(np.asarray(ours_) - theirs).max(initial=0) <= 1e-4 * scale


@pytest.mark.parametrize("kind", ["retrieval", "clustering", "classification"])
@pytest.mark.parametrize("width", [8, 20, 48])
@pytest.mark.parametrize("slots", [0, 1, J])
def test_kinds_widths_and_numbers_of_negatives(kind, width, slots):
    assert_equal(example(width, slots), kind, loss_config(matryoshka_dims=matryoshka_dims(width)))


SWITCHES = list(itertools.product([False, True], [False, True], [False, True], [-1.0, 0.05]))


@pytest.mark.parametrize("passage_gradient,label_mask,mask_duplicates,mask_margin", SWITCHES)
@pytest.mark.parametrize("kind", ["retrieval", "clustering"])
def test_switches_in_all_combinations(kind, passage_gradient, label_mask, mask_duplicates, mask_margin):
    config = loss_config(
        matryoshka_dims=(24, 16, 8),
        passage_gradient=passage_gradient,
        label_mask=label_mask,
        mask_duplicates=mask_duplicates,
        mask_margin=mask_margin,
    )
    for seed in range(3):
        assert_equal(example(24, J, seed), kind, config)


@pytest.mark.parametrize("temperature", [0.01, 0.05, 1.0])
@pytest.mark.parametrize("scheme", ["sqrt_rank", "uniform"])
def test_temperatures_and_weights(temperature, scheme):
    config = loss_config(temperature=temperature, matryoshka_dims=(20, 16, 8), matryoshka_weights=scheme)
    assert_equal(example(20, J), "retrieval", config)


@pytest.mark.parametrize("kind", ["retrieval", "clustering"])
@pytest.mark.parametrize("dims", [(20,), (20, 16, 8)])
def test_spreading_out_counts_pairs_without_a_common_label_or_positive(kind, dims):
    x = example(20, J)
    plain, spread = (loss_config(matryoshka_dims=dims, spread_weight=weight) for weight in (0.0, 3.0))
    (base, base_grads), (value, grads) = ours(x, kind, plain), ours(x, kind, spread)

    q, p = (torch.tensor(x[name], requires_grad=True) for name in "qp")
    pairs = [
        (b, c)
        for b, c in itertools.permutations(range(B - 1), 2)
        if not (x["label_b"][b] >= 0 and x["label_b"][b] == x["label_b"][c])
        and x["positive_b"][b] != x["positive_b"][c]
    ]
    assert 0 < len(pairs) < (B - 1) * (B - 2)
    total = 0.0
    for rank, dim in enumerate(dims, 1):
        for unit in (F.normalize(t[:, :dim], dim=1) for t in (q, p)):
            total = total + 3 * (dim / 20) ** 0.5 / rank * sum((unit[b] @ unit[c]) ** 2 for b, c in pairs) / len(pairs)
    total.backward()
    assert value - base == pytest.approx(total.item(), rel=1e-4)
    for ours_, before, theirs in zip(grads, base_grads, (q.grad, p.grad), strict=False):
        np.testing.assert_allclose(np.asarray(ours_) - np.asarray(before), theirs, atol=2e-5)
