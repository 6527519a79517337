# Shared by the scripts in tools/. Source it; it sets ANNEAL_ROOT and changes nothing else.
ANNEAL_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# The cache folder and the venv's key follow the same rule in cmake/AnnealPackages.cmake.
anneal_cache_dir() { printf '%s/anneal' "${XDG_CACHE_HOME:-$HOME/.cache}"; }
anneal_lock_key() { sha256sum "$ANNEAL_ROOT/tools/requirements/$1.txt" | cut -c1-16; }
# Where the programs that check deploy/ lie, keyed by all that they are made of.
anneal_deploy_checks() {
  local key
  key=$(cd "$ANNEAL_ROOT/tools/deploy_checks" && find . -type f | LC_ALL=C sort | xargs sha256sum | sha256sum | cut -c1-16)
  printf '%s/deploy-checks-%s' "$(anneal_cache_dir)" "$key"
}
anneal_venv() { printf '%s/venv-%s' "$(anneal_cache_dir)" "$(anneal_lock_key build)"; }

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
die() {
  printf '\033[1;31merror:\033[0m %s\n' "$*" >&2
  exit 1
}

# run_logged NAME COMMAND...: runs quietly with its output in build/logs/NAME.log; on failure shows the log's end.
run_logged() {
  local name=$1 log="$ANNEAL_ROOT/build/logs/$1.log"
  shift
  mkdir -p "$ANNEAL_ROOT/build/logs"
  "$@" >"$log" 2>&1 || {
    tail -n 40 "$log" >&2
    die "$name failed; the whole log is in $log"
  }
}

# Rust from rustup comes first if it is there.
[ -d "$HOME/.cargo/bin" ] && PATH="$HOME/.cargo/bin:$PATH"
export PATH
