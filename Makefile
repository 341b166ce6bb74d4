# What CI runs and what a person runs: the same targets. Each does its own set-up.
#
#   make demo    the sidecar with everything embedded: needs no Kafka, no Redis
#   make test    formatting, lints, unit, integration and end-to-end tests
#   make e2e     the operator on a real Kubernetes node, which it brings up and takes down (KEEP=1 leaves it); part of `make test`
#   make e2e-huleedu   of its tests the four services of examples/huleedu alone: a batch of essays, duplicates, pods that are killed
#   make model   every interleaving of the claim protocol in small worlds, and what breaks without each of its clauses: minutes
#   make faults  faults at random over real Kafka, real Redis and the sidecar, for half an hour; a few minutes of it are part of `make test`
#                (ARGS="--rounds 1 --seconds 60 --seed 7" chooses, ARGS=--write keeps the tables)
#   make recovery   from SIGKILL of a sidecar until its partitions flow again, with the time-outs of production (8 minutes)
#   make lint    formatting, lints; licences, sources and bans of the dependencies
#   make bench   the sidecar beside the Python decorator and a naive loop, on real Kafka and Redis (ARGS=--write keeps the table)
#   make bench-parts   its parts alone, by criterion: event id, claims, the whole loop on a store in memory
#   make dist    what a release consists of, into dist/: static binaries, images, chart, install.yaml, SBOM, licences, checksums
#   make images  the two images, by docker, podman or buildah; without any, as archives in dist/images
#   make install-manifest   dist/install.yaml: the chart for `kubectl apply --server-side -f`
#   make cluster-up, cluster-down   a Kubernetes node without Docker (tests/cluster); CLUSTER=NAME for one beside others
#   make kind-up, kind-e2e, kind-down   the same tests on a kind cluster, where Docker is
#   make advisories   known vulnerabilities of the dependencies; apart, since a new one breaks a build that nobody changed

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# One profile for all of it, so that librdkafka and the rest are compiled once.
PROFILE := --release --locked

.PHONY: demo test model e2e e2e-huleedu faults recovery bench bench-parts lint clippy fmt fmt-check deny advisories setup setup-build dist binaries images \
  install-manifest release-files cluster-up cluster-down kind-up kind-e2e kind-down

demo: setup-build
	cargo run $(PROFILE) --quiet --bin sidecar -- demo

# `cargo test` builds the binaries, which integration tests start from the target folder, before it runs anything: with a `cargo build`
# before it, what stands on a crate that only tests give more features would be compiled twice. It ends with the summary of the last
# runner; a failure anywhere ends `make`.
test: setup fmt-check clippy
	cargo test $(PROFILE) --workspace
	target=$${CARGO_TARGET_DIR:-target}; $$target/release/faults --rounds 1 --seconds 150
	$(MAKE) e2e

# As for the tests: a `cargo build` has other features, and would compile all of it a second time.
model: setup-build
	cargo test $(PROFILE) --workspace --no-run
	target=$${CARGO_TARGET_DIR:-target}; "$$target/release/model" $(ARGS)

# On a node of its own, or on the cluster that KUBECONFIG names; tests/e2e/run says with which variables. ARGS=quickstart runs one.
e2e:
	[ -n "$${KUBECONFIG:-}" ] || scripts/setup e2e
	tests/e2e/run $(ARGS)

e2e-huleedu:
	$(MAKE) e2e ARGS=huleedu

# Built as for the tests, which have the sidecar's fail points.
faults: setup
	cargo test $(PROFILE) --workspace --no-run
	target=$${CARGO_TARGET_DIR:-target}; $$target/release/faults $(or $(ARGS),--rounds 9 --seconds 140 --rate 400 --write)

recovery: setup
	cargo test $(PROFILE) --workspace --no-run
	target=$${CARGO_TARGET_DIR:-target}; $$target/release/faults --write recovery $(ARGS)

bench:
	scripts/setup bench
	cargo build $(PROFILE) --bin sidecar --bin bench
	cargo run $(PROFILE) --quiet --bin bench -- $(ARGS)

bench-parts: setup-build
	cargo bench --profile release --locked -p idempotent-consumer-sidecar --benches

lint: fmt-check clippy deny

clippy: setup-build
	cargo clippy $(PROFILE) --workspace --all-targets -- -D warnings

fmt:
	cargo fmt --all

fmt-check:
	cargo fmt --all --check

deny:
	scripts/deny bans licenses sources

advisories:
	scripts/deny advisories

dist: binaries images install-manifest release-files

binaries:
	scripts/setup dist
	scripts/dist

images:
	scripts/images

install-manifest:
	mkdir -p dist
	scripts/install-manifest >dist/install.yaml

release-files:
	scripts/release-files

cluster-up:
	scripts/setup e2e
	tests/cluster/up

cluster-down:
	tests/cluster/down

kind-up:
	scripts/setup test
	cargo build $(PROFILE) --workspace
	tests/kind/up

kind-e2e:
	scripts/setup test
	tests/kind/e2e $(ARGS)

kind-down:
	tests/kind/down

setup:
	scripts/setup test

setup-build:
	scripts/setup build
