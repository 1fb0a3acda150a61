#!/usr/bin/env bash
# Brings a backup back: the file that is named, else the newest. Asks first, unless --yes is given too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
for word in "$@"; do
  case "$word" in
    --*) ;;
    *) exec python3 manage.py backup_restore "$@" ;;
  esac
done
exec python3 manage.py backup_restore --latest "$@"
