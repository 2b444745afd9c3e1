# SPDX-License-Identifier: Apache-2.0
"""`sample` with edits of the logits and rules beyond its five parameters: one call of `sample_processed`."""

from ._checks import call, check_keys, check_mask, check_rows, should_raise
from ._device import kernel_device, move
from ._edits import fold_masks, pack_lists
from ._ops import sample_processed as processed_op
from ._params import MODE_RAISE, check_lengths, check_values, pack_options, pack_values, plan_of_numbers
from ._rules import MODE_TEMPERATURE_LAST, NAMES, check_rules, is_neutral, packed_numbers
from .keys import make_keys, resolve_keys

_WHOLE_BATCH = ("kept_ids", "kept_offsets")


def check_extras(op, rules, last, history, prompt):
    if not isinstance(last, (bool, type(None))):
        raise TypeError(f"{op}: temperature_last must be a bool, got {type(last).__name__}")
    penalties = dict(zip(NAMES, rules, strict=True))
    if history is None:
        for name in ("frequency_penalty", "presence_penalty"):
            if not is_neutral(name, penalties[name]):
                raise ValueError(f"{op}: {name} needs history, the ids drawn so far")
        if prompt is None and not is_neutral("repetition_penalty", penalties["repetition_penalty"]):
            raise ValueError(f"{op}: repetition_penalty needs history or prompt")


def draw_processed(op, x, values, options, mask, keys, seed, step, generator, extras):
    """The fields of a draw by name. extras: the rules in the order of NAMES, temperature_last, history,
    prompt, suppress, logit_bias, deny_mask; all others as for draw_any of `sampling`."""
    rules, last, history, prompt, suppress, bias, deny = extras
    check_rows(op, "logits", x)
    check_extras(op, rules, last, history, prompt)
    one_row = x.dim() == 1
    if one_row:
        x = x.unsqueeze(0)
    rows, home = x.shape[0], x.device
    # Numbers are checked and packed once and remembered; tensors each time.
    plan, packed = plan_of_numbers(op, values, options), packed_numbers(op, rules)
    if plan is None:
        values = check_values(op, values)
        check_lengths(op, values, rows, home)
        mode, outputs, fields, top_n = pack_options(op, *options)
    else:
        mode, outputs, fields, top_n = plan.device_mode, plan.outputs, plan.names, plan.top_n
    if packed is None:
        rules = check_rules(op, rules)
        check_lengths(op, rules, rows, home, NAMES)
    mask = fold_masks(op, mask, deny, rows, x.shape[1], home)
    check_mask(op, mask, rows, x.shape[1], home)
    lists = pack_lists(op, x, one_row, history, prompt, suppress, bias)
    if last:
        mode |= MODE_TEMPERATURE_LAST
    if should_raise(options[-1], home):
        mode |= MODE_RAISE
    if keys is not None:
        check_keys(op, keys, rows, home, one_row)
        keys = resolve_keys(op, x, keys, seed, step, generator, one_row)
    device = kernel_device(home)
    if device != home:
        x, mask, keys, seed, step = move(device, x, mask, keys, seed, step)
        values, rules, lists = (move(device, *group) for group in (values, rules, lists))
    if keys is None:
        keys = make_keys(op, x, seed, step, generator)
    params = pack_values(x, values) if plan is None else plan.params
    if packed is None:
        packed = pack_values(x, rules)
    out = call(op, processed_op, x, params, packed, keys, mask, *lists, mode, outputs, top_n)
    if device != home:
        out = [tensor.to(home) for tensor in out]
    out = dict(zip(fields, out, strict=True))
    if one_row:
        out = {name: field if name in _WHOLE_BATCH else field[0] for name, field in out.items()}
    return out
