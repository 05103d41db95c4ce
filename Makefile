# Two entries: `make demo` and `make test`. Both make .venv first, if it is missing; nothing outside it is touched.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint tools test-tools clean

demo: .venv/installed
	$(BIN)/python examples/digits/digits.py

# Two at a time: half of the tests wait for compilers and for processes that they have started.
test: test-tools .venv/installed-dev
	$(BIN)/python -m pytest -n 2

lint: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# What pip cannot install. Every tool that is missing is named before the first that stops the build.
tools:
	@ok=yes; \
	say() { echo "missing: $$1 (on Debian and Ubuntu: apt install $$2)" >&2; ok=no; }; \
	if ! command -v $(PYTHON) >/dev/null; then say "$(PYTHON)" python3; \
	else \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    say "Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Choose another: make PYTHON=..." python3; \
	  $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || say "Python's venv module" python3-venv; \
	fi; \
	command -v cc >/dev/null || say "a C compiler (cc)" gcc; \
	test $$ok = yes

# What the tests need besides: they simulate and synthesise the FPGA target's Verilog.
test-tools: tools
	@ok=yes; \
	for tool in g++ iverilog verilator yosys; do \
	  command -v $$tool >/dev/null || { echo "missing: $$tool (on Debian and Ubuntu: apt install $$tool)" >&2; ok=no; }; \
	done; \
	test $$ok = yes

.venv/bin/python: | tools
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/installed-dev: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@ .venv/installed

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
