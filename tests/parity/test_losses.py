"""Every loss against a PyTorch autograd oracle written in the plain style of the reference: values and gradients."""

import functools
import itertools

import jax
import numpy as np
import pytest

from f2jax.model.nested import matryoshka_dims
from f2jax.train.losses import PAIRED, LossConfig
from f2jax.train.terms import batch_loss
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
        "text_s": np.array([0, 1, 2, 3, 1, 5, *range(6, B * (2 + slots))], np.int32),  # one query comes twice
    }


def row_loss(term: str, x: dict, b: int, rows: list[int], vectors: tuple, config: LossConfig, temperature):
    """InfoNCE of one row, from a list of logits."""
    qs, ps, ns = vectors
    positive, others = x["positive_b"][b], [c for c in rows if c != b]
    unlike = [c for c in others if x["label_b"][b] < 0 or x["label_b"][b] != x["label_b"][c]]
    apart = [c for c in unlike if x["positive_b"][c] != positive]

    def negatives(c, with_copies):
        present = [j for j in range(ns.shape[1]) if x["n_mask_bj"][c, j]]
        return [ns[c, j] for j in present if with_copies or x["negative_bj"][c, j] != positive]

    own = qs[b] @ ps[b]
    if term == "hard":
        candidates = [qs[b] @ v for v in negatives(b, not config.mask_duplicates)]
    elif term == "in_batch":
        docs = ps if config.passage_gradient else ps.detach()
        own, near = qs[b] @ docs[b], unlike if config.label_mask else others
        near = [c for c in near if not config.mask_duplicates or x["positive_b"][c] != positive]
        candidates = [qs[b] @ docs[c] for c in near]
    elif term == "shared":
        candidates = [qs[b] @ v for c in rows for v in negatives(c, False)]
    elif term == "queries":
        candidates = [qs[b] @ qs[c] for c in apart if x["text_s"][c] != x["text_s"][b]]
    else:
        candidates = [ps[b] @ ps[c] for c in apart]
    limit = own.item() + config.mask_margin
    kept = [score for score in candidates if config.mask_margin < 0 or score.item() <= limit]
    return F.cross_entropy(torch.stack([own, *kept])[None] / temperature, torch.tensor([0]))


def oracle(x: dict, kind: str, config: LossConfig, exponents: np.ndarray | None = None):
    """One row at a time; returns the loss and the gradients of q, p, n and the exponents."""
    q, p, n = (torch.tensor(x[name], requires_grad=True) for name in "qpn")
    trained = torch.tensor(np.zeros(len(PAIRED)) if exponents is None else exponents, requires_grad=True)
    temperature = dict(item.split("=") for item in config.kind_temperatures).get(kind, config.temperature)
    temperature = float(temperature) * torch.exp(trained[PAIRED.index(kind)])
    rows = [b for b in range(B) if x["row_mask_b"][b]]
    dims = config.matryoshka_dims or (q.shape[1],)
    factors = {"hard": config.contrastive_weight}
    if kind == "retrieval":
        factors |= {"in_batch": config.contrastive_weight, "shared": config.shared_negatives_weight}
        factors |= {"queries": config.query_query_weight, "documents": config.document_document_weight}
    total = torch.zeros(())
    for rank, dim in enumerate(dims, 1):
        weight = (dim / dims[0]) ** 0.5 / rank if config.matryoshka_weights == "sqrt_rank" else 1.0
        vectors = tuple(F.normalize(t[..., :dim], dim=-1) for t in (q, p, n))
        for term, factor in factors.items():
            if factor:
                losses = [row_loss(term, x, b, rows, vectors, config, temperature) for b in rows]
                total = total + weight * factor * torch.stack(losses).mean()
    total.backward()
    return total.item(), [np.zeros(t.shape) if t.grad is None else t.grad.numpy() for t in (q, p, n, trained)]


@functools.cache
def compiled(kind: str, config: LossConfig):
    """(embeddings, exponents, masks and numbers) → (loss, gradients of the first two)"""

    def loss(embeddings, exponents, extra):
        return batch_loss(embeddings, kind=kind, config=config, exponents=exponents, **extra)[0]

    return jax.jit(jax.value_and_grad(loss, (0, 1)))


def ours(x: dict, kind: str, config: LossConfig, exponents: np.ndarray | None = None):
    extra = {name: value for name, value in x.items() if name not in "qpn"}
    value, (grads, more) = compiled(kind, config)(tuple(x[name] for name in "qpn"), exponents, extra)
    return float(value), (*grads, np.zeros(len(PAIRED)) if more is None else more)


def assert_equal(x, kind, config, exponents: np.ndarray | None = None):
    value, grads = ours(x, kind, config, exponents)
    expected, expected_grads = oracle(x, kind, config, exponents)
    assert value == pytest.approx(expected, rel=1e-5, abs=1e-6)
    for ours_, theirs in zip(grads[: 3 if exponents is None else 4], expected_grads, strict=False):
        scale = max(np.abs(theirs).max(initial=0), 1e-3)
        assert np.abs(np.asarray(ours_) - theirs).max(initial=0) <= 1e-4 * scale


NEW = {"shared_negatives_weight": 0.5, "query_query_weight": 2.0, "document_document_weight": 0.3}


@pytest.mark.parametrize("mask_margin", [-1.0, 0.05])
@pytest.mark.parametrize("slots", [0, J])
@pytest.mark.parametrize("kind", ["retrieval", "clustering"])
def test_shared_negatives_queries_and_documents(kind, slots, mask_margin):
    """Together with the others; of clustering they are no part."""
    config = loss_config(matryoshka_dims=(20, 16, 8), mask_margin=mask_margin, **NEW)
    assert_equal(example(20, slots), kind, config)
    plain = oracle(example(20, slots), kind, loss_config(matryoshka_dims=(20, 16, 8), mask_margin=mask_margin))[0]
    assert (oracle(example(20, slots), kind, config)[0] > plain + 0.1) == (kind == "retrieval")


@pytest.mark.parametrize("term", NEW)
def test_each_of_them_alone(term):
    config = loss_config(contrastive_weight=0.0, **{term: 1.0})
    assert_equal(example(12, J), "retrieval", config)
    assert oracle(example(12, J), "retrieval", config)[0] > 0.01


@pytest.mark.parametrize("kind", PAIRED)
def test_temperatures_of_kinds_that_are_trained(kind):
    temperatures = ("clustering=0.1", "classification=0.3")
    config = loss_config(matryoshka_dims=(12, 8), kind_temperatures=temperatures, **NEW)
    assert_equal(example(12, J), kind, config, np.array([0.5, -0.3, 0.2], np.float32))


# Each width with each kind and with each number of negatives: the terms of a size know of neither.
@pytest.mark.parametrize("i,k", itertools.product(range(3), range(3)))
def test_kinds_widths_and_numbers_of_negatives(i, k):
    kind, width, slots = PAIRED[i], (8, 20, 48)[k], (0, 1, J)[(i + k) % 3]
    assert_equal(example(width, slots), kind, loss_config(matryoshka_dims=matryoshka_dims(width)))


SWITCHES = list(itertools.product([False, True], [False, True], [False, True], [-1.0, 0.05]))
# The first two are of terms that clustering lacks: both values of each are enough.
ALIKE = [
    ("clustering", copies == (margin > 0), copies != (margin > 0), copies, margin)
    for *_, copies, margin in SWITCHES[:4]
]


@pytest.mark.parametrize(
    "kind,passage_gradient,label_mask,mask_duplicates,mask_margin", [*(("retrieval", *one) for one in SWITCHES), *ALIKE]
)
def test_switches_in_all_combinations(kind, passage_gradient, label_mask, mask_duplicates, mask_margin):
    config = loss_config(
        matryoshka_dims=(24, 8),
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
