# SPDX-License-Identifier: Apache-2.0
"""token_logprob and its gradient on the device."""

from test_cuda_token_logprob import (  # noqa: F401  (collected here)
    test_bad_input_is_named,
    test_generated_rows,
    test_long_rows_scored_and_replayed,
    test_malformed_kept_sets_are_not_followed,
)
