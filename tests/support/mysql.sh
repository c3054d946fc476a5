#!/usr/bin/env bash
# Fetches MySQL from Debian's unstable suite into a folder of its own; nothing is installed.
# Usage: tests/support/mysql.sh [FOLDER]
set -euo pipefail

folder=${1:-${DJ_NPY_TEST_MYSQL:-$HOME/.cache/dj-npy-tests/mysql}}
[ -x "$folder/usr/sbin/mysqld" ] && exit

mkdir -p "$(dirname "$folder")"
work=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{lists,cache,debs,root}

# The archive this machine has its packages from.
archive=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | head -n 1)
[ -n "$archive" ] || { echo "apt knows no archive of Debian: apt-get update" >&2; exit 1; }
keys=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$keys] $archive sid main" >"$work/sources.list"
options=(
    -qq -o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache" -o Acquire::Languages=none
    -o APT::Sandbox::User=root # nobody else may write here
)
apt-get "${options[@]}" update
mapfile -t packages < <(
    apt-cache "${options[@]}" depends --recurse --no-recommends --no-suggests --no-conflicts \
        --no-breaks --no-replaces --no-enhances mysql-server-core | grep '^[a-z]' | sort -u
)
(cd "$work/debs" && apt-get "${options[@]}" download "${packages[@]}")
for package in "$work"/debs/*.deb; do
    dpkg -x "$package" "$work/root"
done
chmod 755 "$work/root"
mv -T "$work/root" "$folder"
