# Sourced by test-systemd and test-docker: when to skip, how to wait, how to count.
# shellcheck shell=bash disable=SC2154 # `here` and `tree` are the caller's

passed=0 failed=0
work=${work:-$(mktemp -d)}
chmod 711 "$work"  # containers of other users look into it

# skip WHY: ends, and that is no failure.
skip() {
  echo "skipped: $*"
  trap - EXIT
  rm -rf "$work"
  exit 0
}

# skip_unless_able PROGRAM...: says "skipped: why" and ends, where this machine cannot run the test.
skip_unless_able() {
  [ "$(uname -s)" = Linux ] || skip "this is not Linux"
  [ "$(id -u)" = 0 ] || skip "it needs root, for namespaces of its own"
  for program; do
    PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null || skip "there is no $program"
  done
  unshare --mount --pid --fork --cgroup true 2>/dev/null || skip "this machine grants no namespaces"
  "$here/testing/namespace" mount -t tmpfs none /mnt 2>/dev/null ||
    skip "this machine grants no mounts or no cgroup v2 of its own"
}

# is CLAIM COMMAND...: counts whether the command succeeds; shows what it said if it does not.
is() {
  local claim=$1
  shift
  if "$@" >"$work/said" 2>&1; then
    passed=$((passed + 1))
    echo "ok    $claim"
  else
    failed=$((failed + 1))
    echo "FAIL  $claim"
    tail -n 15 "$work/said" | sed 's/^/      /'
    if declare -F when_failed >/dev/null; then when_failed | tail -n 20 | sed 's/^/      | /'; fi
    # (a sabotage is found out by then)
    if [ -n "${first_failure_ends:-}" ]; then exit 1; fi
  fi
}

# within SECONDS COMMAND...: tries until it succeeds.
within() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.1
  done
}

# closing: the last line and the exit code; anything that ended early counts as a failure.
closing() {
  local code=$1
  if [ "$code" != 0 ] && [ "$failed" = 0 ]; then failed=1; fi
  echo "$passed passed, $failed failed"
  [ "$failed" = 0 ]
}

# quietly COMMAND...: shows what it said only if it fails.
quietly() {
  "$@" >"$work/said" 2>&1 || { cat "$work/said"; return 1; }
}

# prepare: sets `root`, a minimal Debian 12 with Python, and there in /wheels the wheel of this tree
# and everything pinned that it and its build need. Its pip knows no other place.
prepare() {
  root=${TRACKOFFLINE_TEST_CACHE:-$work}/rootfs
  if ! [ -x "$root/lib/systemd/systemd" ]; then
    echo "      making a root file system"
    "$here/testing/rootfs" "$root" systemd systemd-sysv dbus libnss-systemd \
      python3 python3-venv python3-pip curl iproute2 >"$work/said" 2>&1 ||
      { rm -rf "$root"; skip "no Debian to be had here: $(head -n 1 "$work/said")"; }
  fi
  echo "      building the wheel, fetching what it needs"
  rm -rf "$root/wheels" "$root/opt/trackoffline" "$root"/etc/systemd/system/trackoffline* "$root/etc/trackoffline"
  python3 -m venv "$work/build"
  quietly "$work/build/bin/pip" install -q -r "$tree/requirements-build.txt"
  mkdir "$work/source"
  (cd "$tree" && cp -r proxy migrations deploy pyproject.toml README.md LICENSE config.example.toml "$work/source")
  quietly "$work/build/bin/pip" wheel -q --no-deps --no-build-isolation -w "$root/wheels" "$work/source"
  quietly "$work/build/bin/pip" download -q --require-hashes --only-binary :all: --no-deps \
    --python-version 3.11 -d "$root/wheels" -r "$tree/requirements.txt" -r "$tree/requirements-build.txt"
  printf '[global]\nno-index = true\nfind-links = /wheels\ndisable-pip-version-check = true\n' >"$root/etc/pip.conf"
}
