# SPDX-License-Identifier: Apache-2.0
"""The benchmark suite: `python -m fusedraw bench`. Providers run on the same rows, in turn, in one process;
each is first checked to draw from the law. Needs pytest, pytest-benchmark and numpy; peers are optional."""
