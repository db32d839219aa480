# Every target a person uses carries a `##` text; `make help` shows them all.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
CLUSTER ?= test
NAME ?= default
PY := .venv/bin/python
CLUSTERCTL := $(PYTHON) tests/cluster/cluster.py
IMAGES := $(PYTHON) tests/cluster/images.py
SOURCES := crds/src operator/src operator/kubectl/src trainer-image/src consumer-image/src
# Bytecode lies beside no source, but it is kept: importing torch and ultralytics anew costs seconds each time.
export PYTHONPYCACHEPREFIX := $(CURDIR)/.cache/bytecode
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## show every target
	@awk 'BEGIN {FS = ":.*## "; print "Azaion Training\n"} \
	  /^## / {printf "\n%s\n", substr($$0, 4)} \
	  /^[a-z0-9-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

## See it work

.PHONY: demo demo-down
demo: .venv/.ready ## annotations from a stream to a trained model on a real cluster, with pictures (CLUSTER=current: your own k3s or kind)
	$(PY) tests/demo/demo.py --cluster $(CLUSTER)
demo-down: .venv/.ready ## remove what `make demo` made
	$(PY) tests/demo/demo.py --cluster $(CLUSTER) --down

## Test it

# Most of these tests wait for somebody else most of the time, so there are more of them than cores.
ALL_AT_ONCE := -n 4 --dist loadscope --no-loadscope-reorder

.PHONY: check test test-faults test-gpu unit apiserver e2e
check: .venv/.ready lint types crd-check unit ## lint, types, import rules, unit and chart tests, CRD drift; about a minute
test: check cluster-build charttools-build images-build broker-install clock-install chromium-install ## everything: unit, API-server, browser and end-to-end tests with a few of each fault
	$(PY) -m pytest tests -m "(slow or apiserver or cluster or e2e) and not faults and not gpu" $(ALL_AT_ONCE) --durations=15
test-faults: .venv/.ready cluster-build images-build broker-install clock-install loki-build ## the long fault series on a real node
	$(PY) -m pytest tests -m faults
test-gpu: .venv/.ready ## the trainer's tests on this machine's own CUDA device
	$(PY) -m pytest tests/unit/azaion_trainer -m gpu -s
unit: .venv/.ready cluster-build ## unit and chart tests; no cluster runs, but helm is built
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target unit-one-half unit-other-half
# Torch is imported by one of the two alone, and nothing is collected twice.
ONE_HALF := $(addprefix tests/unit/,azaion_consumer azaion_kubectl azaion_operator_storage azaion_trainer demo images)
QUICK := -m "not slow and not gpu and not faults"
.PHONY: unit-one-half unit-other-half
unit-one-half:
	$(PY) -m pytest $(ONE_HALF) $(QUICK)
unit-other-half:
	$(PY) -m pytest tests/unit $(addprefix --ignore=,$(ONE_HALF)) $(QUICK)
apiserver: .venv/.ready cluster-build clock-install ## tests against a real API server without a node
	$(PY) -m pytest tests/apiserver
e2e: .venv/.ready cluster-build images-build ## end-to-end tests on a real node
	$(PY) -m pytest tests/e2e -m "not faults"

.PHONY: bench-ingest
bench-ingest: .venv/.ready broker-install ## how fast annotations become durable, beside yardsticks of the same run (about 10 minutes)
	$(PY) tests/bench/ingest.py

.PHONY: bench-page
bench-page: .venv/.ready ## the status page with 1,000 runs: at most 300 ms
	$(PY) tests/bench/status_page.py

.PHONY: chromium-install
chromium-install:
	command -v chromium >/dev/null || { apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium; }

.PHONY: bench-operator bench-trainer
RUNS ?= 5
bench-operator: .venv/.ready cluster-build ## the operator against a bare client, before a real API server (RUNS=5)
	$(PY) tests/bench/operator_bench.py --runs $(RUNS)
bench-trainer: .venv/.ready ## an epoch of the trainer against one of bare ultralytics (RUNS=5)
	$(PY) tests/bench/trainer_bench.py --runs $(RUNS)

.PHONY: broker-install clock-install
clock-install:
	test -e /usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1 || { apt-get update -qq && apt-get install -qq -y --no-install-recommends libfaketime; }
broker-install:
	test -x /usr/lib/rabbitmq/bin/rabbitmq-server || { apt-get update -qq && apt-get install -qq -y --no-install-recommends rabbitmq-server; }

.PHONY: lint types crd-check format
lint: .venv/.ready ## ruff
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
types: .venv/.ready ## mypy, strict
	.venv/bin/mypy $(SOURCES) tests/cluster/cluster.py tests/cluster/images.py
crd-check: .venv/.ready ## the CRDs are what the typed resources say
	$(PY) -m azaion_api.crd --check crds
	$(PY) -m azaion_api.crd --check charts/azaion/files/crds
format: .venv/.ready ## rewrite the sources in the one format
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

.PHONY: bench-dataset
bench-dataset: .venv/.ready ## forming a data set of 100,000 pairs, as a multiple of `cp -al` of the same run
	$(PY) tests/bench/dataset.py

## The test cluster

.PHONY: charttools-build loki-build
charttools-build: ## build helm 3 and the checks against Kubernetes 1.30 and 1.37, once (about 4 minutes on 2 cores)
	$(PYTHON) tests/charttools/charttools.py build
loki-build: ## build Loki, which the long series ask the documentation's questions, once
	$(PYTHON) tests/charttools/charttools.py build logs

.PHONY: cluster-build cluster-up cluster-down cluster-shell cluster-check
cluster-build: ## build the cluster's programs from source, once (about 9 minutes on 2 cores)
	$(CLUSTERCTL) build
cluster-up: cluster-build ## start a real Kubernetes (NAME=default, NODES=1)
	$(CLUSTERCTL) up --name $(NAME) $(if $(NODES),--nodes $(NODES))
cluster-down: ## end it and leave nothing behind (NAME=default)
	$(CLUSTERCTL) down --name $(NAME)
cluster-shell: ## a shell with kubectl, helm and KUBECONFIG of that cluster (NAME=default)
	$(CLUSTERCTL) shell --name $(NAME)
cluster-check: .venv/.ready ## check that a cluster can run the platform (CLUSTER=test or current)
	$(PY) tests/demo/cluster_check.py --cluster $(CLUSTER)

## Build it

.PHONY: images images-build release generate dashboards-pictures golden lock venv clean
images: images-build ## build the operator, consumer, trainer and test images (ENGINE=buildah, docker, podman or nerdctl)
images-build:
	$(IMAGES) build $(if $(ENGINE),--engine $(ENGINE))
release: .venv/.ready cluster-build ## make a release of what is committed into dist/ (VERSION=X.Y.Z)
	@test -n "$(VERSION)" || { echo "say which version: make release VERSION=X.Y.Z"; exit 1; }
	$(PY) tests/release/release.py build $(VERSION)
generate: .venv/.ready ## write the CRDs, the list of ultralytics arguments, the dashboards and the table of the chart's values anew
	$(PY) -m azaion_trainer.arguments --write
	$(PY) -m azaion_api.crd crds
	$(PY) -m azaion_api.crd charts/azaion/files/crds
	$(PY) charts/dashboards.py --write
	$(PY) tests/charttools/values_table.py --write
dashboards-pictures: .venv/.ready ## draw the dashboards of a running installation into docs/ (RUN=name; KUBECONFIG as in make cluster-shell)
	$(PY) tests/monitoring/pictures.py --run $(RUN)
golden: .venv/.ready cluster-build ## write what the chart renders anew into tests/unit/chart/golden; look at the difference
	$(PY) tests/unit/chart/golden.py
lock: .venv/.ready ## resolve the dependencies anew into the hash-pinned requirement files
	$(PY) tests/lock.py
venv: .venv/.ready ## the development environment in .venv
.venv/.ready: tests/requirements.txt tests/bootstrap-requirements.txt pyproject.toml $(wildcard */pyproject.toml */*/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=python3.11")'
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip >/dev/null
	$(PY) -m pip install -q --disable-pip-version-check --require-hashes -r tests/bootstrap-requirements.txt
	.venv/bin/uv pip install -q --python $(PY) --require-hashes -r tests/requirements.txt
	.venv/bin/uv pip install -q --python $(PY) --no-deps --no-build-isolation -e crds -e operator -e operator/kubectl -e trainer-image -e consumer-image
	touch $@
clean: ## remove what builds left in this directory (not the cluster's caches)
	rm -rf build dist .cache
