# SPDX-License-Identifier: Apache-2.0
"""mixture on the device."""

from test_cuda_mixture import (  # noqa: F401  (collected here)
    test_bad_rows,
    test_generated,
    test_odd_and_unaligned_rows,
    test_one_tensor_as_every_member,
)
