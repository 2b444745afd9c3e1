# SPDX-License-Identifier: Apache-2.0
"""What a release is made of: the source archive, the tools that are pinned, the wheels that are asked for,
the rights that the workflows have. What needs a tool of requirements-release.txt is skipped without it."""

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path

import fusedraw
import pytest
import scripts
import torch

ROOT = Path(__file__).resolve().parent.parent
if not (ROOT / "release").is_dir():
    pytest.skip(f"no sources beside the tests: {ROOT}", allow_module_level=True)
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
EPOCH = "1700000000"


def tool(module, *words):
    """A program of requirements-release.txt, or a skip that names it."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed: pip install -r requirements-release.txt")
    command = [sys.executable, "-m", module, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def tracked():
    """The files that the repository tracks. In an unpacked source archive: none, and a skip."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no git repository here to compare with")
    listed = subprocess.check_output(["git", "-C", str(ROOT), "ls-files", "-z"], text=True)
    return {name for name in listed.split("\0") if name and (ROOT / name).is_file()}


# The source archive


def make_sdist(tree, out, umask):
    command = [sys.executable, "setup.py", "-q", "sdist", "--formats=gztar", "--dist-dir", str(out)]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH, "FUSEDRAW_CUDA": "0", "TZ": f"UTC{umask % 7}"}
    done = subprocess.run(
        command, cwd=tree, env=environment, umask=umask, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (archive,) = out.glob("*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def sdists(tmp_path_factory):
    """Two archives of the same files: the second from another folder, later, under another umask, in a tree
    where people have worked."""
    work = tmp_path_factory.mktemp("sdist")
    made = []
    for name, umask in (("one", 0o022), ("another-one", 0o077)):
        tree = work / name / "tree"
        for path in sorted(tracked()):
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, tree / path)  # with its mode, not with its time
        if made:
            for junk in (
                "pyext/fusedraw/_C.so",
                "build/x.o",
                "benchmarks/build/y.cpp",
                "tests/__pycache__/t.pyc",
            ):
                (tree / junk).parent.mkdir(parents=True, exist_ok=True)
                (tree / junk).write_text("left by a build")
            os.utime(tree / "setup.py", (time.time() + 5000, time.time() + 5000))
        made.append(make_sdist(tree, work / name, umask))
    return made


def test_sdist_has_the_same_bytes_twice(sdists):
    first, second = (sha256(path.read_bytes()).hexdigest() for path in sdists)
    assert first == second


def test_sdist_holds_what_is_tracked(sdists):
    with tarfile.open(sdists[1]) as archive:
        members = archive.getmembers()
    names = {member.name.split("/", 1)[1] for member in members}
    generated = {name for name in names if name.startswith("pyext/fusedraw.egg-info/")} | {
        "PKG-INFO",
        "setup.cfg",
    }
    assert names - generated == tracked()
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(int(EPOCH), 0, 0, "", "")}
    assert {m.mode for m in members} <= {0o644, 0o755}


def test_sdist_says_what_a_wrong_time_is(tmp_path):
    code = "import build_sdist; from setuptools import Distribution; c = build_sdist.Sdist(Distribution()); "
    code += f"c.make_archive({str(tmp_path / 'a')!r}, 'gztar', base_dir='x')"
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "yesterday"}
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "must be seconds since 1970, got 'yesterday'" in done.stderr


def test_binary_names_no_folder_of_the_machine_that_built_it():
    """So that the same sources give the same binary elsewhere, and nothing is told of the builder."""
    content = Path(fusedraw._C.__file__).read_bytes()
    source_names = set(re.findall(rb"[\w/.+-]+/(?:csrc|torch/include)/[\w/]+\.(?:h|cpp)(?=\0)", content))
    assert source_names, "torch's checks say where they stand; nothing found means a wrong pattern"
    assert {
        name for name in source_names if not name.startswith((b"fusedraw/csrc/", b"torch/include/"))
    } == set()


# What is pinned


@pytest.mark.parametrize("name", ["requirements-release.txt", "requirements-cibuildwheel.txt"])
def test_tools_are_pinned_by_hash(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "\n--require-hashes\n--only-binary :all:\n" in text
    blocks = re.split(r"\n(?=[a-z])", text.split("--only-binary :all:")[1])[1:]
    assert len(blocks) >= 10
    for block in blocks:
        assert re.fullmatch(r"[a-z0-9-]+==[\w.]+( \\\n    --hash=sha256:[0-9a-f]{64}){1,2}\n?", block), block


def test_what_is_asked_for_is_what_is_locked():
    asked = re.findall(r"^[a-z][^\s]+$", (ROOT / "release/requirements.in").read_text(), flags=re.M)
    locked = re.findall(r"^([^\s#]+==[^\s]+)", (ROOT / "requirements-release.txt").read_text(), flags=re.M)
    assert len(asked) >= 10 and set(asked) <= set(locked)
    build = re.findall(r"^\w+==\S+$", (ROOT / "requirements-build.txt").read_text(), flags=re.M)
    assert build and set(build) <= set(locked), "another setuptools or ninja than `make build` has"


def test_one_version_of_torch_everywhere():
    texts = {
        "Makefile": r"^TORCH  := (\S+)",
        "pyproject.toml": r"torch==([\d.]+)",
        ".github/workflows/release.yml": r"torch==([\d.]+)",
        "tests/venvs.py": r'^TORCH = "([\d.]+)"',
        "tests/wheel/run.py": r'"--torch", default="([\d.]+)"',
    }
    found = {}
    for name, pattern in texts.items():
        found[name] = set(re.findall(pattern, (ROOT / name).read_text(encoding="utf-8"), flags=re.M))
        assert found[name], name
    assert len(set.union(*found.values())) == 1, found


# The wheels


def test_wheels_that_are_asked_for():
    done = tool("cibuildwheel", "--platform", "linux", "--print-build-identifiers", ".")
    assert done.returncode == 0, done.stderr
    versions = ("310", "311", "312", "313")
    machines = ("x86_64", "aarch64")
    assert set(done.stdout.split()) == {f"cp{v}-manylinux_{m}" for v in versions for m in machines}


def test_what_a_wheel_leaves_to_torch_is_said_twice_alike():
    text = (ROOT / "release" / "build.py").read_text(encoding="utf-8")
    ours = re.search(r"^OF_TORCH = \((.*)\)$", text, flags=re.M)[1]
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    theirs = re.search(r"^repair-wheel-command = (.*)$", settings, flags=re.M)[1]
    assert re.findall(r'"(\S+)"', ours) == re.findall(r"--exclude '(\S+)'", theirs) != []


def test_files_left_out_of_the_wheels_tests():
    """All that read sources are left out of what runs from a wheel, and nothing else; every name exists."""
    run = scripts.load(ROOT / "tests" / "wheel" / "run.py")
    texts = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py")}
    left_out = {name for name in texts if any(fnmatch(name, pattern) for pattern in run.NEED_SOURCES)}
    # pyproject.toml is copied along.
    reads_sources = {
        name for name, text in texts.items() if re.search(r'\bROOT / (?!"pyproject.toml")', text)
    }
    executes_kernels = {
        name for name, text in texts.items() if re.search(r"^(import|from) simt", text, flags=re.M)
    }
    compares_pages = {
        name for name, text in texts.items() if re.search(r"^import \w+_page$", text, flags=re.M)
    }
    assert left_out == reads_sources | executes_kernels | compares_pages
    for pattern in run.PART:
        assert any(fnmatch(name, pattern) for name in set(texts) - left_out), pattern
    for words in run.NEED_COMPILER:
        for word in re.findall(r"test_\w+", words):
            assert f"{word}.py" in texts or any(f"def {word}(" in text for text in texts.values()), word


# The workflows


def test_workflows_have_few_rights():
    """Text, not YAML: no parser of it is a dependency of the tests."""
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "release.yml"]
    for path in WORKFLOWS:
        text = path.read_text(encoding="utf-8")
        assert "\npermissions: {}\n" in text
        jobs = re.split(r"\n  (?=[a-z]+:\n    name:)", text.split("\njobs:\n")[1])
        for job in jobs:
            name = re.search(r"([a-z]+):\n", job)[1]
            rights = set(re.findall(r"^      ([a-z-]+: (?:write|read))\b", job, flags=re.M))
            publishing = {"id-token: write", "attestations: write"}
            assert rights == (publishing if name == "publish" else {"contents: read"}), (path.name, name)
            # Who may publish runs nothing of this repository.
            assert name != "publish" or not re.search(r"run:|checkout", job)
        assert "secrets." not in text and "pull_request_target" not in text
        assert text.count("actions/checkout@") == text.count("persist-credentials: false")


def test_actions_are_pinned_to_commits():
    for path in WORKFLOWS:
        uses = re.findall(r"uses: (.*)", path.read_text(encoding="utf-8"))
        assert uses
        for line in uses:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), (path.name, line)


def test_workflows_pass_a_linter():
    program = Path(sys.executable).parent / "zizmor"
    if not program.exists():
        pytest.skip("zizmor is not installed: pip install -r requirements-release.txt")
    command = [str(program), "--offline", "--persona", "pedantic", *map(str, WORKFLOWS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_workflows_fit_their_schema():
    schema = ("--builtin-schema", "vendor.github-workflows")
    done = tool("check_jsonschema", *schema, *WORKFLOWS)
    assert done.returncode == 0, done.stdout + done.stderr


# The bill of materials


def test_bill_of_materials(tmp_path):
    """Of this environment: fusedraw with what is compiled into it, and torch, in a document of the schema."""
    for module in ("cyclonedx_py", "cyclonedx"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install -r requirements-release.txt")
    if not any(d.metadata["Name"] == "fusedraw" for d in importlib.metadata.distributions()):
        pytest.skip("fusedraw is not installed here, only found")
    out = tmp_path / "sbom.json"
    command = [sys.executable, str(ROOT / "release" / "sbom.py"), sys.executable, str(out)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    document = json.loads(out.read_text(encoding="utf-8"))
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    by_name = {component["name"]: component for component in document["components"]}
    assert {"fusedraw", "torch", "numpy"} <= set(by_name)
    assert by_name["torch"]["version"] == torch.__version__
    inside = {part["name"] for part in by_name["fusedraw"]["components"]}
    with_cuda = {"libcudart_static"} if fusedraw.info()["cuda_archs"] else set()
    assert inside == {"pybind11", "PyTorch stable ABI headers"} | with_cuda
    assert "file:" not in out.read_text(encoding="utf-8"), "a folder of this machine"
    # The schema is known to refuse what is no document of its kind.
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(json.dumps(document)) is None
    document["components"].append({"name": "without a type"})
    assert validator.validate_str(json.dumps(document)) is not None
