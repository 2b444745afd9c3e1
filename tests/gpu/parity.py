# SPDX-License-Identifier: Apache-2.0
"""The generated corpus, systematic rows, invariance and bad input of test_cuda_executor.py, on the device.
Left out are what needs forced noise, which devices do not offer, and schedules: a device has its own."""

import pytest
import torch
from engines import BF16, make_keys, make_params
from input_cases import B, V
from on_device import DEVICE, ON_CPU
from row_kinds import make_rows
from test_cuda_executor import (  # noqa: F401  (collected here)
    facade_on_the_executor,
    named,
    on_the_executor,
    test_appended_minus_infinities_never_matter,
    test_bad_probabilities,
    test_bad_row,
    test_bad_row_raises_by_name,
    test_bad_rows_of_other_operators,
    test_batch_size_position_and_order,
    test_exact,
    test_expanded_rows,
    test_few_and_many_rows,
    test_keys,
    test_lane_and_block_edges,
    test_masked_out_is_minus_infinity,
    test_masks_and_renormalisation,
    test_mates_do_not_matter,
    test_multinomial,
    test_one_odd_value_at_every_place,
    test_operators_refuse_what_is_no_row,
    test_rows_of_some_length,
    test_sample,
    test_sample_probs,
    test_seventy_thousand_rows,
    test_seventy_thousand_rows_of_every_operator,
    test_single_survivor_at_every_place,
    test_softmax,
    test_strides_offsets_and_alignments,
    test_sums_are_exact,
    test_top_k_from_one_to_beyond,
    test_top_p_at_the_cut,
    test_widened_values_give_the_same,
)


@pytest.mark.skipif(ON_CPU, reason="allocates on the device")
def test_rows_beyond_32_bit_offsets():
    """A row that begins 4 GB into its tensor."""
    import fusedraw

    stride, size = 2**31, 70
    if torch.cuda.mem_get_info(DEVICE)[0] < 3 * 2 * stride:
        pytest.skip("needs 13 GB of free device memory")
    x = make_rows("normal", 2, size, 1, BF16)
    there = torch.empty(stride + size, dtype=BF16, device=DEVICE).as_strided((2, size), (stride, 1))
    there.copy_(x)
    keys = make_keys(2, 4)
    expected = fusedraw.sample(x, top_p=0.9, keys=keys, returns=("logp",))
    got = fusedraw.sample(there, top_p=0.9, keys=keys.to(DEVICE), returns=("logp",))
    assert torch.equal(got.ids.cpu(), expected.ids) and torch.equal(got.logp.cpu(), expected.logp)


def test_a_device_says_status_unless_asked():
    """check=None raises on the CPU and does not on a device, where raising would wait."""
    import fusedraw

    x = torch.zeros(3, 9)
    x[1, 4] = float("nan")
    x, keys = x.to(DEVICE), make_keys(3).to(DEVICE)
    if not ON_CPU:
        assert fusedraw.sample(x, keys=keys)[1] == -1
    assert fusedraw.sample(x, keys=keys, check="status", returns=("status",)).status.tolist() == [0, 2, 0]
    with pytest.raises(ValueError, match="row 1 has status NAN"):
        fusedraw.sample(x, keys=keys, check="raise")


@pytest.mark.skipif(ON_CPU, reason="needs two devices")
@pytest.mark.parametrize("argument", ["keys", "mask", "temperature"])
def test_arguments_on_another_device_are_refused(argument):
    import fusedraw

    arguments = {"keys": make_keys(3).to(DEVICE)}
    other = {"keys": make_keys(3), "mask": torch.ones(3, 9, dtype=torch.bool), "temperature": torch.ones(3)}
    with pytest.raises(ValueError, match=f"{argument} must be on cuda"):
        fusedraw.sample(torch.zeros(3, 9, device=DEVICE), **{**arguments, argument: other[argument]})


def test_refused_metadata_on_the_device():
    """Nothing is launched for what the checks refuse."""
    import fusedraw

    x = torch.zeros(B, V, device=DEVICE)
    for arguments, error in (
        ({"temperature": -1.0}, ValueError),
        ({"top_k": 1.5}, TypeError),
        ({"mask": torch.ones(3, dtype=torch.bool, device=DEVICE)}, ValueError),
        ({"keys": make_keys(2).to(DEVICE)}, ValueError),
    ):
        with pytest.raises(error):
            fusedraw.sample(x, **{"keys": make_keys(B).to(DEVICE), **arguments})
    with pytest.raises(TypeError, match="float64"):
        fusedraw.sample(x.double(), seed=1)


def test_numbers_and_tensors_give_the_same():
    """Parameters by value, and the same in tensors on the device."""
    import fusedraw

    x, keys = make_rows("normal", 5, 3000, 2).to(DEVICE), make_keys(5).to(DEVICE)
    for settings in ({"temperature": 0.7}, {"top_k": 20, "top_p": 0.9}, {"min_p": 0.05, "mix_eps": 0.5}):
        kinds = {"top_k": torch.int64}
        tensors = {
            name: torch.full((5,), value, dtype=kinds.get(name, torch.float32), device=DEVICE)
            for name, value in settings.items()
        }
        asked = {"keys": keys, "returns": ("logp", "n_kept")}
        got, expected = fusedraw.sample(x, **tensors, **asked), fusedraw.sample(x, **settings, **asked)
        sampler = fusedraw.Sampler(**settings, returns=asked["returns"])(x, keys=keys)
        for a, b, c in zip(got[:3], expected[:3], sampler[:3], strict=True):
            assert (a is None and b is None and c is None) or (torch.equal(a, b) and torch.equal(b, c))


def test_double_softmax_and_gradients():
    import fusedraw

    x = make_rows("normal", 3, 500, 3)
    for fn in (fusedraw.softmax, fusedraw.log_softmax):
        for dtype in (torch.float32, torch.float64):
            results = []
            for device in ("cpu", DEVICE):
                row = x.to(device, dtype, copy=True).requires_grad_()
                out = fn(row, 0.7)
                (out * torch.linspace(0, 1, 500, device=device, dtype=out.dtype)).sum().backward()
                results.append((out.detach().cpu(), row.grad.cpu()))
            (out, grad), (there, there_grad) = results
            assert torch.equal(out, there)
            assert torch.allclose(grad, there_grad, atol=1e-6, rtol=1e-5)


def test_params_row_on_either_side():
    """One row of parameters on the CPU, or on the device."""
    import fusedraw

    x, keys = make_rows("normal", 4, 2000, 1).to(DEVICE), make_keys(4).to(DEVICE)
    op, params = torch.ops.fusedraw.sample, make_params(0.7, 0.9)
    first = op(x, params, keys, None, 0, 0, 0)[0]
    second = op(x, params.to(DEVICE), keys, None, 0, 0, 0)[0]
    third = op(x, params.to(DEVICE).expand(4, 5), keys, None, 0, 0, 0)[0]
    assert torch.equal(first, second) and torch.equal(second, third)
    assert torch.equal(first, fusedraw.sample(x, temperature=0.7, top_p=0.9, keys=keys))
