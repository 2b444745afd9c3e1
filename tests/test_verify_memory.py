# SPDX-License-Identifier: Apache-2.0
"""Working memory of verify: as that of a draw, under 1 MB a thread for any V up to 262144, whether a draft is
accepted or replaced."""

import fusedraw
import pytest
from test_memory import in_new_process, pytestmark, too_much  # noqa: F401  (the mark is that of this file too)

BODY = """
from verify_cases import make_case, masks_at, rows_at, verify

warm_up()
results = {}
for kind in ("normal", "peaked", "equal"):
    for dtype in (F32, BF16):
        x = rows_at(kind, 1, V, range(2), dtype)
        masks = masks_at("rows-0.5", 1, V, range(2))
        for name, parameters in {"T": {}, "top_k": dict(top_k=5000), "top_p": dict(top_p=0.9)}.items():
            for label, draft, mask, draft_mask in (
                ("accepted", x[:, :1], None, None), ("replaced", -x[:, :1], None, None),
                ("two masks", x[:, :1], masks, masks[:, 1:])):
                case = make_case(
                    draft, x, params=make_params(0.8, **parameters), mask=mask, draft_mask=draft_mask)
                results[f"{kind} {dtype} {name}: {label}"] = forked(lambda: verify(case))
"""


@pytest.mark.parametrize("isa", fusedraw.isa_list()[-2:])
def test_extra_memory_of_a_call(isa):
    results = in_new_process(BODY, FUSEDRAW_ISA=isa)
    assert len(results) == 54
    assert not too_much(results, 0), "peak"
    assert not too_much(results, 1), "kept after the call"
