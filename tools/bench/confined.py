"""What confinement costs: cmgr's components confined and bare beside the limit of process creation in C, bubblewrap, crun and
runc, one after the other in rounds. Prints medians and ratios, and what they are to be.

	python3 tools/bench/confined.py

	ROUNDS=3 COUNTS='10 1000' (components, in order; 9000 takes a minute a round) RESTARTS=200 MOUNTS=500

A start is over when the program has begun; with its end, that is one start and end of a program that does nothing. By the ELF runner
these are medians, and the ratios those of pairs, confined and bare in turns in one process; others' include their caller. A restart is that of one component in a manager with N of them: RESTARTS are killed,
each when the last has been started again; beside N there may be MOUNTS mounts on the host. A boot is from the exec of cmgr to
the first instruction of the last of N components. CPU is that of all processes.

It wants root, gcc, a cgroup v2 and, for the limit, ../shared; what else is not installed is left out.
"""
import contextlib
import json
import os
import re
import select
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time

here = os.path.dirname(os.path.abspath(__file__))
top = os.path.dirname(os.path.dirname(here))
limit_c = os.path.join(os.path.dirname(top), "shared", "bench", "peers", "spawn-limit.c")
rounds, restarts = int(os.environ.get("ROUNDS", "3")), int(os.environ.get("RESTARTS", "200"))
counts = [int(n) for n in os.environ.get("COUNTS", "10 1000").split()]
mounts = int(os.environ.get("MOUNTS", "500"))
group = "/sys/fs/cgroup/bench-%d" % os.getpid()


def skip(why):
    print("bench: skipped: " + why)
    sys.exit(0)


def prepare():
    """A mount namespace in which the cgroup v2 is the only one, as crun wants it."""
    if os.geteuid() != 0:
        skip("needs root")
    for tool in ("gcc", "unshare", "mount"):
        if not shutil.which(tool):
            skip("needs " + tool)
    if os.environ.get("IN_MOUNTNS") != "1":
        os.environ["IN_MOUNTNS"] = "1"
        os.execvp("unshare", ["unshare", "-m", sys.executable, os.path.abspath(__file__)] + sys.argv[1:])
    subprocess.call(["umount", "-R", "/sys/fs/cgroup"], stderr=subprocess.DEVNULL)
    if subprocess.call(["mount", "-t", "cgroup2", "none", "/sys/fs/cgroup"]):
        skip("needs a cgroup v2")
    try:
        os.mkdir(group)
        os.rmdir(group)
    except OSError as e:
        skip("needs a cgroup v2 that can be written: %s" % e)


def join():
    with open(group + "/cgroup.procs", "w") as f:
        f.write("0")


def cpu():
    with open(group + "/cpu.stat") as f:
        return int(f.readline().split()[1])


class Stamps:
    """The FIFO that programs write to."""

    def __init__(self, dir):
        os.mkfifo(dir + "/started")
        os.chmod(dir + "/started", 0o666)
        self.fd = os.open(dir + "/started", os.O_RDWR)
        self.poll = select.poll()
        self.poll.register(self.fd, select.POLLIN)

    def take(self, n, what):
        """The latest of n stamps, in seconds."""
        last = 0
        while n > 0:
            if not self.poll.poll(120000):
                sys.exit("bench: %s: %d of its programs have not begun" % (what, n))
            b = os.read(self.fd, 8 * n)
            last = max(last, *(s for s, in struct.iter_unpack("q", b)))
            n -= len(b) // 8
        return last / 1e9


found = {}  # (measure, who): [one a round]


def note(measure, who, value):
    found.setdefault((measure, who), []).append(value)


def components():
    """The pids of running components."""
    pids = []
    for dir, _, files in os.walk(group):
        try:
            with open(dir + "/cgroup.procs") as f:
                pids += [int(line) for line in f]
        except OSError:
            pass
    return [p for p in pids if open("/proc/%d/comm" % p).read() == "stamp\n"]


def settled():
    """The CPU time once all is quiet."""
    last, now = -1, cpu()
    while now - last > 200:  # µs in 20 ms
        time.sleep(0.02)
        last, now = now, cpu()
    return now


@contextlib.contextmanager
def grouped():
    """In a cgroup of its own, with nothing left. One that was killed is not used again: what is cloned from it is killed, too."""
    os.mkdir(group)
    try:
        yield
    finally:
        with open(group + "/cgroup.kill", "w") as f:
            f.write("1")
        for dir, _, _ in os.walk(group, topdown=False):
            while os.path.isdir(dir):
                with contextlib.suppress(OSError):
                    os.rmdir(dir)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(-1, os.WNOHANG)


def manager(n, confined, extra=""):
    who = "confined" if confined else "bare"
    with open(work + "/root.cml", "w") as f:
        f.write("{ children: [\n")
        for i in range(n):
            f.write('{ name: "c%d", url: "c%d.cml", startup: "eager", on_terminate: "restart", '
                    'restart: { when: "always", delay_ms: 0 } },\n' % (i, i))
            if not os.path.exists(work + "/c%d.cml" % i):
                with open(work + "/c%d.cml" % i, "w") as c:
                    c.write('{ program: { runner: "elf", binary: "stamp", cwd: "." } }\n')
        f.write("] }\n")
    with open(work + "/config.json5", "w") as f:
        json.dump({"security_policy": {"sandbox": {"unconfined": [] if confined else ["/**"]}}}, f)
    state = tempfile.mkdtemp(dir=work)
    command = [work + "/cmgr", "run", work + "/root.cml", "--name", "bench-%d" % os.getpid(), "--state", state,
               "--config", work + "/config.json5"]
    with grouped():
        t = time.monotonic()
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=join)
        last = stamps.take(n, who)
        booted = settled()
        if not extra:
            note("boot of %d, ms" % n, who, (last - t) * 1e3)
            note("boot of %d, CPU ms" % n, who, booted / 1e3)
        pids = components()
        m = min(restarts, 20 * n)
        walls = []
        for i in range(m):
            if i and i % n == 0:
                pids = components()
            t = time.monotonic()
            os.kill(pids[i % n], signal.SIGKILL)
            walls.append(stamps.take(1, who) - t)
        note("restart in %d%s, µs" % (n, extra), who, statistics.median(walls) * 1e6)
        note("restart in %d%s, CPU µs" % (n, extra), who, (settled() - booted) / m)
    shutil.rmtree(state)


def single(who, command, times):
    """Starts of the program by command, one after the other."""
    with grouped():
        walls = []
        for i in range(times):
            t = time.monotonic()
            p = subprocess.Popen([a.replace("ID", "bench-%d-%d" % (os.getpid(), i)) for a in command], preexec_fn=join,
                                 close_fds=False, stdout=subprocess.DEVNULL)
            if p.wait():
                print("bench: %s is left out: exit code %d" % (who, p.returncode), file=sys.stderr)
                return
            walls.append(stamps.take(1, who) - t)
        note("start, µs", who, statistics.median(walls) * 1e6)
        note("start and end, CPU µs", who, settled() / times)


def runner():
    """The ELF runner's own benchmark."""
    command = "./elf.test -test.run ^$ -test.bench ^BenchmarkConfined$/^bare_and_confined$ -test.benchtime 300x".split()
    out = subprocess.run(command, cwd=work, capture_output=True, text=True).stdout
    names = {"startcpu": "start, CPU µs", "start": "start, µs", "cpu": "start and end, CPU µs", "run": "start and end, µs"}
    for value, who, what in re.findall(r"([\d.]+) (bare|confined)-(\w+)-µs", out):
        note(names[what], who, float(value))
    for value, what in re.findall(r"([\d.]+) confined/bare-(\w+)", out):
        note("ratio of pairs, " + names[what].replace(", µs", "").replace(" µs", ""), "confined", float(value))


def limit(n):
    with grouped():
        t = time.monotonic()
        command = [work + "/spawn-limit", "clone3+keep+hold", str(n), "1", work + "/stamp"]
        subprocess.Popen(command, cwd=work, preexec_fn=join, stdout=subprocess.DEVNULL)
        last = stamps.take(n, "the limit in C")
        note("boot of %d, ms" % n, "C limit", (last - t) * 1e3)
        note("boot of %d, CPU ms" % n, "C limit", settled() / 1e3)


def bundle(dir, tool):
    os.makedirs(dir + "/rootfs/pkg")
    subprocess.check_call([tool, "spec"], cwd=dir)
    with open(dir + "/config.json") as f:
        spec = json.load(f)
    spec["process"].update(rlimits=[], terminal=False, args=["/pkg/stamp", "once"])
    spec["mounts"].append({"destination": "/pkg", "type": "bind", "source": work, "options": ["rbind", "ro"]})
    with open(dir + "/config.json", "w") as f:
        json.dump(spec, f)


def others():
    bwrap = ("bwrap --unshare-pid --unshare-ipc --unshare-net --cap-drop ALL --ro-bind /usr /usr --symlink usr/lib /lib "
             "--symlink usr/lib64 /lib64 --symlink usr/bin /bin --ro-bind %s /pkg --dev /dev --proc /proc /pkg/stamp once" % work)
    which = {"bwrap": (bwrap.split(), 50)}
    for tool in ("crun", "runc"):
        if shutil.which(tool):
            bundle(work + "/" + tool, tool)
            # Device rules by bpf want locked memory, which not every root may have; without cgroups there are none.
            how = ["--cgroup-manager", "disabled"] if tool == "crun" else []
            which[tool] = ([tool] + how + ["--root", work + "/run-" + tool, "run", "--bundle", work + "/" + tool, "ID"], 20)
    return {who: x for who, x in which.items() if shutil.which(who)}


def host_mounts(n):
    for i in range(n):
        dir = "%s/%d" % (many_mounts, i)
        os.mkdir(dir)
        subprocess.check_call(["mount", "--bind", dir, dir])


def median(measure, who):
    return statistics.median(found[measure, who]) if (measure, who) in found else None


def ratio(measure, who, measure2, who2):
    """The median of the rounds' ratios."""
    pairs = list(zip(found.get((measure, who), []), found.get((measure2, who2), [])))
    return statistics.median(x / y for x, y in pairs) if pairs else None


def table():
    columns = ["C limit", "bare", "confined", "bwrap", "crun", "runc"]
    rows = [[""] + columns]
    for measure in dict.fromkeys(m for m, _ in found):
        rows.append([measure] + ["%.4g" % m if (m := median(measure, who)) is not None else "" for who in columns])
    widths = [max(len(r[i]) for r in rows) for i in range(len(columns) + 1)]
    print("\nmedians of %d rounds; %s\n" % (rounds, os.uname().release))
    for r in rows:
        print("  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(r, widths))).rstrip())
    print()
    few, many = counts[0], counts[-1]
    start, both, restart, boot = "start, CPU µs", "start and end, CPU µs", "restart in %d, CPU µs", "boot of 1000, "
    for text, value, aim in [
        ("a confined start, CPU µs", median(start, "confined"), "<= 500"),
        ("a confined start : a bare one, CPU", median("ratio of pairs, start, CPU", "confined"), "<= 1.6"),
        ("a confined start and end, CPU µs", median(both, "confined"), ""),
        ("a confined start and end : bare ones, CPU", median("ratio of pairs, start and end, CPU", "confined"), ""),
        ("bwrap : a confined start and end, CPU", ratio(both, "bwrap", both, "confined"), ">= 4"),
        ("crun : a confined start, wall", ratio("start, µs", "crun", "start, µs", "confined"), ">= 20"),
        ("runc : a confined start, wall", ratio("start, µs", "runc", "start, µs", "confined"), ">= 20"),
        ("a confined restart : a bare one, CPU", ratio(restart % few, "confined", restart % few, "bare"), ""),
        ("a confined restart in %d : in %d, CPU" % (many, few),
         ratio(restart % many, "confined", restart % few, "confined"), "1"),
        ("a confined restart with %d mounts : without, CPU" % mounts,
         ratio("restart in %d and %d mounts, CPU µs" % (few, mounts), "confined", restart % few, "confined"), "1"),
        ("boot of 1000 confined : C limit, wall", ratio(boot + "ms", "confined", boot + "ms", "C limit"), "<= 5"),
        ("boot of 1000 confined : C limit, CPU", ratio(boot + "CPU ms", "confined", boot + "CPU ms", "C limit"), ""),
    ]:
        if value is not None:
            print("%-52s %8.2f  %s" % (text, value, aim))


prepare()
# In memory: an ext4 without a journal takes milliseconds for each new file after many others were deleted.
work, many_mounts = (tempfile.mkdtemp(prefix="bench-", dir="/dev/shm" if os.path.isdir("/dev/shm") else "/tmp") for _ in range(2))
try:
    flags = "-O2 -static -nostdlib -fno-stack-protector -fno-pie -no-pie -Wl,--build-id=none -Wl,-z,noseparate-code"
    subprocess.check_call(["gcc"] + flags.split() + ["-o", work + "/stamp", here + "/stamp.c"])
    if os.path.exists(limit_c):
        subprocess.check_call(["gcc", "-O2", "-w", "-o", work + "/spawn-limit", limit_c])
    build = ["go", "build", "-trimpath", "-ldflags=-s -w", "-o", work + "/cmgr", "./cmd/cmgr"]
    subprocess.check_call(build, cwd=top, env=dict(os.environ, CGO_ENABLED="0"))
    build = ["go", "test", "-c", "-o", work + "/elf.test", "./runners/elf"]
    subprocess.check_call(build, cwd=top, env=dict(os.environ, CGO_ENABLED="0"))
    stamps = Stamps(work)
    those = others()
    for r in range(rounds):
        print("bench: round %d" % (r + 1), file=sys.stderr)
        runner()
        for who, (command, times) in those.items():
            single(who, command, times)
        for n in counts:  # the most last: the kernel has to clean up after them for a while
            if os.path.exists(limit_c):
                limit(n)
            for confined in (False, True) if r % 2 else (True, False):
                manager(n, confined)
    host_mounts(mounts)
    for r in range(rounds):
        for confined in (False, True) if r % 2 else (True, False):
            manager(counts[0], confined, " and %d mounts" % mounts)
    table()
finally:
    subprocess.call("umount -l %s/*" % many_mounts, shell=True, stderr=subprocess.DEVNULL)
    for dir in (work, many_mounts):
        shutil.rmtree(dir, ignore_errors=True)
