#!/bin/sh
# install.sh WHAT:PACKAGE… installs the Debian packages whose WHAT (a command,
# or a file by its absolute path) is missing.
set -eu
packages=
for pair in "$@"; do
	what=${pair%%:*} package=${pair#*:}
	case $what in
	/*) [ -e "$what" ] || packages="$packages $package" ;;
	*) command -v "$what" >/dev/null || packages="$packages $package" ;;
	esac
done
[ -n "$packages" ] || exit 0
if [ "$(id -u)" != 0 ]; then
	echo "missing:$packages. Install them (apt-get install$packages), or run this as root" >&2
	exit 1
fi
echo "installing$packages"
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
