# An index of plain commands; each can be typed without `just`.

# List the commands.
default:
    @just --list

# Everything that must be green before a change goes in.
check: fmt-check lint
    cargo test --workspace --locked

# The whole suite, as a newcomer runs it.
test:
    ./test

# A server with simulated channels and live sales; Ctrl-C stops it.
demo *args:
    ./demo {{args}}

# Format the code.
fmt:
    cargo fmt --all

# Say what is not formatted.
fmt-check:
    cargo fmt --all --check

# Lints; warnings are errors.
lint:
    cargo clippy --workspace --all-targets --locked -- -D warnings

# Durable reservations per second over HTTP, beside an empty endpoint.
bench *args:
    cargo run --release --locked --bin trueup -- bench {{args}}

# Licences, bans and sources of dependencies (needs cargo-deny).
deny:
    cargo deny check

# The documentation of the crates.
doc:
    cargo doc --workspace --no-deps --locked
