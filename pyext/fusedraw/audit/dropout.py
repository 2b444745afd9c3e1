# SPDX-License-Identifier: Apache-2.0
"""mc_dropout: a model that has no dropout becomes an ensemble of thinned ones, one a seed.

laws = []
for seed in range(8):
    with mc_dropout(model, 0.1, seed):
        laws.append(model(ids).logits)
mutual_information(torch.stack(laws))      # of `uncertainty`: what the thinned models disagree about
"""

import contextlib
import numbers
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from ..keys import derive_keys
from ..sampling import sample_probs

# Last part of the names of feed-forward blocks in transformers' models (of OPT, BART: their second layer).
BLOCKS = ("mlp", "ffn", "feed_forward", "DenseReluDense", "block_sparse_moe", "fc2")
# The offset of a mask's keys. The offset of a token's key is its position in the text, and reaches no such
# number: masks and draws of one seed are independent.
_STEP = 2**63 + 0x4D43


def mc_dropout(
    model: nn.Module, rate: float, seed: int, layers: Sequence[str] | Callable | None = None
) -> contextlib.AbstractContextManager[list[str]]:
    """While the context is open, units of the chosen layers' outputs are 0 with probability `rate`, and the
    others scaled by 1 / (1 - rate): one thinned model for each seed (Gal and Ghahramani 2016).

    A mask is a function of seed, layer and unit, and of nothing else: all rows, positions and calls share it,
    as in Gal and Ghahramani's dropout for sequences. So no mask depends on batch, padding or cache, and a
    whole output comes from one member. Unit u of layer number l is dropped where `fusedraw.sample_probs` of
    [rate, 1 - rate] draws 0 with the key of (seed, u, l), which no draw of a token with this seed has.

    A model that was not trained with dropout bears little of it: SmolLM2-135M's thinned models disagree by
    0.1 nats at rate 0.01 and 0.6 at 0.05 about a first token, and at 0.1 some of them lose the thread. The
    figure is one of the rate: compare prompts at the same.

    Nothing but the hooks is changed, and they are gone after the context, also after an exception. Dropout
    layers of the model's own stay as its mode says (off in eval()). Rate 0 changes no bit.

    Args:
        model: any torch module.
        rate: in [0, 1).
        seed: int, mod 2^64.
        layers: names as in model.named_modules(); or a function (name, module) -> bool; None: the outermost
            modules whose name ends in one of BLOCKS. Layers are numbered in the order of named_modules(),
            those chosen alone. A layer must return a float tensor [..., units], or a tuple that begins with
            one.

    Returns: a context manager that gives the names of the layers.
    Raises: TypeError and ValueError at the call, before anything is changed: for a rate outside [0, 1), names
        that the model lacks, and where nothing is chosen.
    """
    op = "mc_dropout"
    if not isinstance(model, nn.Module):
        raise TypeError(f"{op}: model must be a torch.nn.Module, got {type(model).__name__}")
    if isinstance(rate, bool) or not isinstance(rate, numbers.Real):
        raise TypeError(f"{op}: rate must be a number, got {type(rate).__name__}")
    if not 0 <= rate < 1:
        raise ValueError(f"{op}: rate must be in [0, 1), got {rate}")
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral):
        raise TypeError(f"{op}: seed must be an int, got {type(seed).__name__}")
    return _thinned(_chosen(op, model, layers), float(rate), int(seed))


@contextlib.contextmanager
def _thinned(layers: dict[str, nn.Module], rate: float, seed: int) -> Iterator[list[str]]:
    with contextlib.ExitStack() as hooks:
        for number, module in enumerate(layers.values()):
            if rate > 0:
                handle = module.register_forward_hook(_Mask(rate, seed, number))
                hooks.callback(handle.remove)
        yield list(layers)


class _Mask:
    """The forward hook of a layer. Its mask is made when the first output shows how many units there are."""

    def __init__(self, rate: float, seed: int, number: int):
        self._rate, self._seed, self._number = rate, seed, number
        self._made: dict[tuple, Tensor] = {}

    def __call__(self, module, inputs, output):
        if isinstance(output, tuple) and output:
            return (self(module, inputs, output[0]), *output[1:])
        if not isinstance(output, Tensor) or not output.is_floating_point() or output.dim() < 1:
            raise TypeError(
                "mc_dropout: a layer must return a float tensor [..., units], or a tuple that begins with "
                f"one, got {type(output).__name__} of {type(module).__name__}"
            )
        kind = (output.shape[-1], output.dtype, output.device)
        if kind not in self._made:
            self._made[kind] = self._mask(*kind)
        return output * self._made[kind]

    def _mask(self, units: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        # A tensor born in inference mode could not be used in a later step that takes gradients.
        with torch.inference_mode(False), torch.no_grad():
            keys = derive_keys(self._seed, torch.arange(units), self._number, _STEP)
            odds = torch.tensor([[self._rate, 1 - self._rate]]).expand(units, 2).contiguous()
            kept = sample_probs(odds, keys=keys)
            return (kept / (1 - self._rate)).to(device, dtype)


def _chosen(op: str, model: nn.Module, layers) -> dict[str, nn.Module]:
    modules = {name: module for name, module in model.named_modules() if name}
    if layers is None:
        names = [name for name in modules if name.rpartition(".")[2] in BLOCKS]
        outer = [name for name in names if not any(name.startswith(f"{other}.") for other in names)]
        if not outer:
            raise ValueError(
                f"{op}: {type(model).__name__} has no module named {', '.join(BLOCKS)}: give layers"
            )
        return {name: modules[name] for name in outer}
    if callable(layers):
        chosen = {name: module for name, module in modules.items() if layers(name, module)}
    elif isinstance(layers, (list, tuple)):
        if missing := [name for name in layers if name not in modules]:
            raise ValueError(f"{op}: {type(model).__name__} has no layer {missing[0]!r}")
        chosen = {name: module for name, module in modules.items() if name in layers}
    else:
        raise TypeError(f"{op}: layers must be a list of names or a function, got {type(layers).__name__}")
    if not chosen:
        raise ValueError(f"{op}: layers must choose at least one of {type(model).__name__}, chose none")
    return chosen
