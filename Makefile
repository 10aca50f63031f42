# make demo   the complete workflow on generated road scenes
# make test   every test
# make soak   the long tests: trainings interrupted at 20 random moments a signal, whole matrices (an hour)
# make fuzz   damaged inputs for every parser, MINUTES=5 in all; what fails is kept in fuzz-failures/
# make oracle-check   asks TensorFlow again for the answers that are kept for the tests, and compares
# make lint   ruff, mypy, the order of the layers, the licences of all dependencies, and whether the pages of docs/ build
# make docs   the pages of docs/ as a site, with the references of configuration and Python, in docs/_build/html
# make wheel  dist/resight-VERSION-py3-none-any.whl; the same source makes the same bytes
# make image  the container image; docs/container.md has its arguments. ENGINE=podman or buildah
# make test-image  builds it and holds it against docs/container.md
# make push REPOSITORY=...  pushes it and prints the name with the digest to launch
# make local-run   trains in the container on this machine, data and run in LOCAL_DATA_PATH; .env.example explains it
# make ecs-run     the same with data and run in S3, as the container would run on ECS; nothing is started in AWS
# Each makes the environment it needs first. `make VENV=path ...` uses, and installs into, one that exists.

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# A process a core; one that is done takes tests over from another. `make test PARALLEL=` runs them in one process.
PARALLEL ?= --numprocesses auto --maxprocesses 8 --dist worksteal
MINUTES ?= 5
ENGINE ?= docker
IMAGE ?= resight
BUILD ?=
PIP := $(BIN)/python -m pip install --disable-pip-version-check
# Warnings, a link that leads nowhere among them, are errors; no other site is asked.
SPHINX := $(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --doctree-dir docs/_build/doctrees

.PHONY: demo test soak fuzz oracle-check lint docs format wheel image test-image push local-run ecs-run clean

demo: $(VENV)/.resight-demo
	$(BIN)/resight demo --out demo --force

test: $(VENV)/.resight-dev
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

soak: $(VENV)/.resight-dev
	RESIGHT_SOAK=20 $(BIN)/python -m pytest -m soak $(PARALLEL) $(ARGS)

fuzz: $(VENV)/.resight-dev
	$(BIN)/python tests/fuzz/fuzz.py --minutes $(MINUTES) $(ARGS)

oracle-check: $(VENV)/.resight-dev
	$(BIN)/python tests/oracles.py $(ARGS)

# Variables of the command line reach the script as environment: make local-run NUM_STEPS=1000
local-run ecs-run:
	@$(PYTHON) image/run.py $(@:-run=)

lint: $(VENV)/.resight-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python tests/licences.py
	$(SPHINX) -b dummy docs docs/_build/html

docs: $(VENV)/.resight-dev
	$(SPHINX) docs docs/_build/html
	@echo docs/_build/html/index.html

format: $(VENV)/.resight-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Without an isolated environment: the builder came with the environment, so that this asks no network.
wheel: $(VENV)/.resight-dev
	rm -f dist/resight-*.whl
	$(BIN)/python -m hatchling build --target wheel --directory dist

# The arguments of the Dockerfile are variables; BUILD holds more options of the engine. Buildah must be told to keep
# layers.
image: wheel
	$(ENGINE) build $(if $(findstring buildah,$(ENGINE)),--layers) $(BUILD) --tag $(IMAGE) \
	    $(foreach name,TORCH_INDEX EXTRAS,$(if $($(name)),--build-arg '$(name)=$($(name))')) \
	    --build-arg VERSION="$$(basename dist/*.whl | cut -d- -f2)" \
	    --build-arg GIT_COMMIT="$$(git describe --always --dirty --abbrev=40 --exclude='*')" .

test-image: image
	$(BIN)/python tests/image/check.py $(ENGINE) $(IMAGE)

push: $(VENV)/.resight-dev
	$(BIN)/python image/push.py $(ENGINE) $(IMAGE) '$(REPOSITORY)'

clean:
	rm -rf .venv dist docs/_build .mypy_cache .pytest_cache .ruff_cache .hypothesis

# A stamp in the environment: what pyproject.toml asks for is installed again when it has changed.
$(VENV)/.resight-demo: pyproject.toml | $(BIN)/python
	$(PIP) --editable '.[onnx]'
	@touch $@

$(VENV)/.resight-dev: pyproject.toml | $(BIN)/python
	$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.resight-demo

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
