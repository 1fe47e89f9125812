# make demo: environment, the `shapes` pipeline, its figures.  make test: the tests.  make setup: the environment alone.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup aside demo test lint types clean

setup: .venv/.ready .tools/img2dataset/.ready

.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v in ((3, 11), (3, 12)) else f"Python 3.11 or 3.12 is needed, this is {v[0]}.{v[1]}: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# img2dataset pins and shadows what Prefect needs: it lives in an environment of its own.
.tools/img2dataset/.ready: constraints-img2dataset.txt
	$(PYTHON) -m venv .tools/img2dataset
	.tools/img2dataset/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-img2dataset.txt img2dataset
	@touch $@

# For the tests that need them: open_clip imports transformers wherever it finds it, which every process would wait for, and
# img2dataset's environment has no Ray unless somebody wants it.
aside: .tools/transformers/.ready .tools/ray/.ready

.tools/transformers/.ready: .venv/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --upgrade --target $(@D) -c constraints.txt transformers
	@touch $@

.tools/ray/.ready: .venv/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --upgrade --target $(@D) -c constraints.txt ray
	@touch $@

demo: setup
	$(BIN)/unclip run shapes
	$(BIN)/unclip metrics shapes
	@echo report: $$($(BIN)/unclip report shapes)

# Files of tests in two processes, one thread each.
test: setup aside
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

clean:
	rm -rf .venv .tools build *.egg-info
