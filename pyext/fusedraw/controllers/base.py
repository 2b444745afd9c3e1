# SPDX-License-Identifier: Apache-2.0
"""What every controller has: parameters for the next draw, an update from what was drawn, state per row."""

import torch
from torch import Tensor

from .. import sampling
from .._checks import check_device, check_rows
from .._params import names_tuple
from .._settings import check_rows_number, check_state, device_of, load_tensor, setting


class Controller:
    """Parameters of the next draw from what earlier draws returned, for B rows at once.

    >>> control = TargetEntropy(2.0, vocab_size=V, rows=B)
    >>> out = control.sample(logits, keys=keys)                     # one decode step: the three lines below
    >>> parameters = control.parameters(logits)
    >>> out = fusedraw.sample(logits, keys=keys, returns=control.returns, **parameters)
    >>> control.update(out)

    The state is a few float64 tensors [B] on `device`; a step neither reads them back nor waits for the
    device. What happens to a row depends on that row alone. A bad row (status not OK) leaves its state as it
    is.
    """

    returns: tuple[str, ...] = ()  # by-products of `sample` that `update` needs
    sets: tuple[str, ...] = ()  # parameters of `sample` that the controller decides

    def __init__(self, rows: int, settings: dict, ranges: dict, device):
        self.rows = check_rows_number(self._op, rows)
        self.device = device_of(settings.values(), device)
        self._settings: dict[str, Tensor] = {}
        for name, value in settings.items():
            tensor = setting(self._op, name, value, self.device, **ranges.get(name, {}))
            if tensor.numel() not in (1, self.rows):
                raise ValueError(
                    f"{self._op}: {name} must have length 1 or {self.rows}, got {tensor.numel()}"
                )
            self._settings[name] = tensor.expand(self.rows)
        self._state = {name: tensor.clone() for name, tensor in self._initial().items()}

    @property
    def _op(self) -> str:
        return type(self).__name__

    def _initial(self) -> dict[str, Tensor]:
        """The state of a row that has drawn nothing: {name: [B, ...]}."""
        return {}

    def parameters(self, logits: Tensor, *, mask=None) -> dict[str, Tensor]:
        """{name: float32 [B]}: what to give `fusedraw.sample` for these logits [B, V] (and this mask)."""
        raise NotImplementedError

    def update(self, out: sampling.SampleOutput) -> None:
        """Take in what `sample` returned for the parameters of this step."""
        raise NotImplementedError

    def sample(self, logits: Tensor, *, mask=None, returns=(), **arguments) -> sampling.SampleOutput:
        """One step: `parameters`, `fusedraw.sample`, `update`.

        Args:
            logits: [B, V], as in `fusedraw.sample`.
            arguments: the other keywords of `fusedraw.sample` (keys or seed and step, top_p ...), but none
                that the controller decides (`sets`).

        Returns: a SampleOutput with the controller's by-products and those in `returns`.
        """
        self._check_call(logits, arguments)
        parameters = self.parameters(logits, mask=mask)
        out = self._draw(logits, mask, returns, {**arguments, **parameters})
        self.update(out)
        return out

    def reset(self, rows=None) -> None:
        """Forget what was drawn: in all rows, or in `rows` (bool mask [B] or indices), e.g. for a new request
        in an old slot. Settings stay.
        """
        chosen = self._chosen(rows)
        for name, initial in self._initial().items():
            shape = (-1,) + (1,) * (initial.dim() - 1)
            self._state[name] = torch.where(chosen.view(shape), initial, self._state[name])

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the state. An equally made controller that loads them goes on with the same draws."""
        return {name: tensor.clone() for name, tensor in self._state.items()}

    def load_state_dict(self, state: dict) -> None:
        check_state(self._op, state, self._state)
        self._state = {
            name: load_tensor(self._op, name, state[name], like) for name, like in self._state.items()
        }

    def _draw(self, logits, mask, returns, arguments) -> sampling.SampleOutput:
        # status: so that it is a SampleOutput, whatever the controller needs.
        wanted = dict.fromkeys(("status", *self.returns, *names_tuple(self._op, returns)))
        return sampling.sample(logits, mask=mask, returns=tuple(wanted), **arguments)

    def _check_call(self, logits, arguments) -> None:
        self._check_logits(logits)
        for name in self.sets:
            if name in arguments:
                raise ValueError(f"{self._op}: {name} is what the controller decides; do not give it")

    def _check_logits(self, logits) -> None:
        check_rows(self._op, "logits", logits)
        if logits.dim() != 2 or logits.shape[0] != self.rows:
            raise ValueError(f"{self._op}: logits must be [{self.rows}, V], got shape {list(logits.shape)}")
        check_device(self._op, "logits", logits, self.device)

    def _by_product(self, out, name: str) -> Tensor:
        value = getattr(out, name, None)
        if value is None:
            raise ValueError(f"{self._op}: update needs `{name}`: sample with returns={self.returns}")
        if value.shape != (self.rows,):
            raise ValueError(
                f"{self._op}: {name} must have shape [{self.rows}], got shape {list(value.shape)}"
            )
        return value.to(torch.float64)

    def _keep(self, name: str, value: Tensor) -> None:
        """Set a state, but in rows whose new value is NaN."""
        self._state[name] = torch.where(value.isnan(), self._state[name], value)

    def _chosen(self, rows) -> Tensor:
        """bool [B] from None, a mask, or indices."""
        if rows is None:
            return torch.ones(self.rows, dtype=torch.bool, device=self.device)
        rows = torch.as_tensor(rows, device=self.device)
        if rows.dtype is torch.bool:
            if rows.shape != (self.rows,):
                raise ValueError(f"{self._op}: a mask of rows must have shape [{self.rows}]")
            return rows
        if rows.dtype.is_floating_point or rows.is_complex():
            raise TypeError(f"{self._op}: rows must be a bool mask or indices, got {rows.dtype}")
        if rows.is_cpu and bool(((rows < 0) | (rows >= self.rows)).any()):
            raise IndexError(f"{self._op}: rows must be in [0, {self.rows}), got {rows.tolist()}")
        chosen = torch.zeros(self.rows, dtype=torch.bool, device=self.device)
        chosen[rows.reshape(-1).to(torch.int64)] = True
        return chosen


def statistics(logits: Tensor, mask, temperature, names: tuple[str, ...], **more) -> list[Tensor]:
    """By-products, float64 [B] each, of a draw that is thrown away: its key is of no interest.

    A bad row gives NaN; the draw that follows says what is wrong with it.
    """
    out = sampling.sample(
        logits, temperature=temperature, mask=mask, seed=0, returns=names, check="status", **more
    )
    return [getattr(out, name).to(torch.float64) for name in names]
