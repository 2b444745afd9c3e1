# SPDX-License-Identifier: Apache-2.0
"""route on the device."""

from test_cuda_route import (  # noqa: F401  (collected here)
    test_bad_rows,
    test_every_dtype,
    test_no_rows,
    test_random_calls,
    test_replay_and_bias,
    test_sizes,
)
