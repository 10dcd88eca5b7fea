# Each target creates the environment that it needs. PYTHON is the interpreter, VENV the environment, PYTEST options of
# pytest, SITE the folder for the documentation. TORCH is the build of torch: cpu (200 MB), pypi (on Linux with CUDA, 5 GB
# and more), or auto: cpu where there is no NVIDIA GPU and TORCH_CPU_INDEX can be reached, else pypi.
PYTHON ?= python3
VENV ?= .venv
TORCH ?= auto
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check
# By a path file: with setuptools' default, `import audiovq` beside the clone finds the clone's folder, not the package.
EDITABLE := --config-settings editable_mode=compat -e
REACHABLE := import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=10)

PYTEST ?=
SITE ?= site
# Folder for the synthetic speech that `make models` makes.
KOKORO ?= kokoro_generated

.PHONY: demo test lint docs models clean

demo: $(VENV)/.installed
	$(BIN)/python recipes/demo/run.py

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --durations=15 $(PYTEST)

docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir $(abspath $(SITE))

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Bundled models from data: stages skip what is done.
models: $(VENV)/.installed-dev
	$(BIN)/python recipes/debian_speech/prepare.py
	$(BIN)/python recipes/kokoro_speech/fetch.py
	$(BIN)/python recipes/kokoro_speech/synthesize.py $(KOKORO) --hours 10
	$(BIN)/python recipes/kokoro_speech/prepare.py $(KOKORO)
	$(BIN)/python recipes/pitch_tracker/label.py debian_speech kokoro_speech
	$(BIN)/python recipes/pitch_tracker/pack.py debian_speech kokoro_speech
	$(BIN)/audiovq train experiment=pitch_tracker
	$(BIN)/python recipes/speech/teacher.py
	$(BIN)/audiovq train experiment=speech training.init_from=speech
	$(BIN)/python recipes/speech/bundle.py runs/speech/latest
	$(BIN)/python recipes/voice_conversion/make_speakers.py
	$(BIN)/python recipes/speech/entropy.py
	$(BIN)/python recipes/speech/concealment.py
	$(BIN)/audiovq train experiment=prior
	$(BIN)/python recipes/speech_generation/bundle.py
	$(BIN)/python recipes/speech_generation/choose.py
	$(BIN)/python recipes/speech_generation/measure.py
	$(BIN)/python recipes/images/prepare.py
	$(BIN)/python recipes/images/hierarchy.py
	$(BIN)/python recipes/images/bundle.py
	$(PIP) $(EDITABLE) ".[vizdoom]"
	$(BIN)/python recipes/video/record.py
	$(BIN)/audiovq train experiment=video_frames
	$(BIN)/audiovq train experiment=video_dynamics task.frames=video_frames
	$(BIN)/audiovq train experiment=video_dynamics task.frames=video_frames task.blind=true name=video_blind
	$(BIN)/python recipes/video/bundle.py
	$(BIN)/python recipes/video/evaluate.py

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The CPU build, where it is wanted and to be had; otherwise torch comes with the other packages.
$(VENV)/.torch: | $(BIN)/python
	@case "$(TORCH)" in \
	cpu) $(PIP) torch torchaudio --index-url "$(TORCH_CPU_INDEX)" ;; \
	pypi) ;; \
	auto) if nvidia-smi >/dev/null 2>&1; then \
	    echo "An NVIDIA GPU is here: torch with CUDA"; \
	  elif $(BIN)/python -c "$(REACHABLE)" "$(TORCH_CPU_INDEX)/" 2>/dev/null \
	      && $(PIP) torch torchaudio --index-url "$(TORCH_CPU_INDEX)"; then \
	    echo "No NVIDIA GPU is here: torch for the CPU (TORCH=pypi takes the other)"; \
	  else \
	    echo "$(TORCH_CPU_INDEX) cannot be reached: torch from PyPI"; \
	  fi ;; \
	*) echo "TORCH is auto, cpu or pypi, not $(TORCH)" >&2; exit 2 ;; \
	esac
	@touch $@

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "Installing audiovq into $(VENV)"
	$(PIP) $(EDITABLE) ".[pictures]"
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python $(VENV)/.torch
	@echo "Installing audiovq with everything for training, evaluation and tests into $(VENV) (some minutes)"
	$(PIP) $(EDITABLE) ".[train,eval,bench,tokens,video,web,vizdoom,world,docs,dev]"
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build site *.egg-info demo_output
