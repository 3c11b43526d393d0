# make setup   the environment in .venv
# make test    lint, types and all tests
# make fuzz    an hour of damaged files (TRM_FUZZ_SECONDS=600 make fuzz: ten minutes)
# make chaos   runs that are killed, starved and interrupted, very often
# make demo    train the small 6x6 Sudoku model, evaluate it, watch it solve

PYTHON ?= python3
BIN := .venv/bin
RUN := runs/demo

.PHONY: setup test fuzz chaos demo clean

setup: .venv/ready

# Torch comes first and by its exact version, so that nothing else decides which build is taken. An index
# with CPU builds, or one for your GPU, can be set in pip's own configuration.
.venv/ready: Makefile pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check $(shell grep '^torch==' constraints.txt)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check
	$(BIN)/pytest --numprocesses auto

fuzz: setup
	TRM_FUZZ_SECONDS=$${TRM_FUZZ_SECONDS:-3600} $(BIN)/pytest tests/fuzz

chaos: setup
	KILLS=100 EVERY=1 $(BIN)/pytest -s tests/chaos

demo: setup
	rm -rf $(RUN)
	$(BIN)/trm train mini --out $(RUN)
	$(BIN)/trm eval $(RUN) --data $(RUN)/data/test.csv --all-steps
	head -n 4 $(RUN)/data/test.csv | $(BIN)/trm solve - --model $(RUN)

clean:
	rm -rf .venv runs build dist
