# Read by the scripts beside it: options as --name=value, a dry run, refusals in one line.

fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Print a command so that a shell reads it back as it is, and execute it unless this is a dry run.
execute() {
  # In one piece: several may say so at once.
  printf '%s\n' "$(printf '%q ' "$@")"
  [ "$DRY_RUN" = yes ] || "$@"
}

# The words of main.py, quoted for a shell, from those after `--`.
quoted() { printf '%q ' "$@"; }

# Set OPTION_<name> from --name=value up to `--`, for the names in $OPTIONS; the rest is $MAIN.
parse() {
  DRY_RUN=no
  while [ $# -gt 0 ]; do
    case "$1" in
      --dry-run) DRY_RUN=yes ;;
      --help) sed -n '2,/^$/s/^# \{0,1\}//p' "scripts/$(basename "$0")"; exit 0 ;;
      --) shift; MAIN=("$@"); break ;;
      --*=*)
        local name="${1%%=*}"; name="${name#--}"
        [[ " $OPTIONS " == *" $name "* ]] || fail "unknown option --$name (see $0 --help)"
        printf -v "OPTION_${name//-/_}" '%s' "${1#*=}" ;;
      *) fail "unexpected argument $1: options are --name=value, main.py's come after --" ;;
    esac
    shift
  done
  [ "${#MAIN[@]}" -gt 0 ] || fail "main.py's own options are missing: end with -- --config=... --workdir=..."
  local word given=""
  for word in "${MAIN[@]}"; do case "$word" in --config=*) given+=c ;; --workdir=*) given+=w ;; esac; done
  [[ "$given" == *c* && "$given" == *w* ]] || fail "main.py needs --config=... and --workdir=... after --"
}

# Refuse an option that was left out.
need() {
  local name
  for name in "$@"; do
    local variable="OPTION_${name//-/_}"
    [ -n "${!variable:-}" ] || fail "--$name is missing (see $0 --help)"
  done
}

# Refuse a sweep of several machines whose storage would be a file of one of them.
need_shared_storage() {
  local word
  for word in "${MAIN[@]}"; do
    case "$word" in --config.sweep.storage=sqlite*) break ;; --config.sweep.storage=?*) return ;; esac
  done
  fail "main.py needs --config.sweep.storage=postgresql://... or journal:PATH after --, which all machines reach"
}

MAIN=()
