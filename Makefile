# make book         run the notebooks, write the pages       make lab          open the notebooks
# make test         lint and test                            make bench        measure speed, write its page
# make test-lowest  test with the lower bounds               make test-latest  test with the newest of everything
# make results      make the shipped result files again
PYTHON ?= python3
BIN    := .venv/bin
READY  := .venv/.ready
STRIP  := $(BIN)/nbstripout --keep-id --verify

.DEFAULT_GOAL := book
.PHONY: python env env-lowest env-latest book lab results test test-lowest test-latest bench check-book clean

python:
	@$(PYTHON) -c 'import sys; sys.version_info < (3, 11) and sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11")'

$(READY): requirements.txt pyproject.toml | python
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	@touch $@

env: $(READY)

book: env
	@$(BIN)/python book/build.py $(ARGS)

lab: env
	$(BIN)/jupyter lab notebooks

results: env
	HF_HUB_OFFLINE=1 $(BIN)/python -m kn_utils.paper.shipped
	HF_HUB_OFFLINE=1 $(BIN)/python -m kn_utils.beyond.shipped_key

test: env
	$(BIN)/ruff check .
	find notebooks -name '*.ipynb' -not -path '*/.*' -exec $(STRIP) {} +
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal $(ARGS)

env-lowest env-latest: python
	$(PYTHON) tests/versions.py $(@:env-%=%) --install-only

test-lowest: python
	$(PYTHON) tests/versions.py lowest $(ARGS)

test-latest: python
	$(PYTHON) tests/versions.py latest --chapters $(ARGS)

bench: env
	@mkdir -p _build
	$(BIN)/python -m pytest -o addopts=--strict-markers -o python_files='bench_*.py' --benchmark-only \
		--benchmark-json=_build/bench.json tests/benchmarks $(ARGS)
	$(BIN)/python book/speed.py _build/bench.json

check-book: env
	@$(BIN)/python book/check.py $(ARGS)

clean:
	rm -rf _build .benchmarks .hypothesis .pytest_cache .ruff_cache
