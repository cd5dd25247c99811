"""Runs cmgr's runsvdir, runsv, sv and svlogd beside runit's, and beside s6-svscan, s6-supervise and s6-log if they are there, one
after the other in rounds that change their order, and prints medians, the medians of the rounds' ratios, and what they are to be.
s6 has nothing that tells of many services at once as sv does, and s6-supervise waits a second before each restart.

	python3 tools/bench/runit.py [boot] [sv] [idle] [svlogd] [restart]      all, if none is named

	ROUNDS=5 N=1000 IDLE=20 (seconds) MB=200
	BENCH_TMP=DIR   where services and logs are; a directory in memory if there is one: an ext4 without a journal takes
	                milliseconds for each new file after many others were deleted, and so whoever comes second is slow

The drivers are those of ../shared/bench/runit; gcc makes the restarts' stamps exact.
Beside wall time there is the CPU time of all
processes, services and driver included, which tells more on a machine that others use too.
"""
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

top = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
drivers = os.path.join(os.path.dirname(top), "shared", "bench", "runit")
rounds, n, idle = int(os.environ.get("ROUNDS", "5")), int(os.environ.get("N", "1000")), int(os.environ.get("IDLE", "20"))


def skip(why):
    print("bench: skipped: " + why)
    sys.exit(0)


if not os.path.isdir(drivers):
    skip("no " + drivers)
for tool in ("runsvdir", "runsv", "sv", "svlogd"):
    if not shutil.which(tool):
        skip(tool + " is not installed")
sys.dont_write_bytecode = True
memory = "/dev/shm" if os.path.isdir("/dev/shm") else "/tmp"
os.environ.update(PYTHONDONTWRITEBYTECODE="1", BENCH_TMP=os.environ.get("BENCH_TMP") or memory)
sys.path.insert(0, drivers)
from common import alive, become_subreaper, exe, kill_tree, reap, shim_path, smaps, tree  # noqa: E402

work = tempfile.mkdtemp()
cmgr = work + "/cmgr"
names = ["s%04d" % i for i in range(n)]
found = {}  # measure: {program: [one a round]}


def note(measure, program, value):
    found.setdefault(measure, {}).setdefault(program, []).append(float(value))


def driver(script, program, pattern, **env):
    """Runs a driver with one program; the groups of pattern in its output, and the CPU time of all that ran."""
    command = [sys.executable, os.path.join(drivers, script)]
    p = subprocess.Popen(command, env=dict(os.environ, **env), stdout=subprocess.PIPE, text=True)
    out = p.stdout.read()
    _, status, used = os.wait4(p.pid, 0)
    m = re.search(pattern, out)
    if status or not m:
        sys.exit("bench: %s with %s: %s" % (script, program, out))
    return m.groupdict(), used.ru_utime + used.ru_stime


def programs(name):
    return {"runit": shutil.which(name), "cmgr": cmgr + " " + name}


def with_s6(which, name):
    """Adds s6's program, with its arguments, if it is installed."""
    path = shutil.which(name.split()[0])
    return dict(which, s6=path + name[len(name.split()[0]):]) if path else which


def pairs(which, rounds=rounds):
    """All programs in each round, the last one first each time."""
    for r in range(rounds):
        for p in sorted(which, reverse=r % 2 == 0):
            print("bench: round %d: %s" % (r + 1, p), file=sys.stderr)
            yield p


def boot():
    pattern = r"boot (?P<boot>[\d.]+) s.*PSS (?P<pss>[\d.]+) MB.*shutdown \(HUP\) (?P<down>[\d.]+) s"
    for p in pairs(with_s6(programs("runsvdir"), "s6-svscan")):
        if p == "s6":
            boot_s6()
            continue
        m, used = driver("boot.py", p, pattern, N=str(n), IDLE="1", RUNSVDIR=programs("runsvdir")[p], RUNSV=programs("runsv")[p],
                         SV=shutil.which("sv"))
        note("boot to all run, s", p, m["boot"])
        note("shutdown, s", p, m["down"])
        note("memory of supervisors, MB", p, m["pss"])
        note("boot and shutdown, CPU s", p, used)


def boot_s6():
    """What boot.py does for the others. That all are up stands in their status files, which are read here."""
    def use(_, p, took):
        note("boot to all run, s", "s6", took)
        pids = tree(p.pid)
        note("memory of supervisors, MB", "s6", sum(map(smaps, supervisors(pids))) / 1024)
        t = time.monotonic()
        p.terminate()
        p.wait()
        left = pids
        while left:
            if time.monotonic() > t + 60:
                sys.exit("bench: %d processes of s6 do not end" % len(left))
            time.sleep(0.005)
            reap()
            left = [x for x in left if alive(x)]
        note("shutdown, s", "s6", time.monotonic() - t)

    before = sum(os.times()[:4])
    running("s6", use)
    note("boot and shutdown, CPU s", "s6", sum(os.times()[:4]) - before)


def running(program, use):
    """Has n services run under program and calls use(SVDIR, its process, the seconds until all were up)."""
    d = tempfile.mkdtemp(prefix="bench-", dir=os.environ["BENCH_TMP"])
    for x in names:
        os.makedirs("%s/sv/%s" % (d, x))
        with open("%s/sv/%s/run" % (d, x), "w") as f:
            f.write("#!/bin/sh\nexec sleep 100000\n")
        os.chmod("%s/sv/%s/run" % (d, x), 0o755)
    if program == "s6":
        env, command, up = os.environ, ["s6-svscan", "-c", str(max(n, 4)), d + "/sv"], up_s6
    else:
        env = dict(os.environ, PATH=shim_path(d, programs("runsv")[program].split()))
        command, up = programs("runsvdir")[program].split() + [d + "/sv"], up_runit
    begun = time.monotonic()
    p = subprocess.Popen(command, env=env, cwd=d)
    try:
        while not all(up(d + "/sv/" + x) for x in names):
            if time.monotonic() > begun + 120:
                sys.exit("bench: not all services of %s are up" % program)
            time.sleep(0.05)
        took = time.monotonic() - begun
        time.sleep(1)
        use(d + "/sv", p, took)
    finally:
        kill_tree()
        shutil.rmtree(d)


def status(service):
    try:
        with open(service + "/supervise/status", "rb") as f:
            return f.read()
    except OSError:
        return b""


def up_runit(service):
    return status(service)[19:] == b"\1"


def up_s6(service):
    s = status(service)  # two TAI64N, the process, …, and in the last byte: paused, finishing, …
    return len(s) > 32 and any(s[24:32]) and not s[-1] & 2


def supervisors(pids):
    return [x for x in pids if exe(x) not in ("sleep", "sh", "dash", "bash")]


def sv():
    def use(svdir, *_):
        for p in pairs(programs("sv"), 4 * rounds):  # each takes no time
            t = time.monotonic()
            command = programs("sv")[p].split() + ["status"] + names
            c = subprocess.Popen(command, env=dict(os.environ, SVDIR=svdir), stdout=subprocess.DEVNULL)
            _, status, used = os.wait4(c.pid, 0)
            if status:
                sys.exit("bench: sv status of %s: %d" % (p, status))
            note("sv status of %d, ms" % n, p, (time.monotonic() - t) * 1000)
            note("sv status of %d, CPU ms" % n, p, (used.ru_utime + used.ru_stime) * 1000)

    running("cmgr", use)


def wakeups(pids):
    total = 0
    for pid in pids:
        for task in os.listdir("/proc/%d/task" % pid):
            with open("/proc/%d/task/%s/status" % (pid, task)) as f:
                total += sum(int(line.split()[1]) for line in f if line.startswith("voluntary"))
    return total


def idling():
    for p in with_s6(programs("runsvdir"), "s6-svscan"):
        def use(_, process, took):
            pids = supervisors(tree(process.pid))
            before = wakeups(pids)
            time.sleep(idle)
            note("wakeups in %d s" % idle, p, wakeups(pids) - before)

        running(p, use)


def svlogd():
    which = with_s6({"runit": shutil.which("svlogd") + " -tt", "cmgr": cmgr + " svlogd -tt"}, "s6-log T n10 s16777216")
    mb = int(os.environ.get("MB", "200"))
    for p in pairs(which):
        pattern = r"(?P<speed>[\d.]+) MB/s.*CPU (?P<cpu>[\d.]+) s"
        m, _ = driver("svlogd.py", p, pattern, MB=str(mb), RUNS="1", OPTS="", SVLOGD=which[p])
        note("svlogd -tt, MB/s", p, m["speed"])
        note("svlogd -tt, CPU ms/MB", p, float(m["cpu"]) * 1000 / mb)
    os.remove("%s/svlogd-bench-%dmb.txt" % (os.environ["BENCH_TMP"], mb))


def restart():
    which = with_s6(programs("runsv"), "s6-supervise")
    for p in pairs(which):
        pattern = r"median (?P<median>[\d.]+) ms  p95 (?P<p95>[\d.]+) ms"
        m, _ = driver("restart.py", p, pattern, SERVICES="10", ROUNDS="4", RUNSV=which[p])
        note("death to restart, median ms", p, m["median"])
        note("death to restart, p95 ms", p, m["p95"])


aims = {"boot to all run, s": "<= 0.7", "shutdown, s": "<= 0.7", "memory of supervisors, MB": "<= 0.3",
        "svlogd -tt, MB/s": ">= 2",
        "svlogd -tt, CPU ms/MB": "<= 0.5", "death to restart, median ms": "<= 1.5", "sv status of %d, ms" % n: "<= 1",
        "wakeups in %d s" % idle: "none"}


def table():
    def ratio(by, other):
        r = [b / a for a, b in zip(by.get(other, []), by["cmgr"]) if a]
        return "%.2f" % statistics.median(r) if r else ""

    rows = [["", "runit", "s6", "cmgr", "cmgr/s6", "cmgr/runit", "to be"]]
    for measure, by in found.items():
        cells = ["%.4g" % statistics.median(by[p]) if p in by else "" for p in ("runit", "s6", "cmgr")]
        rows.append([measure] + cells + [ratio(by, "s6"), ratio(by, "runit"), aims.get(measure, "")])
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    where, load = os.environ["BENCH_TMP"], os.getloadavg()[0]
    print("\n%d services, medians of %d rounds in %s; load %.1f at the end\n" % (n, rounds, where, load))
    for r in rows:
        print("  ".join(c.ljust(w) if i in (0, 6) else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths))).rstrip())


all_of_them = {"boot": boot, "sv": sv, "idle": idling, "svlogd": svlogd, "restart": restart}
try:
    build = ["go", "build", "-trimpath", "-ldflags=-s -w", "-o", cmgr, "./cmd/cmgr"]
    subprocess.check_call(build, cwd=top, env=dict(os.environ, CGO_ENABLED="0"))
    become_subreaper()
    for what in sys.argv[1:] or all_of_them:
        all_of_them[what]()
    table()
finally:
    shutil.rmtree(work)
