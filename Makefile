# Two commands for a bare machine with Python 3.11 or newer: `make demo` and `make test`.
# Each creates .venv and installs what it needs the first time.
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do \
	  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# Of the documentation, whose packages are not the library's.
SITE ?= .venv-docs
DATA ?= $(HOME)/tensorflow_datasets

# A newer interpreter, with the newest JAX that supports it.
NEWER ?= $(shell for p in python3.13 python3.12 $(HOME)/.pyenv/versions/3.12*/bin/python; do \
	  $$p -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && echo $$p && break; done)

.PHONY: demo test test-longer newer test-newer test-types types lint evidence atlas solvers advice fractal2d \
	statistics train-demo faults docs clean

demo: $(STAMP)
	$(RUN) main.py --config=configs/demo.py --workdir=out/demo --mode=demo

test: $(STAMP)
	$(RUN) -m pytest -n 2 --dist loadfile

# What takes too long for every day: tests of over half a second, every variant and pair of rules, solvers
# and networks, whole studies, processes that are killed.
test-longer: $(STAMP)
	$(RUN) -m pytest -n 2 --dist loadfile -m longer

# Says whether there is one.
newer:
	@test -n "$(NEWER)" && echo $(NEWER)

# The same tests on a newer Python with a newer JAX, where there is an interpreter.
test-newer:
	@test -n "$(NEWER)" || { echo "no Python 3.12 or newer here: make NEWER=... names one"; exit 1; }
	test -x .venv-newer/bin/python || $(NEWER) -m venv .venv-newer
	.venv-newer/bin/python -m pip install --quiet -e ".[dev]"
	.venv-newer/bin/python -m pytest -n 2 --dist loadfile

# Core, guidance, samplers and models with every annotation checked at every call.
test-types: $(STAMP)
	GUIDESTAR_TYPECHECK=1 $(RUN) -m pytest -n 2 --dist loadfile tests/core tests/guidance \
	  tests/samplers tests/models

# The package by its name, wherever the checkout lies and whatever it is called.
types: $(STAMP)
	@mkdir -p $(VENV)/checked && ln -sfn "$(CURDIR)" $(VENV)/checked/guidestar
	MYPYPATH=$(VENV)/checked $(VENV)/bin/mypy

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# The documentation as a site, in site/; a broken link is an error (and would be none with --quiet).
# It needs nothing of the library.
docs: $(SITE)/.installed
	NO_MKDOCS_2_WARNING=1 $(SITE)/bin/mkdocs build --strict

$(SITE)/.installed: pyproject.toml
	test -x $(SITE)/bin/python || $(PYTHON) -m venv $(SITE)
	$(SITE)/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"] \
	  ["optional-dependencies"]["docs"], sep="\n")' > $(SITE)/requirements.txt
	$(SITE)/bin/python -m pip install --quiet -r $(SITE)/requirements.txt
	@touch $@

# Every rule's claim, 2 000 images a row against the stored statistics of the real set.
evidence: $(STAMP)
	$(RUN) main.py --config=configs/evidence.py --workdir=out/evidence --mode=evidence
	cp out/evidence/evidence.json weights/fashion_mnist_evidence.json
	cp out/evidence/evidence.md docs/evidence.md
	$(RUN) main.py --config=configs/evidence.py --workdir=docs --mode=advice

# Every rule once, with a pair of pictures: docs/atlas.md. Pictures that are current are kept.
atlas: $(STAMP)
	$(RUN) main.py --config=configs/atlas.py --workdir=docs --mode=atlas

# Every solver against its evaluations, on an exact mixture and on 1 000 images: docs/samplers.md.
solvers: $(STAMP)
	$(RUN) main.py --config=configs/solvers.py --workdir=out/solvers --mode=solvers
	cp out/solvers/samplers.json out/solvers/samplers.md out/solvers/samplers.png docs/
	$(RUN) main.py --config=configs/evidence.py --workdir=docs --mode=advice

# docs/choose.md from studies/advice/page.md and the figures that the two above have stored.
advice: $(STAMP)
	$(RUN) main.py --config=configs/evidence.py --workdir=docs --mode=advice

# The published two-class fractal: trains three networks, samples, measures, draws.
fractal2d: $(STAMP)
	$(RUN) main.py --config=configs/fractal2d.py --workdir=out/fractal2d --mode=fractal2d

# Train again the weights that are shipped; DATA is a TFDS folder that holds fashion_mnist.
train-demo: $(STAMP)
	for name in fashion_mnist_classifier fashion_mnist_guide fashion_mnist_dit; do \
	  $(RUN) main.py --config=configs/$$name.py --config.data.dir=$(DATA) --workdir=out/$$name \
	    && $(RUN) main.py --config=configs/$$name.py --workdir=out/$$name --mode=export \
	    || exit 1; done

# The real sets' statistics that are shipped; DATA is a TFDS folder that holds fashion_mnist and cifar10.
statistics: $(STAMP)
	for name in evidence cifar10_evidence; do \
	  $(RUN) main.py --config=configs/$$name.py --config.data.dir=$(DATA) --workdir=out/statistics \
	    --mode=statistics || exit 1; done
	$(RUN) main.py --config=configs/sweeps/digits.py --workdir=out/statistics --mode=statistics
	cp out/statistics/*_statistics.safetensors out/statistics/*_statistics.json weights/

# Kill, stop, starve and damage training runs; each must go on to the undisturbed run's parameters.
faults: $(STAMP)
	PYTHONPATH=tests $(RUN) tests/processes/faults.py

$(STAMP): pyproject.toml setup.py
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or newer is needed: install it, or name it with make PYTHON=..."; exit 1; }
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet -e ".[dev]"
	@touch $(STAMP)

clean:
	rm -rf $(VENV) .venv-newer $(SITE) site out build *.egg-info
