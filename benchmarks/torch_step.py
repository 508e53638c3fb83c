"""The reference's training step in PyTorch, on padded batches, to compare our numbers and times with."""

import numpy as np
import torch
import torch.nn.functional as F


def embed(model, texts: list[np.ndarray]) -> torch.Tensor:
    """Returns the states of the last tokens, [texts, width], for token ids that are padded to the longest text."""
    longest = max(map(len, texts))
    ids = torch.tensor(np.stack([np.pad(t, (0, longest - len(t))) for t in texts]), device=model.device).long()
    lengths = torch.tensor([len(t) for t in texts], device=model.device)
    mask = torch.arange(longest, device=model.device) < lengths[:, None]
    states = model(ids, attention_mask=mask.long(), use_cache=False).last_hidden_state
    return states[torch.arange(len(texts), device=model.device), lengths - 1]


def loss(model, rows, kind: str, dims, weights, temperature: float = 0.05) -> torch.Tensor:
    """Returns InfoNCE over hard negatives and, for retrieval, over the batch, at each nested dimension (recipe 2.4).

    As in the reference, gathered passages get no gradient.
    """
    queries, positives = embed(model, [r.query for r in rows]), embed(model, [r.positive for r in rows])
    negatives = embed(model, [t for r in rows for t in r.negatives]).unflatten(0, (len(rows), -1))
    total = torch.zeros((), device=model.device)
    for dim, weight in zip(dims, weights, strict=True):
        q_be, p_be, n_bje = (F.normalize(x[..., :dim].float(), dim=-1) for x in (queries, positives, negatives))
        hard_bj = torch.cat([(q_be * p_be).sum(-1, keepdim=True), torch.einsum("be,bje->bj", q_be, n_bje)], 1)
        first = torch.zeros(len(rows), dtype=torch.long, device=model.device)
        total = total + weight * F.cross_entropy(hard_bj / temperature, first)
        if kind == "retrieval":
            own = torch.arange(len(rows), device=model.device)
            total = total + weight * F.cross_entropy(q_be @ p_be.detach().T / temperature, own)
    return total


def step(model, optimizer, clip_norm: float, *args) -> float:
    """Takes an optimizer step and returns the loss before it; the arguments after the norm are those of `loss`."""
    optimizer.zero_grad()
    value = loss(model, *args)
    value.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    return value.item()
