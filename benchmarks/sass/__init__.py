# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's machine code: read (code.py) and executed on the CPU (run.py), to count instructions.

NVIDIA documents no more than the names of SASS instructions. What they do was read off compiled code, and
need not be taken on trust: whoever counts compares the tokens that come out. What is not known is an error,
never skipped.
"""
