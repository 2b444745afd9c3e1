# SPDX-License-Identifier: Apache-2.0
"""What the documents say is there: code blocks run, paths and names exist, tables match the code."""

import ast
import inspect
import re
from pathlib import Path

import fusedraw
import pytest
from fusedraw import _params

ROOT = Path(__file__).resolve().parent.parent
if not (ROOT / "README.md").exists():
    pytest.skip("the documents are not beside the tests", allow_module_level=True)

README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")])
PUBLIC = [name for name in fusedraw.__all__ if inspect.isfunction(getattr(fusedraw, name))]
INLINE_CODE = re.compile(r"`([^`\n]+)`")


def table(name):
    """The README's table between <!-- name:begin --> and <!-- name:end -->: the names in each cell."""
    body = README.split(f"<!-- {name}:begin -->")[1].split(f"<!-- {name}:end -->")[0]
    rows = [line.split(" | ") for line in body.strip().split("\n")[2:]]
    return [[INLINE_CODE.findall(cell) or [cell.strip("| ")] for cell in row] for row in rows]


def anchor(heading):
    """The anchor that a heading gets on the usual hosts."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def words_of(document):
    """The text of a document without its code blocks."""
    return re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.M | re.S)


def test_python_blocks_of_the_readme_run():
    names = {}
    blocks = re.findall(r"^```python\n(.*?)^```$", README, flags=re.M | re.S)
    assert len(blocks) >= 5
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_paths_exist(document):
    text = words_of(document)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, fragment = target.partition("#")
        linked = document.parent / path if path else document
        assert linked.exists(), target
        if fragment:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), flags=re.M)
            assert fragment in [anchor(heading) for heading in headings], target
    places = ("csrc", "pyext", "tests", "benchmarks", "docs")
    for code in INLINE_CODE.findall(text):
        if re.fullmatch(rf"({'|'.join(places)})/[\w./-]*", code):
            assert (ROOT / code).exists(), code


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_named_alone_exist(document):
    """`race.inl`, `sampling.py`: without a folder, but somewhere in the tree."""
    places = ("csrc", "pyext", "tests", "benchmarks")
    present = {path.name for place in places for path in (ROOT / place).rglob("*.*")}
    for code in INLINE_CODE.findall(words_of(document)):
        if re.fullmatch(r"\w+\.(inl|h|cpp|py|npz)", code) and code != "setup.py":
            assert code in present, code


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z0-9-]+):", makefile, flags=re.M))
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"(?:^|`)make ([a-z0-9-]+)", text, flags=re.M):
            assert target in targets, (document.name, target)
    phony = set(re.search(r"^\.PHONY: (.*)$", makefile, flags=re.M).group(1).split())
    assert phony == targets


def test_every_public_name_is_in_the_readme():
    named = set(re.findall(r"\w+", " ".join(INLINE_CODE.findall(README))))
    assert set(fusedraw.__all__) - named - {"__version__"} == set()


def test_names_of_the_package_in_the_readme_exist():
    for path in re.findall(r"\bfusedraw\.([\w.]+)", " ".join(INLINE_CODE.findall(README))):
        owner = fusedraw
        for name in path.split("."):
            owner = getattr(owner, name)


def test_parameter_table_is_the_signature_of_sample():
    signature = inspect.signature(fusedraw.sample).parameters
    listed = {}
    for names, defaults, *_ in table("parameters"):
        values = [ast.literal_eval(text) for text in ", ".join(defaults).split(", ")]
        listed.update(zip(names, values, strict=True))
    expected = {name: p.default for name, p in signature.items() if name != "logits"}
    assert listed == expected


def test_options_in_the_readme_are_those_of_the_package():
    quoted = set(re.findall(r'`"(\w+)"`', README))
    options = [_params.FILTER_ORDERS, _params.TIES, _params.MIX_SUPPORTS, _params.DOMAINS]
    assert {name for option in options for name in option} - quoted - {"index", "all"} == set()
    assert quoted - {name for option in options for name in option} == {"raise", "status"}
    assert 'ties="all"' in README and 'ties="index"' in README


def test_by_products_in_the_readme_are_those_of_the_package():
    assert [name for names, *_ in table("returns") for name in names] == list(_params.OUTPUTS)


def test_statuses_in_the_readme_are_those_of_the_package():
    listed = {name: int(code[0]) for code, (name,), *_ in table("status")}
    assert listed == {status.name: status.value for status in fusedraw.Status}


def documented(function):
    """Names that the Args section of a docstring explains."""
    text = inspect.getdoc(function)
    if "\nArgs:\n" not in text:
        return []
    body = text.split("\nArgs:\n")[1].split("\n\n")[0]
    heads = re.findall(r"^    (\w[\w, ]*): ", body, flags=re.M)
    return [name for head in heads for name in head.split(", ")]


def test_docstring_of_sample_explains_its_parameters():
    assert documented(fusedraw.sample) == list(inspect.signature(fusedraw.sample).parameters)


@pytest.mark.parametrize("name", PUBLIC)
def test_docstrings_explain_no_parameter_that_is_not_there(name):
    function = getattr(fusedraw, name)
    assert inspect.getdoc(function)
    parameters = set(inspect.signature(function).parameters)
    assert set(documented(function)) - {"The rest", "Returns"} <= parameters


def test_version_is_said_once():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    version = re.search(r'^version = "(.*)"$', project, flags=re.M).group(1)
    assert version == fusedraw.__version__
    assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
