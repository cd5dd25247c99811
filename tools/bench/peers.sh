#!/usr/bin/env bash
# Runs cmgr beside other supervisors over the same components, interleaved, and prints medians and their ratios to the limit of
# process creation in C. The drivers are those of ../shared/bench/peers; they want root, a cgroup v2, gcc and python3.
#
#	tools/bench/peers.sh [N…]                  numbers of components; 100 and 1000 if none is given
#	LIFECYCLE=1                                cmgr's components have lifecycle channels (and are not stopped in the figures)
#	ROUNDS=5 PEERS='c-limit cmgr runit s6 supervisord' RESTARTS=5 OUT=FILE
set -euo pipefail
cd "$(dirname "$0")/../.."
top=$PWD
peers=../shared/bench/peers
rounds=${ROUNDS:-5}
counts=${*:-100 1000}

skip() { echo "bench: skipped: $*"; exit 0; }
[ -d "$peers" ] || skip "no $peers"
[ "$(id -u)" = 0 ] || skip 'needs root'
for tool in gcc python3; do command -v $tool >/dev/null || skip "needs $tool"; done
unified=$(awk '$0 ~ / - cgroup2 / { print $5; exit }' /proc/self/mountinfo)
[ -n "$unified" ] || skip 'needs a cgroup v2'

work=$(mktemp -d)
trap 'rm -rf "$work"; rmdir "$unified/research" 2>/dev/null || true' EXIT
cp -r "$peers" "$work/peers"
chmod -R u+w "$work/peers"
cd "$work/peers"
sed -i "s|/sys/fs/cgroup/unified|$unified|" drive.py
gcc -O2 -w -o spawn-limit spawn-limit.c
for c in tiny tinyterm; do
	gcc -O2 -static -nostdlib -fno-stack-protector -fno-pie -no-pie -Wl,--build-id=none -Wl,-z,noseparate-code -o comp/$c comp/$c.c
done
# None of the others confines anything; what that costs is tools/bench/confined.py's.
echo '{ security_policy: { sandbox: { unconfined: [ "/**" ] } } }' >"$work/bare.json5"
(cd "$top" && CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o "$work/cmgr" ./cmd/cmgr)

has() {
	case $1 in
	runit*) command -v runsvdir ;;
	s6) command -v s6-svscan ;;
	supervisord) command -v supervisord ;;
	*) true ;;
	esac >/dev/null
}
out=${OUT:-$work/results.jsonl}
: >"$out"
for n in $counts; do
	for round in $(seq "$rounds"); do
		for peer in ${PEERS:-c-limit cmgr runit s6 supervisord}; do
			has "$peer" || { [ "$round" != 1 ] || echo "bench: $peer is not installed" >&2; continue; }
			[ "$n" -le 1000 ] || case $peer in runit*) continue ;; esac # runsvdir serves 1,000 at most
			what=boot,memory,restart,stop name=$peer
			[ "$peer" != c-limit ] || what=boot
			[ "$peer" != cmgr ] || name=custom
			[ "$peer" != cmgr ] || [ -z "${LIFECYCLE:-}" ] || what=boot,memory,restart
			echo "bench: N=$n round $round: $peer" >&2
			CUSTOM_GEN="'$top/tools/bench/gen.sh' \"\$D\" \"\$N\" \"\$TINY\"" \
				CUSTOM_RUN="'$work/cmgr' run \"\$D/root.cml\" --config '$work/bare.json5' --name bench-$$ --state \"\$D/state\"" CUSTOM_STOP='' \
				timeout 600 ./drive.py "$name" "$n" --what $what --timeout 300 --restarts "${RESTARTS:-5}" --json >>"$out" ||
				echo "bench: N=$n round $round: $peer gave no result" >&2
		done
	done
done
python3 "$top/tools/bench/table.py" "$out"
