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

# Compare with Python nnU-Net, part by part, and print the table
parity *arguments: setup setup-oracle
    rm -f target/parity.txt
    ROUNDS_PARITY_TABLE=$PWD/target/parity.txt cargo test --release --workspace --test parity -- --include-ignored {{ arguments }}
    printf '\n%-12s%-24s%-72s%14s%10s%10s%8s\n' stage 'data set' compared 'largest diff.' 'Rounds s' 'Python s' ratio
    sort -k2,2 -s target/parity.txt

# Kill everything at random, over jobs on the demo's data, until 200 processes were killed; an hour on two cores
chaos seed="1" kills="200": setup
    cargo build --release --workspace
    rm -rf target/chaos
    target/release/rounds demo --home target/chaos --rounds 1 --iterations 1
    ROUNDS_CHAOS_SEED={{ seed }} ROUNDS_CHAOS_KILLS={{ kills }} ROUNDS_CHAOS_DATA=$PWD/target/chaos/demo \
        cargo test --release --workspace --test system -- --ignored --nocapture many_random_kills

# Measure what a round costs without training, beside NVFLARE 2.9 in the same run
overhead rounds="6": setup
    #!/usr/bin/env bash
    set -euo pipefail
    test -x {{ tools }}/nvflare/bin/python || {{ python }} -m venv {{ tools }}/nvflare
    {{ tools }}/nvflare/bin/pip install -q 'nvflare==2.9.0' numpy
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    cargo test --release --workspace --test system -- --ignored --nocapture --test-threads 1 overhead_of_a | tee "$work/rounds"
    for peer in simulator poc; do
        for megabytes in 12 120; do
            {{ tools }}/nvflare/bin/python tests/oracle/overhead.py $peer $megabytes {{ rounds }} "$work/$peer-$megabytes" \
                2> "$work/log" | grep '"peer"' | tee -a "$work/nvflare"
        done
    done
    python3 tests/oracle/overhead.py ratios "$work/rounds" "$work/nvflare"

# Measure how a round's cost grows with the sites, and what a thousand rounds leave behind; stub trainers
scale: setup
    cargo test --release --workspace --test system -- --ignored --nocapture --test-threads 1 overhead_of_many

# Measure beside Python nnU-Net, command against command; `just bench --data FOLDER` takes the data sets in it
bench *arguments: setup setup-oracle build
    .tools/oracle/bin/python tests/oracle/bench.py target/release/rounds .tools/mni {{ arguments }}

# Train one federation with Rounds and with Python nnU-Net, score both on held-out cases; two hours on two cores
compare-federated data work rounds="20" iterations="10": setup setup-oracle build
    #!/usr/bin/env bash
    set -euo pipefail
    federated() { .tools/oracle/bin/python tests/oracle/federated.py "$@"; }
    federated split {{ data }} {{ work }}
    federated rounds {{ work }} {{ rounds }} {{ iterations }} target/release/rounds
    federated train {{ work }} {{ rounds }} {{ iterations }}
    federated score {{ work }} {{ work }}/rounds/Dataset*/nnUNetTrainer__nnUNetPlans__3d_fullres
    federated score {{ work }} {{ work }}/python

# Compare ways to federate with pooled training, over seeds; hours. See tests/oracle/study.py
study data work *arguments: setup setup-oracle build
    .tools/oracle/bin/python tests/oracle/study.py {{ data }} {{ work }} target/release/rounds {{ arguments }}

# Train one fold with Rounds and with Python nnU-Net, over seeds; two hours on two cores. See tests/oracle/seeds.py
seeds data work *arguments: setup setup-oracle build
    .tools/oracle/bin/python tests/oracle/seeds.py {{ data }} {{ work }} target/release/rounds {{ arguments }}

# Train five sites, one of which sends poisoned weights, by each average; held-out Dice. Hours on two cores
poisoned data rounds="20" iterations="10": setup
    cargo build --release --workspace
    ROUNDS_POISONED_DATA={{ data }} ROUNDS_POISONED_ROUNDS={{ rounds }} ROUNDS_POISONED_ITERATIONS={{ iterations }} \
        cargo test --release --workspace --test system -- --ignored --nocapture one_poisoned_site_of_five

# Measure resampling, cropping and hidden sums alone
bench-code: setup
    cargo bench --profile release --workspace --bench preprocess --bench secure_sum

# Check the form of the code, and that of an orchestrator without libtorch
lint: setup
    cargo fmt --all --check
    cargo clippy --release --workspace --all-targets -- -D warnings
    cargo clippy --release -p rounds --no-default-features -- -D warnings

# Check dashboards, alerts and runbooks: their form, and each panel of a real job that a real Prometheus reads. The
# tests' build makes the program: another choice of packages would compile torch-sys anew
check-dashboards *arguments: setup
    cargo test --release --workspace --no-run
    {{ python }} deploy/setup/checks.py {{ tools }}/checks prometheus
    {{ python }} dashboards/build.py --check
    {{ tools }}/checks/bin/python dashboards/check.py target/release/rounds {{ tools }}/mni {{ arguments }}

# Draw the dashboards as dashboards/screenshots from a Prometheus that `just check-dashboards --keep FOLDER` left; 430 MB
screenshots address start end:
    {{ python }} deploy/setup/checks.py {{ tools }}/checks screenshots
    {{ python }} dashboards/shots/shots.py {{ tools }}/checks/screenshots/node_modules {{ address }} {{ start }} {{ end }}

# Check what deploy/ ships with the tools of those who read it
check-deploy:
    {{ python }} deploy/setup/checks.py {{ tools }}/checks deploy
    NODE_MODULES={{ tools }}/checks/deploy/node_modules {{ python }} deploy/check.py {{ tools }}/checks/bin

# Join a hub out of a network from which only HTTPS through a proxy leads out, and train there; needs root
check-network: setup
    cargo test --release --workspace --no-run
    {{ python }} deploy/setup/checks.py {{ tools }}/checks network
    {{ python }} deploy/network.py target/release/rounds {{ tools }}/mni "$(command -v nats-server)"

# Make one archive that runs on any Linux since RHEL 8, of the CPU, or of CUDA behind `just setup-cuda`, and try it; needs root
bundle: setup
    cargo test --release --workspace --no-run
    {{ python }} deploy/setup/checks.py {{ tools }}/checks bundle
    rm -rf target/bundle
    {{ tools }}/checks/bin/python deploy/bundle.py make target/release/rounds {{ tools }} target/bundle
    {{ tools }}/checks/bin/python deploy/bundle.py check target/bundle/*.tar.gz {{ tools }}/mni

# Boot the kernel of a file, such as that of Ubuntu 18.04, in an emulated machine, and try what `just bundle` made under it
check-kernel vmlinuz:
    {{ python }} deploy/setup/checks.py {{ tools }}/checks kernel
    {{ tools }}/checks/bin/python deploy/bundle.py boot target/bundle/*.tar.gz {{ vmlinuz }}

# Install what `just bundle` made on a fresh Debian under systemd, as deploy/OPERATIONS.md says, and train there; needs root
check-systemd:
    {{ python }} deploy/setup/checks.py {{ tools }}/checks systemd
    {{ python }} deploy/machine.py target/release/rounds {{ tools }}/mni "$(command -v nats-server)" target/bundle/*.tar.gz

# Build the orchestrator's image with buildah, with --site that of a site too, and train with it; ten minutes each; needs root
check-image *arguments: setup
    cargo test --release --workspace --no-run
    {{ python }} deploy/setup/checks.py {{ tools }}/checks image
    {{ python }} deploy/image.py target/release/rounds {{ tools }}/mni "$(command -v nats-server)" {{ arguments }}

# Show the queue as KEDA reads it, and how long 1, 2 and 4 workers take to preprocess an nnU-Net raw data set
scaling data: build
    {{ python }} deploy/scaling.py target/release/rounds {{ data }}

# Write the table of dashboards/METRICS.md anew from the code
metrics: setup
    ROUNDS_WRITE_METRICS=1 cargo test --release --workspace --test system -- the_table_of_metrics

# Write schemas/v1 anew from the types
schemas: setup
    ROUNDS_WRITE_SCHEMAS=1 cargo test --release -p schemas --test published
