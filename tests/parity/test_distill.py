"""Every distillation term against a PyTorch autograd oracle: values, gradients of the student and the projection."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from f2jax.train.losses import LossConfig
from f2jax.train.terms import batch_loss
from tests.tiny import loss_config

torch = pytest.importorskip("torch")
F = pytest.importorskip("torch.nn.functional")
pytestmark = pytest.mark.parity

B = 5
ALL = {
    "contrastive_weight": 0.0,
    "distill_weight": 0.7,
    "distill_hard_weight": 1.3,
    "distill_margin_weight": 0.01,
    "distill_in_batch_weight": 0.4,
    "distill_texts_weight": 0.9,
}


def example(student: int, teacher: int, slots: int, pairs: bool = True) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"q": (B,), "p": (B * pairs,), "n": (B, slots)}
    x = {f"s{name}": rng.normal(size=(*shape, student)).astype(np.float32) for name, shape in shapes.items()}
    x |= {f"t{name}": rng.normal(size=(*shape, teacher)).astype(np.float32) for name, shape in shapes.items()}
    x["w"] = rng.normal(size=(student, teacher)).astype(np.float32) / student**0.5
    x["n_mask"], x["rows"] = rng.random((B, slots)) < 0.7, np.array([True] * (B - 1) + [False])
    x["n_mask"][-1] = False
    count = B * (1 + pairs + slots)
    x["text"] = rng.integers(0, count, count).astype(np.int32)  # as many numbers as texts: some are equal
    repeated = {}
    for i, number in enumerate(x["text"]):  # equal texts have equal vectors
        name, place = text_place(i, slots)
        for who in "st":
            x[who + name][place] = repeated.setdefault((who, number), x[who + name][place].copy())
    return x


def text_place(i: int, slots: int):
    """Where text i of a batch lies: queries, positives, negatives row by row."""
    return ("q", i) if i < B else ("p", i - B) if i < 2 * B else ("n", divmod(i - 2 * B, slots))


def masks_and_numbers(x: dict) -> dict:
    arrays = {"n_mask_bj": x["n_mask"], "row_mask_b": x["rows"], "text_s": x["text"]}
    arrays |= {"label_b": np.full(B, -1), "positive_b": np.arange(B), "negative_bj": np.zeros(x["n_mask"].shape, int)}
    return {name: jnp.asarray(value) for name, value in arrays.items()}


def oracle(x: dict, config: LossConfig, projected: bool):
    """Vector by vector, row by row."""
    s = {name: torch.tensor(x["s" + name], requires_grad=True) for name in "qpn"}
    t = {name: torch.tensor(x["t" + name]) for name in "qpn"}
    w = torch.tensor(x["w"], requires_grad=True)
    rows = [b for b in range(B) if x["rows"][b]]
    slots = [(b, j) for b in rows for j in range(x["n_mask"].shape[1]) if x["n_mask"][b, j]]
    paired = [b for b in rows if b < len(x["sp"])]
    there = [("q", b) for b in rows] + [("p", b) for b in paired] + [("n", i) for i in slots]
    numbers = {text_place(i, x["n_mask"].shape[1]): number for i, number in enumerate(x["text"])}
    texts = [text for n, text in enumerate(there) if numbers[text] not in [numbers[other] for other in there[:n]]]
    assert 2 <= len(texts) < len(there)
    dims = config.matryoshka_dims if config.distill_matryoshka else (s["q"].shape[1],)
    total = torch.zeros(())
    for rank, dim in enumerate(dims, 1):

        def distance(a, b, dim=dim):
            a, b = (a[:dim] @ w[:dim], b) if projected else (a[:dim], b[:dim])
            return F.mse_loss(a, b) if config.distill == "mse" else 1 - F.cosine_similarity(a, b, dim=0)

        def divergence(anchor, names, dim=dim):
            """KL of the softmax over the candidates `names` of a text."""
            mine, theirs = (
                torch.stack([F.cosine_similarity(v[anchor[0]][anchor[1]][:d], v[n][i][:d], dim=0) for n, i in names])
                for v, d in ((s, dim), (t, t["q"].shape[1]))
            )
            mine = F.log_softmax(mine / config.distill_temperature, dim=0)
            theirs = F.log_softmax(theirs / (config.distill_teacher_temperature or config.distill_temperature), dim=0)
            return F.kl_div(mine, theirs, reduction="sum", log_target=True)

        def difference(b, j, dim=dim):
            """Of the margins of the two; sentence-transformers' MarginMSELoss."""
            mine, theirs = (
                (F.cosine_similarity(q[:d], p[:d], dim=0) - F.cosine_similarity(q[:d], n[:d], dim=0)) / temperature
                for (q, p, n), d, temperature in (
                    ((s["q"][b], s["p"][b], s["n"][b, j]), dim, config.distill_temperature),
                    (
                        (t["q"][b], t["p"][b], t["n"][b, j]),
                        t["q"].shape[1],
                        config.distill_teacher_temperature or config.distill_temperature,
                    ),
                )
            )
            return F.mse_loss(mine, theirs)

        pairs = {"q": rows, "p": paired, "n": slots}
        near = sum(
            torch.stack([distance(s[n][i], t[n][i]) for i in where]).mean() for n, where in pairs.items() if where
        )
        own = [divergence(("q", b), [("p", b), *(("n", i) for i in slots if i[0] == b)]) for b in paired]
        margins = [difference(b, j) for b, j in slots if b in paired]
        batch = [divergence(("q", b), [("p", c) for c in rows]) for b in paired]
        among = [divergence(text, [other for other in texts if other != text]) for text in texts]
        terms = (
            (near, config.distill_weight),
            (own, config.distill_hard_weight),
            (margins, config.distill_margin_weight),
            (batch, config.distill_in_batch_weight),
            (among, config.distill_texts_weight),
        )
        for term, factor in terms:
            if not factor or (isinstance(term, list) and not term):  # texts alone have no rows of pairs
                continue
            value = torch.stack(term).mean() if isinstance(term, list) else term
            total = total + (dim / dims[0]) ** 0.5 / rank * factor * value
    total.backward()
    return total.item(), [np.zeros(v.shape) if v.grad is None else v.grad.numpy() for v in (*s.values(), w)]


def assert_equal(x: dict, config: LossConfig, projected: bool):
    def loss(student, w):
        teacher = tuple(jnp.asarray(x["t" + name]) for name in "qpn")
        projection, kind = w if projected else None, "retrieval" if x["sp"].size else "texts"
        options = {"kind": kind, "config": config, "projection_er": projection}
        return batch_loss(student, teacher=teacher, **options, **masks_and_numbers(x))[0]

    student = tuple(jnp.asarray(x["s" + name]) for name in "qpn")
    value, (grads, grad_w) = jax.jit(jax.value_and_grad(loss, (0, 1)))(student, jnp.asarray(x["w"]))
    expected, expected_grads = oracle(x, config, projected)
    assert float(value) == pytest.approx(expected, rel=1e-5)
    for ours, theirs in zip((*grads, grad_w), expected_grads, strict=True):
        scale = max(np.abs(theirs).max(initial=0), 1e-3)
        assert np.abs(np.asarray(ours) - theirs).max(initial=0) <= 1e-4 * scale


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("dims", [(), (20, 8)], ids=["full", "nested"])
@pytest.mark.parametrize(("distance", "teacher_temperature"), [("mse", 0.0), ("cosine", 0.2)])
def test_all_terms_together(distance, teacher_temperature, dims, projected):
    """With and without negatives beside each pair of the others' settings."""
    slots = 3 * ((distance == "mse") ^ bool(dims) ^ projected)
    config = loss_config(matryoshka_dims=dims, distill=distance, distill_matryoshka=bool(dims), **ALL)
    assert_equal(example(20, 28, slots), replace(config, distill_teacher_temperature=teacher_temperature), projected)


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("dims", [(), (20, 8)], ids=["full", "nested"])
def test_texts_alone(dims, projected):
    """The terms that need no pairs are taken, and only those."""
    distance = "mse" if projected == bool(dims) else "cosine"
    config = loss_config(matryoshka_dims=dims, distill=distance, distill_matryoshka=bool(dims), **ALL)
    assert_equal(example(20, 28, 0, pairs=False), config, projected)


@pytest.mark.parametrize("term", [name for name, weight in ALL.items() if weight])
def test_each_term_alone(term):
    x = example(12, 12, 2)
    config = loss_config(**(dict.fromkeys(ALL, 0.0) | {term: 1.0}), distill_teacher_temperature=0.02)
    student, teacher = (tuple(jnp.asarray(x[who + name]) for name in "qpn") for who in "st")
    value, _ = batch_loss(student, teacher=teacher, kind="retrieval", config=config, **masks_and_numbers(x))
    assert float(value) == pytest.approx(oracle(x, config, False)[0], rel=1e-5)
