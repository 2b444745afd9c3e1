# SPDX-License-Identifier: Apache-2.0
"""The layers: core <- reference | cpu | cuda <- ops <- bindings <- pyext, never sideways, never back; simt,
which runs cuda on the host, is included by cuda/platform.cuh alone. And no code of an instruction set can be
linked in where another processor would run it."""

import ast
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import fusedraw
import pytest

ROOT = Path(__file__).resolve().parent.parent
CSRC, PYEXT = ROOT / "csrc", ROOT / "pyext"
if not CSRC.is_dir():
    pytest.skip(f"no sources beside the tests: {CSRC}", allow_module_level=True)

# Layer -> layers whose headers it may include.
MAY_INCLUDE = {
    "core": {"core"},
    "reference": {"core", "reference"},
    "cpu": {"core", "cpu"},
    "cuda": {"core", "cuda"},
    "simt": {"core", "simt"},
    "ops": {"core", "reference", "cpu", "cuda", "ops"},
    "bindings": {"core", "ops", "bindings"},
}
SUFFIXES = {".h", ".cpp", ".inl", ".cu", ".cuh"}
SOURCES = sorted(p for p in CSRC.rglob("*") if p.suffix in SUFFIXES)
# The one file of cuda that knows whether nvcc or a host compiler reads it.
PLATFORM = CSRC / "cuda" / "platform.cuh"
DEVICE_SOURCES = [p for p in SOURCES if p.parent == PLATFORM.parent and p != PLATFORM]
BUILD_SCRIPTS = [ROOT / "setup.py", ROOT / "build_cuda.py", ROOT / "build_sdist.py"]
MAX_LINES = 450  # of a file, blank ones apart: what is longer holds more than one thing
TEST_MODULES = ("engines", "operations_r1", "row_kinds", "strategies")
# All that core may take from outside: no torch, no CUDA runtime, no containers, nothing that allocates.
CORE_HEADERS = {"<cstdint>", "<cstring>", "<cstddef>", "<climits>", "<limits>", "<type_traits>"}
ALLOCATES = re.compile(r"\b(malloc|calloc|realloc|aligned_alloc|free|new|delete|std::vector|std::string)\b")
FORBIDDEN_FLAGS = re.compile(
    r"-march|-mtune|-mavx|-mfma|-msse|-ffast-math|-Ofast|-funsafe|-ffp-contract=fast|-fopenmp"
    r"|fast_math|-fmad=true|-ftz=true|-prec-(div|sqrt)=false|--extra-device-vectorization"
)


def layer_of(path):
    return path.relative_to(CSRC).parts[0]


def code_of(path):
    """The text without comments."""
    text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.S)
    return re.sub(r"//[^\n]*", "", text)


def includes_of(path):
    return re.findall(r'^\s*#\s*include\s*("[^"]+"|<[^>]+>)', code_of(path), flags=re.M)


def setup_value(name):
    """A literal that setup.py assigns."""
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == name:
            return ast.literal_eval(node.value)
    raise AssertionError(f"setup.py assigns no {name}")


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


# Includes


def test_every_source_belongs_to_a_layer():
    assert len(SOURCES) > 30
    for path in SOURCES:
        assert layer_of(path) in MAY_INCLUDE, path


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(CSRC)))
def test_includes(path):
    for name in includes_of(path):
        if name[0] == '"':
            target = (path.parent / name.strip('"')).resolve()
            assert target.is_file() and CSRC in target.parents, f"{path} includes {name}"
            allowed = MAY_INCLUDE[layer_of(path)] | ({"simt"} if path == PLATFORM else set())
            assert layer_of(target) in allowed, f"{path}: {layer_of(path)} must not include {name}"
        else:
            check_outside(path, name)


def check_outside(path, name):
    layer = layer_of(path)
    if layer == "core":
        assert name in CORE_HEADERS, f"{path} includes {name}"
    if re.match(r"<(torch|ATen|c10)/", name):
        assert layer == "ops", f"{path} includes {name}"
        assert re.match(r"<torch/(csrc/stable|headeronly)/", name), f"{path}: {name} is no stable ABI"
    if name.startswith("<pybind11/") or name == "<Python.h>":
        assert layer == "bindings", f"{path} includes {name}"
    if name.startswith("<cuda"):
        assert path == PLATFORM, f"{path} includes {name}"


def test_core_allocates_nothing():
    for path in SOURCES:
        if layer_of(path) == "core":
            assert path.suffix == ".h" and not ALLOCATES.search(code_of(path)), path


def test_core_functions_have_internal_linkage():
    """FD_FN or constexpr: a plain `inline` one compiled for AVX-512 could stand in for everybody's."""
    for path in SOURCES:
        if layer_of(path) == "core" and path.name != "config.h":
            assert not re.search(r"\binline\b", code_of(path)), path


def test_reference_uses_nothing_of_the_fast_path():
    for path in SOURCES:
        if layer_of(path) == "reference":
            assert not re.search(r"immintrin|__builtin_ia32|\b_mm\d*_|target\(", path.read_text()), path


def test_one_file_declares_the_operators():
    """schema.h holds the schemas; cuda_ops.cpp gives them to the tests' library too, under its own name."""
    defined = re.compile(r"\b(?:STABLE_)?TORCH_LIBRARY(?:_FRAGMENT)?\s*\(\s*(\w+)")
    found = {str(p.relative_to(CSRC)): defined.findall(code_of(p)) for p in SOURCES}
    assert {path: names for path, names in found.items() if names} == {
        "ops/schema.cpp": ["fusedraw"],
        "ops/cuda_ops.cpp": ["fusedraw_simt"],
    }
    schemas = [
        p
        for p in SOURCES
        if re.search(r"\bm\.def\(\s*\"(sample|row_keys|derive_keys|softmax|filter|multi)", code_of(p))
    ]
    assert [p.name for p in schemas] == ["schema.h"]


# CUDA. What nvcc compiles and what the executor runs is the same text.


@pytest.mark.parametrize("path", DEVICE_SOURCES, ids=lambda p: p.name)
def test_device_code_is_the_same_everywhere(path):
    code = code_of(path)
    directives = set(re.findall(r"^\s*#\s*(\w+)", code, flags=re.M))
    assert directives <= {"pragma", "include", "define", "undef"}, f"{path}: {directives}"
    assert set(re.findall(r"^\s*#\s*pragma\s+(\w+)", code, flags=re.M)) <= {"once", "unroll"}, path
    for word in (r"__CUDA\w*__", r"\basm\b", r"\batomic[A-Z]\w*", r"\b__ld\w+", "<<<"):
        found = re.search(word, code)
        assert found is None, f"{path}: {found[0]} belongs in platform.cuh"
    assert not re.search(r"\btorch\b|\bat::", code), path


@pytest.mark.parametrize("path", [PLATFORM, CSRC / "simt" / "platform.h"], ids=lambda p: p.parent.name)
def test_atomics_are_of_integers(path):
    if not path.exists():
        pytest.skip(f"no {path}")
    types = re.findall(r"\batomic_\w+\(\s*(\w+)\s*\*", code_of(path))
    assert types and set(types) <= {"uint32_t", "uint64_t"}


def test_every_cuda_source_is_listed():
    listed = setup_value("CUDA_SOURCES")
    assert sorted(listed) == sorted(str(p.relative_to(ROOT)) for p in SOURCES if p.suffix == ".cu")


def test_passes_are_written_once():
    """Each instruction set includes the same engine after its verbs, and defines no loop itself."""
    for name in ("scalar", "avx2", "avx512", "neon"):
        includes = includes_of(CSRC / "cpu" / f"{name}.cpp")
        assert ('"passes/engine.inl"' in includes and f'"simd_{name}.h"' in includes) or name == "neon"
        assert not re.search(r"\b(for|while)\s*\(", code_of(CSRC / "cpu" / f"{name}.cpp"))


def test_python_layers():
    """The package imports nothing of the tests, benchmarks or examples, and of R1 only torch-free parts."""
    for path in PYEXT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.split(".")[0] not in ("tests", "benchmarks", "examples", *TEST_MODULES), path
    loaded = "import sys, fusedraw.reference as r; print('numpy' in r.__dict__ or 'torch' in r.__dict__)"
    assert run(sys.executable, "-c", loaded).strip() == "False"


# Files


def own_files():
    yield from SOURCES
    for folder in ("pyext", "benchmarks"):
        yield from (p for p in (ROOT / folder).rglob("*.py") if "build" not in p.parts)
    yield from (p for p in (ROOT / "benchmarks").glob("*.cpp"))


def test_files_are_short():
    long = {}
    for path in own_files():
        lines = sum(bool(line.strip()) for line in path.read_text().splitlines())
        if lines >= MAX_LINES:
            long[str(path.relative_to(ROOT))] = lines
    assert not long


def test_licence_line_first():
    for path in [*own_files(), *(ROOT / "tests").glob("*.py"), *BUILD_SCRIPTS]:
        first = next((line for line in path.read_text().splitlines() if not line.startswith("#!")), "")
        assert first.endswith("SPDX-License-Identifier: Apache-2.0"), path


# The build


def test_build_flags():
    for script in BUILD_SCRIPTS:
        code = "\n".join(line.split("#")[0] for line in script.read_text().splitlines())
        assert not FORBIDDEN_FLAGS.search(code), script
    flags = setup_value("COMPILE_ARGS")
    assert "-ffp-contract=off" in flags and "-fvisibility=hidden" in flags
    flags = setup_value("NVCC_ARGS")
    assert "-fmad=false" in flags
    host = next(f for f in flags if f.startswith("-Xcompiler=")).removeprefix("-Xcompiler=").split(",")
    assert {"-ffp-contract=off", "-fvisibility=hidden", "-fPIC"} <= set(host)
    for path in SOURCES:
        assert not re.search(r"pragma\s+STDC\s+FP_CONTRACT\s+ON|fast-math|optimize\(", code_of(path)), path


def test_every_source_is_built():
    """But the executor, which only tests build."""
    sources = setup_value("SOURCES") + setup_value("CUDA_HOST_SOURCES")
    compiled = sorted(
        str(p.relative_to(ROOT)) for p in SOURCES if p.suffix == ".cpp" and layer_of(p) != "simt"
    )
    assert sorted(sources) == compiled


# Machine code. A function of a library, or an inline one of ours, that is compiled within a target region
# under its common name may be the copy that the linker keeps for all: then a processor without that
# instruction set stops at it.

needs_x86 = pytest.mark.skipif(
    "x86_64" not in sysconfig.get_platform(), reason=f"no AVX on {sysconfig.get_platform()}"
)


def tool(name):
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    return name


def vector_functions(library):
    """{name: widest register} of the functions that use registers or encodings of AVX and later."""
    found, name = {}, None
    text = run(tool("objdump"), "-d", "--no-show-raw-insn", "-C", str(library))
    for line in text.splitlines():
        start = re.match(r"[0-9a-f]+ <(.*)>:$", line)
        if start:
            name = start[1]
        elif name and (
            instruction := re.match(r"\s*[0-9a-f]+:\s+(v[a-z0-9]+\s.*|.*%[yz]mm.*|.*%k[1-7].*)", line)
        ):
            width = max(re.findall(r"%([xyz]mm)", instruction[1]), default="xmm")
            found[name] = max(found.get(name, ""), width)
    return found


@needs_x86
def test_library_code_is_for_every_processor():
    """In the extension: vector code lies in functions of ours only, or of a library over types of ours."""
    library = Path(fusedraw._C.__file__)
    found = vector_functions(library)
    assert "zmm" in found.values(), "no vector code found: is the extension built for x86-64?"
    common = set()
    for line in run(tool("nm"), "-C", "--defined-only", str(library)).splitlines():
        kind, name = line.split(maxsplit=2)[1:]
        if kind in "TWVui":
            common.add(name)
    for name, width in found.items():
        name = name.removesuffix(" [clone .cold]")
        assert name not in common, f"{name} uses {width} and is not local"
        assert "fusedraw::" in name, f"{name} uses {width} and is not ours"
        if not name.startswith("fusedraw::"):
            assert "fusedraw::(anonymous namespace)::" in name, f"{name}: a library function by a common name"


@needs_x86
def test_no_vector_code_runs_at_load():
    """Initialisers run on every processor."""
    assert not [
        n for n in vector_functions(fusedraw._C.__file__) if n.startswith(("_GLOBAL__", "_init", "PyInit"))
    ]


@needs_x86
@pytest.mark.parametrize("name", ["avx2", "avx512"])
def test_objects_define_one_symbol(name, tmp_path):
    """Compiled alone with the flags of setup.py, an instruction set gives its engine and nothing that the
    linker could merge."""
    compiler = shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    target = tmp_path / f"{name}.o"
    flags = [f for f in setup_value("COMPILE_ARGS") if not f.startswith("-W")]
    run(compiler, *flags, "-fPIC", "-c", str(CSRC / "cpu" / f"{name}.cpp"), "-o", str(target))
    listing = run(tool("nm"), "-C", "--defined-only", str(target)).splitlines()
    symbols = [line.split(maxsplit=2)[1:] for line in listing]
    shared = [symbol for kind, symbol in symbols if kind in "TWVui"]
    assert shared == [f"fusedraw::{name}_engine()"]
