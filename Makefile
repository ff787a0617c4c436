# make demo and make test do everything on a fresh machine; `.venv` is what all targets use.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
NATIVE := wellfit/probe/native wellfit/slim/native wellfit/slim/wfz/coders/native
SOURCES := pyproject.toml setup.py $(wildcard $(NATIVE:=/*.c) $(NATIVE:=/*.h))

.PHONY: setup demo test test-extras check format bench clinic slim docs clean

setup: $(READY)

$(READY): $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 -e ".[dev]"
	touch $@

demo: setup
	@echo; echo '$$ wellfit run examples/digits_ill.py'
	@$(BIN)/wellfit run examples/digits_ill.py
	@echo; echo '$$ wellfit run examples/digits.py'
	@$(BIN)/wellfit run examples/digits.py

# A file's tests stay together: many look at programs that run once for the file.
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile

# The tests that need the heavy extras, which `make test` skips where they are not installed.
test-extras: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[onnx,quant]"
	$(BIN)/python -m pytest -n 2 tests/test_slim_export.py tests/test_slim_quantise.py -k "onnx or ONNX or torchao"

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup
	$(BIN)/python bench/coders.py
	$(BIN)/python bench/slim.py --quick
	$(BIN)/python bench/kernel.py
	$(BIN)/python bench/record.py
	$(BIN)/python bench/overhead.py

# A part of the clinic in some minutes; `.venv/bin/python bench/clinic.py --docs` is all of it, and writes its page.
clinic: setup
	$(BIN)/python bench/clinic.py --quick

# Two networks on handwritten digits made small, in about a minute: fails where a file is too large or too bad.
slim: setup
	$(BIN)/python bench/slim.py --quick

docs: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[docs]"
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs site
	@echo "site/index.html"

clean:
	rm -rf .venv build site *.egg-info $(NATIVE:=/*.so)
