# SPDX-License-Identifier: Apache-2.0
"""Memory of token_logprob, forward and backward: the gradient, and O(N) besides, whatever the vocabulary."""

from test_memory import in_new_process, pytestmark  # noqa: F401  (the mark is that of this file too)

LIMIT = 64 << 20

# Of each case the peak during forward and backward, less the gradient: the logits were there before.
BODY = """
import fusedraw

def scores(x, ids, **options):
    y = x.detach().requires_grad_()
    out = fusedraw.token_logprob(y, ids, returns="entropy", **options)
    (out.logp.mean() + 0.1 * out.entropy.mean()).backward()
    assert y.grad[-1].any()

def beyond(rows, cols, dtype=F32, **options):
    x = torch.empty(rows, cols, dtype=dtype)
    for row in range(rows):
        x[row] = torch.randn(cols)
    ids = torch.arange(rows)
    peak, _ = {measure}(lambda: scores(x, ids, **options))
    return peak - rows * cols * x.element_size()

V //= 16
filters = dict(top_p=0.9, mix_eps=0.1, mix_support="valid", check="status")
beyond(2, 64)
results = {
    "few rows": beyond(64, V), "many rows": beyond(2048, V), "many rows, filters": beyond(2048, V, **filters),
    "long rows": beyond(64, 16 * V, **filters), "bfloat16": beyond(2048, V, BF16, **filters),
}
"""


def test_no_whole_rows_beside_the_gradient():
    """[N, V] would be 128 MiB for float32. What there is besides stays the same while N or V grow."""
    results = in_new_process(BODY.replace("{measure}", "forked"))
    assert not {name: size for name, size in results.items() if size > LIMIT}
    per_row = (results["many rows"] - results["few rows"]) / (2048 - 64)
    assert per_row < 1024, f"{per_row:.0f} bytes a row"
    assert max(results.values()) - min(results.values()) < 4 << 20, results


def test_threads_share_the_rows_within_the_limit():
    """Not in forks, which would have no threads."""
    results = in_new_process(BODY.replace("{measure}", "measure"), threads=2)
    assert not {name: size for name, size in results.items() if size > LIMIT}
