#!/usr/bin/env bash
# kernel.sh: print the path of a kernel for a virtual machine: Debian's for clouds, unpacked into the cache and not installed.
set -euo pipefail
cache=${XDG_CACHE_HOME:-$HOME/.cache}/cmgr/vm
case $(uname -m) in
x86_64) flavour=cloud-amd64 ;;
*) echo "kernel.sh: a kernel is known for x86_64 only, not for $(uname -m)" >&2; exit 1 ;;
esac
package=$(apt-cache depends "linux-image-$flavour" | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
[ -n "$package" ] || { echo "kernel.sh: apt knows no linux-image-$flavour; apt-get update?" >&2; exit 1; }
if [ ! -e "$cache/$package" ]; then
	mkdir -p "$cache"
	work=$(mktemp -d "$cache/work.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	chmod 755 "$work" # apt downloads as a user of its own
	(cd "$work" && timeout 600 apt-get -qq download "$package" >&2 && dpkg-deb --fsys-tarfile ./*.deb | tar x --wildcards './boot/vmlinuz-*')
	mv "$work"/boot/vmlinuz-* "$cache/$package"
fi
echo "$cache/$package"
