# SPDX-License-Identifier: Apache-2.0
"""The statistical tests of the engines, drawn on the device."""

import engines
import pytest
from on_device import operators
from test_cuda_executor import facade_on_the_executor  # noqa: F401
from test_statistics import (  # noqa: F401  (collected here)
    test_block_place_and_coin_are_independent,
    test_coins_are_nested,
    test_domains_are_independent,
    test_law,
    test_law_of_probabilities,
    test_law_with_filters,
    test_multinomial_single_is_the_race,
    test_multinomial_with_replacement,
    test_multinomial_without_replacement,
    test_neighbours_are_independent,
    test_rows_of_a_seeded_batch_are_independent,
    test_small_noise_on_logits_flips_few_draws,
    test_tail,
    test_the_test_detects_one_percent,
)


@pytest.fixture(autouse=True)
def drawn_on_the_device(facade_on_the_executor, monkeypatch):  # noqa: F811
    monkeypatch.setattr(engines.op, "namespace", operators())
