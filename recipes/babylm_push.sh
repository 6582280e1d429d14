#!/usr/bin/env bash
# babylm_push.sh FOLDER REPOSITORY: the folders that babylm.sh exported, main and chck_1M …, as branches of a repository on
# the Hugging Face Hub, such as me/babylm-1111. Needs a network and the package huggingface_hub, logged in (hf auth login).
set -euo pipefail
[ $# -eq 2 ] || { echo "usage: babylm_push.sh FOLDER REPOSITORY" >&2; exit 2; }
[ -e "$1/main/config.json" ] || { echo "$1/main is no exported model; babylm.sh makes it" >&2; exit 1; }
for folder in "$1"/main "$1"/chck_*; do
    [ ! -e "$folder/config.json" ] || hf upload "$2" "$folder" . --revision "$(basename "$folder")"
done
