# SPDX-License-Identifier: Apache-2.0
"""fusedraw.flashinfer: names and signatures against flashinfer's own."""

import ast
import importlib.util
import inspect
import json
from pathlib import Path

import pytest
from fusedraw import flashinfer
from fusedraw.flashinfer import sampling

STORED = json.loads((Path(__file__).parent / "data" / "flashinfer_signatures.json").read_text())
NAMES = list(STORED["functions"])


def parameters(function):
    return [
        [p.name, None if p.default is p.empty else repr(p.default)]
        for p in inspect.signature(function).parameters.values()
    ]


@pytest.mark.parametrize("name", NAMES)
def test_signature_is_flashinfers(name):
    assert parameters(getattr(sampling, name)) == [
        [parameter, None if default is None else repr(ast.literal_eval(default))]
        for parameter, default in STORED["functions"][name]
    ]
    assert all(
        p.kind is p.POSITIONAL_OR_KEYWORD
        for p in inspect.signature(getattr(sampling, name)).parameters.values()
    )


def test_all_names_are_there():
    for alias, name in STORED["aliases"].items():
        assert getattr(sampling, alias) is getattr(sampling, name)
    assert flashinfer.sampling is sampling
    for name in (*NAMES, *STORED["aliases"]):
        assert getattr(flashinfer, name) is getattr(sampling, name)
    assert set(flashinfer.__all__) == {"sampling", *NAMES, *STORED["aliases"]}


def test_stored_signatures_are_those_of_the_installed_package():
    try:
        spec = importlib.util.find_spec("flashinfer")
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        pytest.skip(
            f"flashinfer is not installed; {STORED['package']} {STORED['version']} is what was stored"
        )
    tree = ast.parse((Path(spec.origin).parent / "sampling.py").read_text())
    found = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name in NAMES:
            none = [None] * (len(node.args.args) - len(node.args.defaults))
            defaults = none + [ast.unparse(default) for default in node.args.defaults]
            found[node.name] = [[arg.arg, d] for arg, d in zip(node.args.args, defaults, strict=True)]
    assert found == STORED["functions"]
