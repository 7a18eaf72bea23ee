# `make quickstart` and `make test` also install everything that they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 10000

.PHONY: quickstart install test test-web fuzz kill lint format clean

quickstart: install
	$(BIN)/python distill/run.py experiments/quickstart.yaml

install: $(VENV)/.installed

$(VENV)/.installed: setup.py constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -e . -c constraints.txt
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/pip install -e ".[test]" -c constraints.txt
	touch $@

test: $(VENV)/.installed-test lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

# Test the web page in headless Chromium. Needs npm, chromium, chromedriver; without them `make test` skips these tests.
test-web: $(VENV)/.installed-test node_modules/onnxruntime-web/package.json
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/students/test_export_web.py

node_modules/onnxruntime-web/package.json: students/export/web.py
	npm install --prefix . --no-save --no-audit --no-fund --ignore-scripts \
		$$($(BIN)/python -c 'from students.export.web import PACKAGE, VERSION; print(f"{PACKAGE}@{VERSION}")')
	touch $@

# Give the commands 1,000 damaged inputs, a few minutes: tests/fuzz.py.
fuzz: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz.py

# Kill the line at 200 random moments, about half an hour: tests/kill.py.
kill: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python tests/kill.py

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) node_modules *.egg-info
