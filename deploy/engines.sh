#!/bin/sh
# Installs the programs a cluster runs that no wheel holds, where they are missing: as root on Debian or Ubuntu. Elsewhere
# it says what to install, and exits with 2.
#
#     deploy/engines.sh etcd java mvn redis-server
set -eu

packages=
for program in "$@"; do
    command -v "$program" >/dev/null && continue
    case $program in
        etcd) packages="$packages etcd-server" ;;
        java) packages="$packages default-jre-headless" ;;
        mvn) packages="$packages maven" ;;
        *) packages="$packages $program" ;;
    esac
done
[ -n "$packages" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "Install what is missing first:$packages (as Debian and Ubuntu call it)." >&2
    exit 2
fi

echo "Installing$packages"
# What is installed is not to be started: a cluster starts its own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
# shellcheck disable=SC2086  # several words
apt-get -qq install --no-install-recommends -y $packages >/dev/null
