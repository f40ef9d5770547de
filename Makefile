# Two commands do everything: `make demo` and `make test`. Both set up what is missing first.
#   make demo POLICY=airllm ROUNDS=5    another rank policy, fewer rounds
#   make demo MODEL=smollm2              a real language model of 135 M parameters, 93 MB to download
#   make demo TORCH=cuda                torch with CUDA, 3 GB, where the CPU build is the default
PYTHON ?= python3
POLICY ?=
ROUNDS ?=
MODEL  ?=
TORCH  ?= cpu
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
BIN    := .venv/bin
# Tests in a process a core; tests of one file share their set-up, so they stay together.
SPREAD := --numprocesses logical --maxprocesses 4 --dist loadfile
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo demo-pluto test test-fast check bench controller edge packages clean

demo: .venv/.ready-demo-$(if $(MODEL),$(MODEL)-)$(TORCH)
	@$(BIN)/hil run $(if $(MODEL),--config $(MODEL)) $(if $(POLICY),--set policy.kind=$(POLICY)) $(if $(ROUNDS),--rounds $(ROUNDS))

# Cloud and edge as processes of their own, two emulated Plutos between them, and a broker.
demo-pluto: .venv/.ready-demo-pluto-$(TORCH) packages
	@$(BIN)/hil demo-pluto $(if $(ROUNDS),--rounds $(ROUNDS))

test: .venv/.ready-test-$(TORCH) packages
	@$(BIN)/python -m pytest $(SPREAD)

# For every save: all that takes seconds.
test-fast: .venv/.ready-test-$(TORCH)
	@$(BIN)/python -m pytest $(SPREAD) -m "not slow"

check: .venv/.ready-check-$(TORCH)
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy --no-error-summary && $(BIN)/mypy --no-error-summary --strict setup/install.py
	@$(BIN)/lint-imports --no-cache > .venv/lint-imports.log || { cat .venv/lint-imports.log; exit 1; }

bench: .venv/.ready-demo-pluto-$(TORCH)
	@$(BIN)/hil bench link
	@$(BIN)/hil bench edge
	@$(BIN)/hil bench controller
	@$(BIN)/hil bench pluto

# The weights that ship: streams, learners, and the best of each kind into cloud/policies/weights.
controller: .venv/.ready-demo-$(TORCH)
	@$(BIN)/hil train --out runs/train
	@cp runs/train/*.safetensors cloud/policies/weights/

# An edge device alone, without torch.
edge: .venv/.ready-edge-$(TORCH)

# What each target needs of the extras in pyproject.toml.
.venv/.ready-demo-pluto-%:  EXTRAS = cloud edge pluto
.venv/.ready-demo-%:        EXTRAS = cloud edge
.venv/.ready-demo-smollm2-%: EXTRAS = cloud edge smollm2
.venv/.ready-edge-%:        EXTRAS = edge pluto
.venv/.ready-test-%:        EXTRAS = test
.venv/.ready-check-%:       EXTRAS = check
.venv/.ready-%: pyproject.toml constraints.txt setup/install.py
	@command -v $(PYTHON) > /dev/null && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: type  make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) setup/install.py $(EXTRAS) --torch $(TORCH) --cpu-index $(TORCH_CPU_INDEX)
	@touch $@

# The broker is for control.url = "mqtt://...", libiio for real and emulated radios.
packages:
	@missing=""; \
	[ -x /usr/sbin/mosquitto ] || command -v mosquitto > /dev/null || missing="$$missing mosquitto"; \
	command -v iio_info > /dev/null || missing="$$missing libiio0 libiio-utils"; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	    echo "installing$$missing"; \
	    apt-get install -qq -y $$missing > /dev/null 2>&1 || { apt-get update -qq && apt-get install -qq -y $$missing; } > /dev/null 2>&1 \
	    || echo "missing (what needs them is skipped or says so): type  apt-get install$$missing"; \
	  else echo "missing (what needs them is skipped or says so): type  sudo apt-get install$$missing"; fi; fi

clean:
	rm -rf .venv .cache build dist *.egg-info
