#!/usr/bin/env bash
# Makes a backup and proves that it can be restored. Arguments go to `manage.py backup_create`. For cron:
#   0 3 * * *  /srv/leadengine/deploy/scripts/backup.sh --kind daily
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python3 manage.py backup_create "$@"
python3 manage.py backup_verify --latest
