"""All terms of the loss by name, and their weighted sum for a batch.

A new term is one function with the arguments of `losses.hard_term`, and one line in `TERMS`. Letters as in `losses`; m
are the Matryoshka sizes.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from f2jax.data.record import KINDS
from f2jax.errors import UserError
from f2jax.train import distill, losses
from f2jax.train.losses import PAIRED, LossConfig, Relations, kind_temperature, matryoshka_weights, nested_sum

RETRIEVAL = ("retrieval",)


@dataclass(frozen=True)
class Term:
    """A part of the loss of a batch; its metric is `loss_<name>`, at the full width and without the weight."""

    name: str
    loss: Callable  # (student, relations, config) → scalar
    weight: str  # the field of `LossConfig` that holds it; 0: the term is not computed
    kinds: tuple[str, ...] = PAIRED  # of the rows that it is taken of
    negatives: bool = False  # it needs rows with negatives, and is 0 without
    scored: bool = False  # it needs rows with scores of a reranker
    distills: bool = False  # it needs a teacher, and is taken at the full width alone unless `distill_matryoshka`

    def weight_of(self, kind: str, config: LossConfig) -> float:
        """Returns its weight in the loss of rows of a kind."""
        return getattr(config, self.weight) if kind in self.kinds else 0.0


TERMS = (
    Term("hard", losses.hard_term, "contrastive_weight", negatives=True),
    Term("in_batch", losses.in_batch_term, "contrastive_weight", RETRIEVAL),
    Term("shared", losses.shared_term, "shared_negatives_weight", RETRIEVAL, negatives=True),
    Term("queries", losses.query_term, "query_query_weight", RETRIEVAL),
    Term("documents", losses.document_term, "document_document_weight", RETRIEVAL),
    Term("scores", distill.given_score_term, "score_weight", negatives=True, scored=True),
    Term("score_margins", distill.given_margin_term, "score_margin_weight", negatives=True, scored=True),
    Term("spread", losses.spread_term, "spread_weight", KINDS),
    Term("distill", distill.embedding_term, "distill_weight", KINDS, distills=True),
    Term("distill_hard", distill.hard_score_term, "distill_hard_weight", negatives=True, distills=True),
    Term("distill_margins", distill.margin_term, "distill_margin_weight", negatives=True, distills=True),
    Term("distill_in_batch", distill.in_batch_score_term, "distill_in_batch_weight", distills=True),
    Term("distill_texts", distill.text_score_term, "distill_texts_weight", KINDS, distills=True),
)


def batch_loss(
    student, *, kind: str, config: LossConfig, teacher=(), projection_er=None, exponents=None, **masks_and_numbers
):
    """Returns the loss of a batch and its metrics.

        Σ over TERMS of weight · Σ over Matryoshka sizes of sqrt(dim / width) / rank · term

    The kind of the rows decides on the terms (recipe 2.4): `retrieval` learns from own negatives and in-batch,
    `clustering` and `classification` from own negatives alone. All kinds of pairs are distilled alike: the teacher, not
    a label, says which candidates are near. `texts` have no pairs and no term that needs them.
    Metrics, all at the full width: `loss_<term>`, `temperature/<kind>` where it is trained, and `accuracy`, see
    `losses.accuracy`.

    >>> loss, metrics = batch_loss((q_be, p_be, n_bje), kind="retrieval", config=config, **masks_and_numbers)

    Args:
        student: raw embeddings (q_be, p_be, n_bje) of queries, positives and negatives; of `texts` p is [0, E].
        teacher: likewise (q_br, p_br, n_bjr); (): there is none. projection_er: see `distill.embedding_loss`.
        exponents: of temperatures that are trained, see `trained_temperature`.
        masks_and_numbers: n_mask_bj and row_mask_b, False where a slot or a row is absent; label_b, -1 for none;
            positive_b and negative_bj, document numbers; text_s, numbers of all texts: equal ones have equal numbers;
            score_bk, a reranker's scores, NaN for none, where `learns_scores` of `data.loader` holds.
    """
    embeddings = [x.astype(jnp.float32) for x in student]  # the gradients of all terms add up in it too
    width = embeddings[0].shape[-1]
    metrics: dict[str, jax.Array] = {}
    temperature: Any = kind_temperature(kind, config)
    if exponents is not None and kind in PAIRED:
        metrics[f"temperature/{kind}"] = temperature = losses.trained_temperature(kind, config, exponents)
    relations = Relations.of(
        config,
        temperature=temperature,
        teacher=jax.lax.stop_gradient(tuple(teacher)),
        projection_er=projection_er,
        **masks_and_numbers,
    )
    loss: Any = 0.0
    for term in TERMS:
        weight = term.weight_of(kind, config)
        if not weight or (term.distills and not teacher):
            continue
        nested = config.matryoshka_dims and (config.distill_matryoshka or not term.distills)
        dims = config.matryoshka_dims if nested else (width,)

        def at_size(*cut, term=term):
            return term.loss(cut, relations, config)

        loss += weight * nested_sum(at_size, embeddings, dims, matryoshka_weights(dims, config.matryoshka_weights))
        metrics[f"loss_{term.name}"] = at_size(*embeddings)
    if kind in PAIRED:
        metrics["accuracy"] = losses.accuracy(embeddings, relations, kind, config)
    return loss, metrics


def check_learned(
    group: Mapping[str, Any],
    kinds: Mapping[str, str],
    has_teacher: bool,
    scored: Collection[str] = (),
    bare: Collection[str] = (),
) -> None:
    """Raises UserError where no term learns from the rows of a data set; to be spread out alone is to learn nothing.

    Args:
        group: `loss` of a config.
        kinds: of the rows of each data set.
        scored: the data sets that have scores of a reranker.
        bare: the kinds of rows that have no negatives in this run.
    """
    for term in TERMS:
        if term.scored and group[term.weight] and not scored:
            raise UserError(
                f"loss.{term.weight} is set and no row has scores; give the rows a column scores, or set it to 0."
            )
    for name, kind in kinds.items():
        terms = [term for term in TERMS if kind in term.kinds and term.name != "spread"]
        terms = [term for term in terms if name in scored or not term.scored]
        needy = [term for term in terms if term.negatives and kind in bare]
        terms = [term for term in terms if term not in needy]
        if any(group[term.weight] and (has_teacher or not term.distills) for term in terms):
            continue
        own, taught = (
            " or ".join(dict.fromkeys(f"loss.{term.weight}" for term in terms if term.distills == distills))
            for distills in (False, True)
        )
        raise UserError(
            f"No term of the loss learns from the data set {name}, whose kind is {kind}"
            f"{f' and which has no negatives (see data.negatives.{kind})' if needy else ''}; set {own}{own and ', or '}"
            f"teacher.path or teacher.cache with {taught}, or leave it out by data.exclude."
        )
