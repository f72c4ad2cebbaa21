# Everything sets itself up: `make demo` and `make test` are all that a fresh clone needs.
PYTHON ?= python3.11
BIN := .venv/bin

# Nothing leaves the machine unasked: MLflow's telemetry is off unless you have set the variable.
export MLFLOW_DISABLE_TELEMETRY ?= true

.PHONY: demo personalisation notebooks site test short-faults faults fuzz audit lint ui bench results systems lock
SMALL := --width 0.25 --epochs 16 --batch_size 8 --learning_rate 0.01

demo: .venv/ready
	$(BIN)/exvo main --model cnn10-relative $(SMALL)

# Does knowing the speaker help? The plain CNN10 and the personalised one on the same clips with the same budget.
personalisation: .venv/ready
	$(BIN)/exvo main --model cnn10 --protocol strict $(SMALL)
	$(BIN)/exvo main --model cnn10-relative $(SMALL)
	$(BIN)/exvo compare --a cnn10 --b cnn10-relative --split val
	$(BIN)/exvo compare --a cnn10 --b cnn10-relative --split test
	$(BIN)/exvo enrolment-curve --run_id cnn10-relative --split test

# The notebooks with their outputs, in output/notebooks; `make site` shows them. They read the runs that `make personalisation` makes.
notebooks: .venv/ready
	$(BIN)/jupyter-nbconvert --execute --to notebook --output-dir output/notebooks --log-level ERROR --KernelManager.transport_encryption=auto notebooks/*.ipynb

# The documentation as a site, output/site/index.html. Every warning is an error; nothing is fetched.
site: .venv/ready
	rm -rf output/site
	$(BIN)/sphinx-build -q -W --keep-going -n -b html docs output/site
	@echo "output/site/index.html"

test: .venv/ready
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# What breaks in the middle. `make test` leaves out what needs real servers, launchers and kills (marked `slow`) and
# what takes minutes (marked `long`): the first alone, as .ci/run does it, then both.
short-faults: .venv/ready
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m slow

faults: .venv/ready
	$(BIN)/python -m pytest -m "slow or long"

# Hostile input for everything that reads: 10,000 each, in some minutes on two cores.
fuzz: .venv/ready
	$(BIN)/python -m fuzz

# Known vulnerabilities of the pinned libraries, as PyPI knows them.
audit: .venv/ready
	$(BIN)/python tests/audit_packages.py

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ui: .venv/ready
	$(BIN)/mlflow ui --host 127.0.0.1 --port 5000

bench: .venv/ready
	$(BIN)/python -m benchmarks

# Recognisers on real people, into docs/results.md: hours. What exists is not done again.
results: .venv/ready
	$(BIN)/python -m benchmarks.results

# All 23 published systems for one epoch at a small width, then their results table: that they run, not how good they are.
systems: .venv/ready
	$(BIN)/python -m benchmarks.systems

# Pins of all libraries with their hashes, extras included; and for conda and `mlflow run` those that an entry point needs.
lock: .venv/ready
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet --output-file requirements.lock
	$(BIN)/python tests/conda_pins.py > conda.yaml

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$$(grep -o '^uv==[0-9.]*' requirements.lock)"
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes --requirements requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@
