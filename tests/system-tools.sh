#!/bin/sh
# System tools of the end-to-end tests: installed with apt where that is allowed, otherwise named.
set -u
missing=""
for pair in tmux:tmux sshd:openssh-server chromium:chromium slurmctld:slurm-wlm munged:munge; do
  tool=${pair%%:*}
  PATH="$PATH:/usr/sbin" command -v "$tool" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  # shellcheck disable=SC2086
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing >/dev/null; } && exit 0
fi
echo "system tools not installed:$missing (their tests are skipped; install them with your package manager)" >&2
exit 0
