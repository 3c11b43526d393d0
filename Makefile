# make setup           the environment in .venv
# make test            lint, types and all tests but the page's
# make fuzz            an hour of damaged files (TRM_FUZZ_SECONDS=600 make fuzz: ten minutes)
# make chaos           runs that are killed, starved and interrupted, very often
# make demo            train a network on 9x9 Sudoku, evaluate it, watch it solve
# make docs            the documentation site, in build/site
# make notebooks       run the notebooks as they stand and keep what they print
# make release-check   build the wheel and try it in fresh environments, one for each of PYTHONS
# make page            the page that shows networks think, in the folder site (npm brings the browser's runtime)
# make test-page       the page's tests in a real browser (Chromium), and those of exported graphs

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
RUN := runs/demo
VENDOR := trm/page/vendor
RUNTIME := ort.wasm.min.mjs ort-wasm-simd-threaded.mjs ort-wasm-simd-threaded.wasm
PAGE := trm/export.py $(shell find trm/page -name '*.html' -o -name '*.css' -o -name '*.js' -o -name '*.py')
PYTHONS ?= $(PYTHON)

.PHONY: setup test fuzz chaos demo docs notebooks release-check page test-page clean

setup: .venv/ready

# Torch comes first and by its exact version, so that nothing else decides which build is taken. An index
# with CPU builds, or one for your GPU, can be set in pip's own configuration.
.venv/ready: Makefile pyproject.toml constraints.txt
	@echo 'Setting up .venv: this takes a few minutes, once.'
	@$(PYTHON) -m venv .venv
	@$(PIP) $(shell grep '^torch==' constraints.txt)
	@$(PIP) --constraint constraints.txt --editable '.[dev]'
	@touch $@

.venv/docs: .venv/ready
	@$(PIP) --constraint constraints.txt --editable '.[docs]'
	@touch $@

# Tests start many processes: what one has compiled, the others take. Types are checked meanwhile.
test: export PYTHONDONTWRITEBYTECODE =
test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check & types=$$!; $(BIN)/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder \
		&& { wait $$types || { echo 'Types do not fit: see what pyrefly says above.'; exit 1; }; }

fuzz: setup
	TRM_FUZZ_SECONDS=$${TRM_FUZZ_SECONDS:-3600} $(BIN)/pytest tests/fuzz

chaos: setup
	KILLS=100 EVERY=1 $(BIN)/pytest -s tests/chaos

demo: setup
	@rm -rf $(RUN)
	@echo "Training a network of 9,314 parameters on 1,000 newspaper Sudokus, for a minute or two. Ctrl-C stops it."
	@$(BIN)/trm train newspaper --out $(RUN)
	@echo
	@echo 'Measuring it on 1,000 Sudokus that it has never seen.'
	@$(BIN)/trm eval $(RUN) --data $(RUN)/data/test.csv
	@echo
	@echo 'Three of them, step by step.'
	@head -n 4 $(RUN)/data/test.csv | $(BIN)/trm solve - --model $(RUN)
	@echo
	@echo 'Next:'
	@echo '  $(BIN)/trm solve 8..........36......7..9.2...5...7.......457.....1...3...1....68..85...1..9....4..'
	@echo '  $(BIN)/trm plot $(RUN)'
	@echo '  $(BIN)/trm data grid --help'

docs: .venv/docs
	$(BIN)/zensical build --strict --clean

notebooks: .venv/docs
	PATH="$(CURDIR)/$(BIN):$$PATH" jupyter execute --inplace docs/notebooks/*.ipynb

release-check: setup
	$(BIN)/python tests/release.py $(PYTHONS)

page: site/models.json

$(VENDOR)/.ready: package.json
	npm install --ignore-scripts --no-audit --no-fund --no-package-lock
	mkdir -p $(VENDOR)
	cp $(addprefix node_modules/onnxruntime-web/dist/,$(RUNTIME)) $(VENDOR)
	touch $@

site/models.json: .venv/ready $(VENDOR)/.ready $(PAGE)
	$(BIN)/trm page mini sudoku-9x9 maze-30x30 --out site

test-page: page
	PAGE_TESTS=yes $(BIN)/pytest tests/page

clean:
	rm -rf .venv runs build dist site node_modules $(VENDOR)
