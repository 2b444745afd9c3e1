# SPDX-License-Identifier: Apache-2.0
"""coupled: the same rows drawn under several settings with the same noise."""

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._checks import LOGIT_DTYPES, check_mask, check_rows, listing
from ._device import kernel_device
from ._params import names_tuple
from .keys import resolve_keys
from .sampler import Sampler
from .sampling import SampleOutput

_OP = "coupled"
_NAMES = tuple(inspect.signature(Sampler).parameters)


class Coupled(NamedTuple):
    """S settings drawn on the same B rows; a 1-D input leaves out B."""

    ids: Tensor  # int64 [S, B]
    explored: Tensor  # bool [S, B]: the coin of mix_eps fired
    differs: Tensor  # bool [S, B]: another token than under the first setting
    outs: tuple[SampleOutput, ...]  # all that each setting returned


def coupled(logits: Tensor, *settings, keys=None, seed=None, step=0, generator=None, mask=None) -> Coupled:
    """Draw the same rows under several settings with common random numbers.

    Noise belongs to (key, token id) and not to parameters (docs/law.md), so settings that share keys share
    noise. Two that differ in mix_eps alone give the same token wherever the coin fired under both or under
    neither, and it fires under the larger mix_eps wherever it does under the smaller one: what differs is due
    to the exploring, and to nothing else. Settings that differ in temperature or filters are coupled too: the
    same noise makes equal tokens likelier than independent draws would.

    Args:
        logits: [B, V] or [V] as in `sample`.
        settings: two or more, each a `Sampler` or a dict of its arguments, of one `domain` (each has noise of
            its own). The first is the one that `differs` compares with.
        keys, seed, step, generator, mask: as in `sample`, common to all settings; a generator is asked once.

    Raises:
        TypeError, ValueError: fewer than two settings, names that `Sampler` does not know, two domains, and
            whatever `sample` refuses.
    """
    if len(settings) < 2:
        raise ValueError(f"{_OP}: needs at least two settings, got {len(settings)}")
    arguments = [_arguments_of(number, setting) for number, setting in enumerate(settings)]
    domains = {setting.get("domain", "target") for setting in arguments}
    if len(domains) > 1:
        raise ValueError(
            f"{_OP}: settings must share one domain (noise differs between them), got {sorted(domains)}"
        )
    check_rows(_OP, "logits", logits, LOGIT_DTYPES)
    check_mask(_OP, mask, 1 if logits.dim() == 1 else logits.shape[0], logits.shape[-1], logits.device)
    draws = [Sampler(**setting) for setting in arguments]  # checks the values, before a generator moves
    keys = _common_keys(logits, keys, seed, step, generator)
    outs = tuple([draw(logits, keys=keys, mask=mask) for draw in draws])
    ids = torch.stack([out.ids for out in outs])
    explored = torch.stack([out.explored for out in outs])
    return Coupled(ids, explored, ids != ids[0], outs)


def _arguments_of(number: int, setting) -> dict[str, Any]:
    """A setting as arguments of `Sampler` that ask for `explored`."""
    if isinstance(setting, Sampler):
        arguments = setting.settings()
    elif isinstance(setting, Mapping):
        arguments = dict(setting)
    else:
        raise TypeError(
            f"{_OP}: settings[{number}] must be a dict or a Sampler, got {type(setting).__name__}"
        )
    for name in arguments:
        if name not in _NAMES:
            raise TypeError(f"{_OP}: settings[{number}] may hold {listing(_NAMES)}, got {name!r}")
    returns = names_tuple(_OP, arguments.get("returns", ()))
    arguments["returns"] = returns if "explored" in returns else (*returns, "explored")
    return arguments


def _common_keys(logits: Tensor, keys, seed, step, generator) -> Tensor:
    """The given keys, or keys made once for all settings: [B, 2], or [2] for one row."""
    one_row = logits.dim() == 1
    if keys is None:
        # Rows of the same number on a device that has kernels: all that making keys asks of them.
        home, device = logits.device, kernel_device(logits.device)
        rows = torch.empty((1 if one_row else logits.shape[0], 1), device=device)
        keys = resolve_keys(_OP, rows, None, seed, step, generator, one_row).to(home)
        return keys[0] if one_row else keys
    resolve_keys(_OP, logits.unsqueeze(0) if one_row else logits, keys, seed, step, generator, one_row)
    return keys
