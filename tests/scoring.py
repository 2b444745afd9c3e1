# SPDX-License-Identifier: Apache-2.0
"""token_logprob as an operation of the engine in use, and in plain Python (R1), as in engines."""

import torch
from engines import F32, bits_of, op, sample
from fusedraw import reference_scores as r1
from hypothesis import strategies as st
from operations_r1 import mode_arguments, row_arguments, row_mask
from strategies import modes, param_rows, row_batches


def score(x, ids, params, mask=None, kept=(None, None), mode=0, entropy=True, grads=None):
    """logp, entropy, status and, with grads = (of logp, of entropy or None), the gradient."""
    logp, h, status, saved = op.token_logprob(x, ids, params, mask, *kept, mode, entropy)
    named = {"logp": logp, "entropy": h, "status": status}
    if grads is not None:
        named["grad"] = op.token_logprob_backward(*grads, x, ids, mask, *kept, saved)
    return named


def kept_of_row(kept, row):
    if kept[0] is None:
        return None
    begin, end = kept[1][row : row + 2].tolist()
    return kept[0][begin:end].tolist()


def score_r1(x, ids, params, mask=None, kept=(None, None), mode=0, entropy=True, grads=None):
    scores, slopes = [], []
    for row, line in enumerate(x.float().tolist()):
        arguments = {**row_arguments(params, row), **mode_arguments(mode)}
        arguments["mask"] = row_mask(mask, row, len(line))
        arguments["kept"] = kept_of_row(kept, row)
        scores.append(r1.score_row(line, ids[row].item(), entropy=entropy, **arguments))
        if grads is not None:
            g, h = (None if t is None else t[row].item() for t in grads)
            slopes.append(r1.score_grad_row(line, ids[row].item(), g, h, entropy=entropy, **arguments))
    named = {
        "logp": torch.tensor([s.logp for s in scores], dtype=F32),
        "entropy": torch.tensor([s.entropy for s in scores] if entropy else [], dtype=F32),
        "status": torch.tensor([s.status for s in scores], dtype=torch.uint8),
    }
    if grads is not None:
        named["grad"] = torch.tensor(slopes, dtype=F32).to(x.dtype)
    return named


def pack_kept(lists):
    """CSR of one list of ids per row."""
    sizes = torch.tensor([0, *(len(ids) for ids in lists)])
    return torch.tensor([i for ids in lists for i in ids], dtype=torch.int32), sizes.cumsum(0)


GRADS = st.sampled_from([0.0, 1.0, -1.0, 0.37, -2.5e3, 1e-30, 3e38])


@st.composite
def scored_batches(draw):
    """Rows, token ids, a recorded kept set or none, gradients."""
    rows = draw(row_batches(size=st.one_of(st.sampled_from([1, 2, 255, 256, 257, 513]), st.integers(1, 900))))
    n, v = rows.x.shape
    params, mode = draw(param_rows(n, v)), draw(modes)
    drawn = sample(rows.x, params, rows.keys, rows.mask, mode, bits_of("kept"))
    ids = drawn["ids"].clone()
    for row in range(n):
        if draw(st.booleans()):
            ids[row] = draw(st.integers(0, v - 1))
    kept, source = (None, None), draw(st.sampled_from(["filters", "filters", "drawn", "other"]))
    if source == "drawn":
        kept = drawn["kept_ids"], drawn["kept_offsets"]
    elif source == "other":
        chosen = st.lists(st.integers(0, v - 1), unique=True, max_size=40).map(sorted)
        kept = pack_kept([draw(chosen) for _ in range(n)])
    entropy = draw(st.booleans())
    g = torch.tensor([draw(GRADS) for _ in range(n)])
    h = torch.tensor([draw(GRADS) for _ in range(n)]) if entropy and draw(st.booleans()) else None
    return (rows.x, ids, params, rows.mask, kept, mode, entropy, (g, h)), rows
