# make demo, make test: each creates the environment it needs. PYTHON chooses the interpreter, VENV the environment.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check

.PHONY: demo test lint models clean

demo: $(VENV)/.installed
	$(BIN)/python recipes/demo/run.py

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Every bundled model from data: stages skip what is done.
models: $(VENV)/.installed-dev
	$(BIN)/python recipes/debian_speech/prepare.py
	$(BIN)/audiovq train experiment=speech_debian
	$(BIN)/python recipes/debian_speech/bundle.py
	$(BIN)/audiovq train experiment=verifier_debian
	$(BIN)/audiovq train experiment=voice_debian
	$(BIN)/python recipes/voice_conversion/bundle.py --books 2
	$(BIN)/audiovq train experiment=wavenet_debian
	$(BIN)/python recipes/debian_speech/bundle_wavenet.py
	$(BIN)/audiovq train experiment=prior_debian
	$(BIN)/python recipes/speech_generation/bundle.py

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "Installing audiovq into $(VENV) (torch is large: some minutes the first time)"
	$(PIP) -e ".[pictures]"
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	@echo "Installing audiovq with everything for training, evaluation and tests into $(VENV)"
	$(PIP) -e ".[train,eval,bench,tokens,dev]"
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build *.egg-info demo_output
