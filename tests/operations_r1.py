# SPDX-License-Identifier: Apache-2.0
"""The operations of engines.py in plain Python (R1): the same arguments, the same dicts of tensors."""

import math

import torch
from engines import ALL, DTYPES, F32, ORDERS, OUTPUTS, SUPPORTS, TIES, make_keys, make_params
from fusedraw import reference as r1


def row_arguments(params, row):
    temperature, top_p, min_p, mix_eps, top_k = params[row % params.shape[0]].tolist()
    return {
        "temperature": temperature,
        "top_p": top_p,
        "min_p": min_p,
        "mix_eps": mix_eps,
        "top_k": top_k if math.isnan(top_k) else int(top_k),
    }


def mode_arguments(mode):
    return {
        "filter_order": ORDERS[mode & 3],
        "ties": TIES[mode >> 2 & 1],
        "mix_support": SUPPORTS[mode >> 3 & 1],
    }


def row_mask(mask, row, size):
    """A row's mask as a list of booleans, or None."""
    if mask is None:
        return None
    line = mask[row % mask.shape[0]] if mask.dim() == 2 else mask
    if mask.dtype == torch.bool:
        return line.tolist()
    words = line.tolist()
    return [bool(words[i >> 5] >> (i & 31) & 1) for i in range(size)]


def sample_r1(x, params=None, keys=None, mask=None, mode=0, outputs=ALL, top_n=0, forced_noise=None):
    params = make_params() if params is None else params
    keys = make_keys(x.shape[0]) if keys is None else keys
    results = [
        r1.sample_row(
            line,
            mask=row_mask(mask, row, len(line)),
            key=tuple(keys[row].tolist()),
            domain=mode >> 4 & 3,
            top_n=top_n,
            probs=bool(mode & 64),
            forced=forced_noise,
            **row_arguments(params, row),
            **mode_arguments(mode),
        )
        for row, line in enumerate(x.float().tolist())
    ]
    return tensors_of(results, outputs, top_n)


def tensors_of(results, outputs, top_n):
    """RowResults as named_outputs gives them."""
    named = {"ids": torch.tensor([r.id for r in results])}
    for i, name in enumerate(OUTPUTS):
        if not outputs >> i & 1:
            continue
        if name == "kept":
            named["kept_ids"] = torch.tensor([i for r in results for i in r.kept], dtype=torch.int32)
            sizes = torch.tensor([0, *(len(r.kept) for r in results)])
            named["kept_offsets"] = sizes.cumsum(0)
        else:
            named[name] = torch.tensor([getattr(r, name) for r in results], dtype=DTYPES.get(name, F32))
    if top_n > 0:
        named["top_ids"] = torch.tensor([r.top_ids for r in results])
        named["top_logps"] = torch.tensor([r.top_logps for r in results], dtype=F32)
    return named


def _rows_of(results, dtype):
    return {
        "out": torch.tensor([values for _, values in results], dtype=F32).to(dtype),
        "status": torch.tensor([status for status, _ in results], dtype=torch.uint8),
    }


def softmax_r1(x, temperature, mask=None, log=False):
    results = [
        r1.softmax_row(line, temperature[row % len(temperature)].item(), row_mask(mask, row, len(line)), log)
        for row, line in enumerate(x.float().tolist())
    ]
    return _rows_of(results, F32)


def keep_r1(x, params, mask=None, mode=0, renorm=False):
    results = []
    for row, line in enumerate(x.float().tolist()):
        arguments = {**row_arguments(params, row), **mode_arguments(mode)}
        arguments["mask"] = row_mask(mask, row, len(line))
        if renorm:
            results.append(r1.renorm_row(line, from_logits=not mode & 64, **arguments))
        else:
            results.append(r1.mask_row(line, keep_weightless=bool(mode & 256), **arguments))
    return _rows_of(results, F32 if renorm else x.dtype)


def multinomial_r1(p, keys, n, replacement):
    results = [
        r1.multinomial_row(line, n, replacement, tuple(keys[row].tolist()))
        for row, line in enumerate(p.float().tolist())
    ]
    return {
        "ids": torch.tensor([ids for _, ids in results]),
        "status": torch.tensor([status for status, _ in results], dtype=torch.uint8),
    }
