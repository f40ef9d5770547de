# Two commands do everything: `make demo` and `make test`. Both set up what is missing first.
PYTHON ?= python3
BIN    := .venv/bin
READY  := .venv/.ready
POLICY ?=
ROUNDS ?=
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# llama.cpp without its tools, examples and server: builds in two thirds of the time.
LLAMA_FLAGS := -DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
               -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_COMMON=OFF

.PHONY: demo demo-pluto test check bench controller setup edge edge-wheels packages clean

demo: $(READY)
	@$(BIN)/hil run $(if $(POLICY),--set policy.kind=$(POLICY)) $(if $(ROUNDS),--rounds $(ROUNDS))

# Cloud and edge as processes of their own, two emulated Plutos between them, and a broker.
demo-pluto: $(READY) packages
	@$(BIN)/hil demo-pluto $(if $(ROUNDS),--rounds $(ROUNDS))

test: $(READY) packages
	@$(BIN)/python -m pytest

check: $(READY)
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-cache > .lint-imports.log || { cat .lint-imports.log; exit 1; }
	@rm -f .lint-imports.log

bench: $(READY)
	@$(BIN)/hil bench link
	@$(BIN)/hil bench edge
	@$(BIN)/hil bench controller
	@$(BIN)/hil bench pluto

# The weights that ship: streams, learners, and the best of each kind into cloud/policies/weights.
controller: $(READY)
	@$(BIN)/hil train --out runs/train
	@cp runs/train/*.safetensors cloud/policies/weights/

setup: $(READY)

# torch goes first and pinned: an open range may pull gigabytes of CUDA.
$(READY): pyproject.toml constraints.txt
	@command -v c++ > /dev/null || { echo "llama.cpp is built from source: type  sudo apt-get install build-essential"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: type  make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "no venv module: type  sudo apt-get install python3-venv"; exit 1; }
	@echo "installing Python packages into .venv (llama.cpp is compiled once: about five minutes on two cores)"
	@$(BIN)/pip install --quiet $$(grep '^torch==' constraints.txt)
	@CMAKE_ARGS="$(LLAMA_FLAGS)" $(BIN)/pip install --quiet --constraint constraints.txt --editable '.[cloud,edge,pluto,test]'
	@touch $@

# An edge device alone, without torch: everything but llama.cpp has wheels for aarch64 (`make edge-wheels` shows it).
edge: .venv/.edge
.venv/.edge: pyproject.toml constraints.txt
	@command -v c++ > /dev/null || { echo "llama.cpp is built from source: type  sudo apt-get install build-essential"; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "no venv module: type  sudo apt-get install python3-venv"; exit 1; }
	@CMAKE_ARGS="$(LLAMA_FLAGS)" $(BIN)/pip install --quiet --constraint constraints.txt --editable '.[edge,pluto]'
	@touch $@

edge-wheels:
	@mkdir -p build/aarch64
	@$(PYTHON) -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; o = p['optional-dependencies']; \
	  print(*[r for r in p['dependencies'] + o['edge'] + o['pluto'] if not r.startswith('llama')], sep='\n')" > build/edge.txt
	@$(PYTHON) -m pip download --quiet --dest build/aarch64 --only-binary=:all: --python-version 3.11 --platform manylinux_2_28_aarch64 \
	  --platform manylinux2014_aarch64 --platform any --constraint constraints.txt --requirement build/edge.txt
	@echo "$$(ls build/aarch64/*.whl | wc -l) wheels for aarch64 in build/aarch64"

# The broker is for control.url = "mqtt://...", libiio for real and emulated radios; tests that need one say so.
packages:
	@missing=""; \
	[ -x /usr/sbin/mosquitto ] || command -v mosquitto > /dev/null || missing="$$missing mosquitto"; \
	command -v iio_info > /dev/null || missing="$$missing libiio0 libiio-utils"; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	    apt-get install -qq -y $$missing > /dev/null 2>&1 || { apt-get update -qq && apt-get install -qq -y $$missing; } > /dev/null 2>&1 \
	    || echo "missing (what needs them is skipped or says so): type  apt-get install$$missing"; \
	  else echo "missing (what needs them is skipped or says so): type  sudo apt-get install$$missing"; fi; fi

clean:
	rm -rf .venv .cache build dist *.egg-info
