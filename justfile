# Every check of the project by name. The workflows call these recipes, so nothing exists only in YAML.
# Tools beyond a Rust toolchain: cargo-nextest (test), cargo-hack (hack), cargo-deny (deny), rustup (msrv).

# What is built besides the default features: the control plane for tests, and TLS with one of its providers.
tls := "testing,tls-ring,tls-native-roots"

_default:
    @just --list --unsorted

# Format the code
fmt:
    cargo fmt --all

# Only look whether it is formatted
fmt-check:
    cargo fmt --all -- --check

# Clippy without a warning, as users build it and with TLS
lint:
    cargo clippy --all-targets -- -D warnings
    cargo clippy --all-targets --features {{ tls }} -- -D warnings

# All tests but the live ones; nextest has no doctests, so they run apart
test:
    cargo nextest run
    cargo test --doc

# The documentation without a warning, and as docs.rs shows it
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --all-features

# Each feature on its own, none and all; without dev-dependencies, because those switch `testing` on
hack:
    cargo hack check --each-feature --no-dev-deps

# The library on the oldest toolchain that Cargo.toml promises; rustup fetches it
msrv:
    cargo hack check --rust-version --no-dev-deps
    cargo hack check --rust-version --no-dev-deps --features {{ tls }}

# Advisories, licences, bans and sources of the dependencies
deny:
    cargo deny check

# Regenerate src/pb/generated from proto/; `just test` fails while they differ
codegen:
    UPDATE=1 cargo test --test codegen

# The figures beside their baselines, a package of its own; `just bench --quick` takes a minute
bench *arguments:
    cargo bench -p polarismesh-benches -- {{ arguments }}

# The suite against a real server; see CONTRIBUTING.md
live:
    @test -n "${POLARIS_SERVER_ADDRESS:-}" || { echo "set POLARIS_SERVER_ADDRESS to the host:port of a Polaris server" >&2; exit 1; }
    cargo test --test live -- --ignored --test-threads=1

# Everything that a change must pass
ci: fmt-check lint test doc hack msrv deny
