# SPDX-License-Identifier: Apache-2.0
"""The audit: where a model's randomness comes from, and which outputs not to trust.

    python -m fusedraw audit MODEL --prompts FILE       the command: a report from a model and prompts

Its parts are usable alone, on lists, arrays and CPU tensors:

    calibration   reliability, risk_coverage, fit_temperature
    robustness    margin_certificate, perturbations of prompts, Cusum
    bias          divergences of laws, paired prompts, permutation_test
    variance      variance_split between weight seeds and sampling seeds
    anomalies     rules with thresholds for one output, robust z-scores over many
    uncertainty   figures of an output, agreement over samples, mutual_information
    semantic      clusters of texts by meaning, semantic_entropy
    dropout       mc_dropout for models without dropout layers

Nothing of this is imported by `import fusedraw`. docs/audit.md explains the report.
"""
