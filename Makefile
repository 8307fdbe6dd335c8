# Everything that is done with this repository. `make help` lists it.

SECONDS_EACH ?= 10
CALLS ?= 200000
ROUNDS ?= 10
SEED ?= 1

.DEFAULT_GOAL := help
.PHONY: help run test nightly recipes chaos bench fuzz docs lint

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' $(MAKEFILE_LIST)

run: ## install redis-server if it is missing, build, start with proxy.toml (embedded mode)
	@.ci/install run
	cargo run --release --locked -- --config proxy.toml

test: ## install what the tests need (Redis, clients in several languages) and run them all
	@.ci/install test
	cargo test --locked

nightly: ## hold the scripts, and queues of several partitions, against their models for long, from a seed that it prints: make nightly CALLS=1000000 SEED=7
	@.ci/install test
	MILLRACE_MODEL_CALLS=$(CALLS) $(if $(filter file,$(origin SEED)),,MILLRACE_MODEL_SEED=$(SEED)) cargo test --locked --test it -- model:: spread:: --nocapture

recipes: ## run each program of docs/recipes against a proxy
	@.ci/install test
	cargo test --locked --test it -- recipes

chaos: ## break everything that can break under load, again and again, and print what it cost: make chaos ROUNDS=50 SEED=7
	@.ci/install test
	MILLRACE_CHAOS_ROUNDS=$(ROUNDS) MILLRACE_CHAOS_SEED=$(SEED) cargo test --locked --test it -- chaos --include-ignored --nocapture --test-threads=1

bench: ## run Millrace and its peers side by side and print one table
	benches/run

fuzz: ## run each fuzz target for a while: make fuzz SECONDS_EACH=600
	@.ci/install fuzz
	fuzz/run $(SECONDS_EACH)

docs: ## write docs/config.md anew from the doc comments of src/config/file.rs
	MILLRACE_WRITE_DOCS=1 cargo test --locked --lib config::docs

lint: ## what CI asks before it runs the tests
	cargo fmt --all --check
	cargo clippy --all-targets --locked -- -D warnings
