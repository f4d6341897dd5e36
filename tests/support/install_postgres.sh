#!/usr/bin/env bash
# Install Debian's PostgreSQL for the tests of fleets, where this is root's machine and none is found. Never fails:
# without it those tests are skipped with the reason.
set -u
command -v pg_ctl > /dev/null && exit 0
ls /usr/lib/postgresql/*/bin/initdb > /dev/null 2>&1 && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
  { apt-get update -q && apt-get install -y -q --no-install-recommends postgresql; } > /dev/null 2>&1 ||
    echo "PostgreSQL cannot be installed; tests of fleets are skipped" >&2
fi
exit 0
