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


def divergence(x: dict, b: int, cosine, temperature: float, score_temperature: float):
    """Of a row, as a list of one number or of none; `cosine(k)` is that of its query and candidate k."""
    kept = [k for k in range(1 + J) if [True, *x["n_mask_bj"][b]][k] and not np.isnan(x["score_bk"][b, k])]
    if len(kept) < 2:
        return []
    cosines = torch.stack([cosine(k) for k in kept])
    target = F.softmax(torch.tensor(x["score_bk"][b, kept]) / score_temperature, dim=0)
    return [F.kl_div(F.log_softmax(cosines / temperature, dim=0), target, reduction="sum")]


def squared_margins(x: dict, b: int, cosine, temperature: float, score_temperature: float):
    """Likewise, for each negative of a row."""
    scores = torch.tensor(x["score_bk"][b])
    kept = [j for j in range(J) if x["n_mask_bj"][b, j] and not torch.isnan(scores[0] - scores[1 + j])]
    return [
        F.mse_loss((cosine(0) - cosine(1 + j)) / temperature, (scores[0] - scores[1 + j]) / score_temperature)
        for j in kept
    ]


TERMS = {"score_weight": divergence, "score_margin_weight": squared_margins}


def oracle(x: dict, term, dims, temperature: float, score_temperature: float):
    q, p, n = (torch.tensor(x[name], requires_grad=True) for name in "qpn")
    total = torch.zeros(())
    for rank, dim in enumerate(dims, 1):
        losses = []
        for b in range(B):
            documents = [p[b], *(n[b, j] for j in range(J))]

            def cosine(k, b=b, documents=documents, dim=dim):
                return F.cosine_similarity(q[b, :dim], documents[k][:dim], dim=0)

            if x["row_mask_b"][b]:
                losses += term(x, b, cosine, temperature, score_temperature)
        total = total + (dim / dims[0]) ** 0.5 / rank * torch.stack(losses).mean()
    total.backward()
    return total.item(), [t.grad.numpy() for t in (q, p, n)]


@pytest.mark.parametrize("kind", ["retrieval", "clustering"])
@pytest.mark.parametrize("dims", [(), (16, 8)], ids=["full", "nested"])
@pytest.mark.parametrize("score_temperature", [1.0, 3.0])
@pytest.mark.parametrize("name", TERMS)
def test_a_term_of_a_rerankers_scores(name, kind, dims, score_temperature):
    x = scored(16)
    changes = {"contrastive_weight": 0.0, name: 2.0, "score_temperature": score_temperature}
    config = loss_config(kind_temperatures=("clustering=0.1",), matryoshka_dims=dims, **changes)
    extra = {name: jnp.asarray(value) for name, value in x.items() if name not in "qpn"}

    def loss(embeddings):
        return batch_loss(embeddings, kind=kind, config=config, **extra)[0]

    value, grads = jax.jit(jax.value_and_grad(loss))(tuple(jnp.asarray(x[name]) for name in "qpn"))
    temperature = 0.1 if kind == "clustering" else 0.05
    expected, expected_grads = oracle(x, TERMS[name], dims or (16,), temperature, score_temperature)
    assert float(value) == pytest.approx(2 * expected, rel=1e-5)
    for ours, theirs in zip(grads, expected_grads, strict=True):
        assert np.abs(np.asarray(ours) - 2 * theirs).max() <= 1e-4 * np.abs(theirs).max()


@pytest.mark.parametrize("name", TERMS)
def test_a_batch_without_scores_adds_nothing(name):
    x = scored(16)
    x["score_bk"][:] = np.nan
    extra = {name: jnp.asarray(value) for name, value in x.items() if name not in "qpn"}
    embeddings = tuple(jnp.asarray(x[name]) for name in "qpn")
    config = loss_config(**{"contrastive_weight": 0.0, name: 1.0})
    loss = jax.value_and_grad(lambda e: batch_loss(e, kind="retrieval", config=config, **extra)[0])
    value, grads = jax.jit(loss)(embeddings)
    assert value == 0 and not any(np.asarray(grad).any() for grad in grads)
