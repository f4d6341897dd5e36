#!/usr/bin/env bash
# Install Debian's PostgreSQL and nginx for the tests of fleets, where this is root's machine and one is missing. Never
# fails: without them those tests are skipped with the reason.
set -u
missing=()
command -v pg_ctl > /dev/null || ls /usr/lib/postgresql/*/bin/initdb > /dev/null 2>&1 || missing+=(postgresql)
PATH=$PATH:/usr/sbin command -v nginx > /dev/null || missing+=(nginx-light)
[ ${#missing[@]} = 0 ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
  { apt-get update -q && apt-get install -y -q --no-install-recommends "${missing[@]}"; } > /dev/null 2>&1 ||
    echo "${missing[*]} cannot be installed; their tests are skipped" >&2
fi
exit 0
