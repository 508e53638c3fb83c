"""The term that learns from a reranker's scores, against PyTorch: value and gradients, row by row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from f2jax.train.terms import batch_loss
from tests.parity.test_losses import B, J, example
from tests.tiny import loss_config

torch = pytest.importorskip("torch")
F = pytest.importorskip("torch.nn.functional")
pytestmark = pytest.mark.parity


def scored(width: int) -> dict[str, np.ndarray]:
    """Rows with all scores, with some, with one alone, and with none."""
    x = example(width, J)
    scores = np.random.default_rng(1).normal(size=(B, 1 + J)).astype(np.float32) * 4
    scores[0, 1] = np.nan
    scores[3] = np.nan
    scores[4, 1:] = np.nan
    return x | {"score_bk": scores}


def oracle(x: dict, dims, temperature: float, score_temperature: float):
    q, p, n = (torch.tensor(x[name], requires_grad=True) for name in "qpn")
    total = torch.zeros(())
    for rank, dim in enumerate(dims, 1):
        losses = []
        for b in range(B):
            documents = [p[b], *(n[b, j] for j in range(J))]
            present = [True, *x["n_mask_bj"][b]]
            kept = [k for k in range(1 + J) if present[k] and not np.isnan(x["score_bk"][b, k])]
            if not x["row_mask_b"][b] or len(kept) < 2:
                continue
            cosines = torch.stack([F.cosine_similarity(q[b, :dim], documents[k][:dim], dim=0) for k in kept])
            target = F.softmax(torch.tensor(x["score_bk"][b, kept]) / score_temperature, dim=0)
            losses.append(F.kl_div(F.log_softmax(cosines / temperature, dim=0), target, reduction="sum"))
        total = total + (dim / dims[0]) ** 0.5 / rank * torch.stack(losses).mean()
    total.backward()
    return total.item(), [t.grad.numpy() for t in (q, p, n)]


@pytest.mark.parametrize("kind", ["retrieval", "clustering"])
@pytest.mark.parametrize("dims", [(), (16, 8)], ids=["full", "nested"])
@pytest.mark.parametrize("score_temperature", [1.0, 3.0])
def test_the_divergence_from_a_rerankers_scores(kind, dims, score_temperature):
    x = scored(16)
    changes = {"contrastive_weight": 0.0, "score_weight": 2.0, "score_temperature": score_temperature}
    config = loss_config(kind_temperatures=("clustering=0.1",), matryoshka_dims=dims, **changes)
    extra = {name: jnp.asarray(value) for name, value in x.items() if name not in "qpn"}

    def loss(embeddings):
        return batch_loss(embeddings, kind=kind, config=config, **extra)[0]

    value, grads = jax.jit(jax.value_and_grad(loss))(tuple(jnp.asarray(x[name]) for name in "qpn"))
    expected, expected_grads = oracle(x, dims or (16,), 0.1 if kind == "clustering" else 0.05, score_temperature)
    assert float(value) == pytest.approx(2 * expected, rel=1e-5)
    for ours, theirs in zip(grads, expected_grads, strict=True):
        assert np.abs(np.asarray(ours) - 2 * theirs).max() <= 1e-4 * np.abs(theirs).max()


def test_a_batch_without_scores_adds_nothing():
    x = scored(16)
    x["score_bk"][:] = np.nan
    extra = {name: jnp.asarray(value) for name, value in x.items() if name not in "qpn"}
    embeddings = tuple(jnp.asarray(x[name]) for name in "qpn")
    config = loss_config(contrastive_weight=0.0, score_weight=1.0)
    value, grads = jax.value_and_grad(lambda e: batch_loss(e, kind="retrieval", config=config, **extra)[0])(embeddings)
    assert value == 0 and not any(np.asarray(grad).any() for grad in grads)
