#!/usr/bin/env bash
# Fetches the same files by cmgr from cmgr bootserver, by Erlang's loader from erl_boot_server, and by a plain copy over TCP, interleaved, on
# the loopback of a network namespace: one large file, which nobody keeps, and many small ones, which all write to files: on a file system
# in memory, and on a disk: a new ext4 in a file. Prints medians, and the medians of the pairs' ratios.
#
#	tools/bench/inet.sh
#	ROUNDS=5 LARGE=268435456 SMALL=4096 COUNT=2000 OUT=FILE
#
# cmgr's figures are those of the whole command, from its start to its end. Erlang's and the plain copy's are of the fetching and writing
# alone, in a process that runs already. "erl, unwritten" is Erlang's with nothing done with what comes.
#
# The ext4 is new, and all that is written is left until its end: it gives no inode away that was freed in the last minute, but looks at each
# of them whenever one is wanted. After another run's end, or rm, that takes longer than all that is measured here.
set -euo pipefail
if [ -z "${IN_NETNS:-}" ]; then
	cd "$(dirname "$0")/../.."
	skip() { echo "inet: skipped: $*"; exit 0; }
	[ "$(id -u)" = 0 ] || skip 'needs root'
	for tool in erl python3 unshare ip mkfs.ext4; do command -v $tool >/dev/null || skip "needs $tool"; done
	[ -d ../shared/conformance/erlang/oracle ] || skip 'no ../shared'
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o "$work/cmgr" ./cmd/cmgr
	export IN_NETNS=1 work ORACLE=$PWD/../shared/conformance/erlang/oracle/erl_boot_server.sh
	# All processes end with the PID namespace.
	unshare -m -n -p -f --kill-child --mount-proc bash "$PWD/tools/bench/inet.sh" | tee "${OUT:-/dev/null}"
	exit
fi
rounds=${ROUNDS:-5} large=${LARGE:-268435456} small=${SMALL:-4096} count=${COUNT:-2000}
cd "$work"
ip link set lo up
mkdir files memory disk
mount -t tmpfs none memory
truncate -s 2G image
mkfs.ext4 -q -F -N 200000 image
mount -o loop image disk
head -c "$large" /dev/urandom >files/large
for i in $(seq "$count"); do head -c "$small" /dev/urandom >"files/$i"; done
version=$(erl -noshell -eval 'io:format("~s",[erlang:system_info(version)]),halt().')
export ERL_CRASH_DUMP_SECONDS=0
./cmgr bootserver --addr 127.0.0.1 --allow 127.0.0.1 --root / 2>cmgr.log &
"$ORACLE" --addr 127.0.0.2 --allow 127.0.0.1 --root / >erl.log 2>&1 &
cat >plain.py <<'PY'
import os, socket, sys, time
# A server that sends files by sendfile(2), and a client that asks for one after the other on one connection, and writes them to a directory.
def server(port):
    s = socket.create_server(("127.0.0.1", port))
    while True:
        c, _ = s.accept()
        c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        f = c.makefile("rb")
        for name in f:
            with open(name.strip().decode(), "rb") as x:
                c.sendall(os.fstat(x.fileno()).st_size.to_bytes(8, "big"))
                c.sendfile(x)
        c.close()
def client(port, out, names):
    c = socket.create_connection(("127.0.0.1", port))
    c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buf = bytearray(1 << 20)
    begun = time.monotonic()
    for i, n in enumerate(names):
        c.sendall(n.encode() + b"\n")
        left = int.from_bytes(c.recv(8, socket.MSG_WAITALL), "big")
        f = out and open(f"{out}/{i}", "wb", 0)
        while left:
            n = c.recv_into(buf, min(left, len(buf)))
            left -= n
            if f: f.write(memoryview(buf)[:n])
        if f: f.close()
    print(time.monotonic() - begun)
if sys.argv[1] == "server":
    server(7777)
client(7777, sys.argv[2], sys.argv[3:])
PY
python3 plain.py server &
for host in 127.0.0.1 127.0.0.2; do
	for try in $(seq 100); do
		./cmgr fetch --loader inet --hosts $host --erts-version "$version" --timeout 5 "$work/files/1" >got 2>/dev/null && break
	done
	cmp got files/1
done
names=$(seq -f "$work/files/%g" "$count")
# Each takes a directory to write the many files to, or none for the large one.
of_cmgr() {
	python3 - "$1" "$work" $names <<'PY'
import subprocess, sys, time
out, work, names = sys.argv[1], sys.argv[2], sys.argv[3:]
args = [work + "/cmgr", "fetch", "--loader", "inet", "--hosts", "127.0.0.1"]
args += ["--outdir", out] + names if out else [work + "/files/large"]
begun = time.monotonic()
subprocess.run(args, stdout=subprocess.DEVNULL, check=True)
print(time.monotonic() - begun)
PY
}
of_erl() {
	local files="[{\"$work/files/large\",\"\"}]" done=ok
	[ -z "$1" ] || files="[{\"$work/files/\" ++ integer_to_list(I), \"$1/\" ++ integer_to_list(I)} || I <- lists:seq(1,$count)]"
	[ -z "$1" ] || [ -n "${2:-}" ] || done='file:write_file(To, B, [raw])'
	erl -loader inet -hosts 127.0.0.2 -id bench -setcookie x -noshell -eval "
		{ok,<<_/binary>>,_} = erl_prim_loader:get_file(\"$work/files/1\"),
		{T,_} = timer:tc(fun() -> [begin {ok,<<B/binary>>,_} = erl_prim_loader:get_file(F), ok = $done end || {F,To} <- $files] end),
		io:format(\"~p~n\",[T/1000000]), halt()."
}
of_plain() {
	if [ -z "$1" ]; then python3 plain.py client "" "$work/files/large"; else python3 plain.py client "$1" $names; fi
}
for round in $(seq "$rounds"); do
	for who in cmgr erl plain; do echo "large $who $("of_$who" "")"; done
	for where in memory disk; do
		for who in cmgr erl plain; do
			mkdir "$where/$round-$who"
			echo "$where $who $("of_$who" "$work/$where/$round-$who")"
		done
		echo "$where erl,unwritten $(of_erl "$work/$where/none" unwritten)"
	done
done >times
python3 - "$large" "$small" "$count" <<'PY'
import statistics, sys
large, small, count = map(int, sys.argv[1:])
t = {}
for line in open("times"):
    what, who, s = line.split()
    t.setdefault((what, who), []).append(float(s))
for what, size, text in (
    ("large", large, f"1 file of {large >> 20} MiB"),
    ("memory", small * count, f"{count} files of {small} bytes, to files in memory"),
    ("disk", small * count, f"{count} files of {small} bytes, to files on a disk"),
):
    print(f"{text}, {len(t[what, 'cmgr'])} rounds")
    for who in ("cmgr", "erl", "erl,unwritten", "plain"):
        s = t.get((what, who))
        if not s:
            continue
        ratio = statistics.median(x / y for x, y in zip(s, t[what, "cmgr"]))
        print(f"  {who:13} {statistics.median(s):8.3f} s  {size / statistics.median(s) / 1e6:8.1f} MB/s  {ratio:5.2f} x cmgr's time")
PY
