package runsvdir

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/runners/runit/runittest"
)

func TestMain(m *testing.M) {
	programs := map[string]runittest.Program{"runsvdir": Main, "runsv": Runsv}
	os.Exit(runittest.Main(programs, func() int { return leak.Run(m) }))
}

var groups = []string{"runsvdir", "ext/*runsvdir*", "better/*runsvdir*"}

// TestSuite has one process supervise all: the suite's runsv is a script that runs this binary.
func TestSuite(t *testing.T) {
	t.Parallel()
	runittest.Suite(t, []string{"RUNSVDIR=" + runittest.Link(t, "runsvdir"), "RUNSV=" + runittest.Link(t, "runsv")}, groups...)
}

// TestSuiteOverDebian has Debian's runsv for each service.
func TestSuiteOverDebian(t *testing.T) {
	t.Parallel()
	runittest.Suite(t, []string{"RUNSVDIR=" + runittest.Link(t, "runsvdir"), "RUNSV=" + needs.Tool(t, "runsv")}, groups...)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// until waits for something that is about to happen.
func until(t *testing.T, what string, happened func() bool) {
	t.Helper()
	for end := time.Now().Add(3 * time.Minute); !happened(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within three minutes", what)
		}
	}
}

func TestLeadsHere(t *testing.T) {
	defer func(d time.Duration) { askTime = d }(askTime)
	askTime = time.Minute // where it is the machine that is slow
	ours := runittest.Link(t, "runsv")
	for script, want := range map[string]bool{
		"exec %s \"$@\"":                          true,
		"echo; exec %s \"$@\"":                    false,
		"FOO=bar; export FOO; exec %s \"$@\"":     false,
		"ulimit -n 50; exec %s \"$@\"":            false,
		"umask 027; exec %s \"$@\"":               false,
		"cd /; exec %s \"$@\"":                    false,
		"exec true %s":                            false,
		"echo 'usage: runsv dir' >&2; exit 1; %s": false,
	} {
		path := filepath.Join(t.TempDir(), "runsv")
		write(t, path, "#!/bin/sh\n"+fmt.Sprintf(script, ours)+"\n")
		// This process is the test binary too, and so stands for runsvdir.
		if got := isUs(path); got != want {
			t.Errorf("%q: %v", script, got)
		}
	}
	if !isUs(ours) || isUs("/bin/sh") || isUs("/nonexistent") {
		t.Error("programs")
	}
}

// running starts a runsvdir over dir with our own runsv in PATH, and ends it and what it supervises at the end of the test.
func running(t *testing.T, dir string, args ...string) *exec.Cmd {
	t.Helper()
	c := exec.Command(runittest.Link(t, "runsvdir"), append(args, dir)...)
	c.Env = append(os.Environ(), "PATH="+filepath.Dir(runittest.Link(t, "runsv"))+":"+os.Getenv("PATH"))
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		keepers := children(c.Process.Pid)
		_ = c.Process.Signal(unix.SIGHUP)
		_ = c.Wait()
		if c.ProcessState.ExitCode() != exitHup {
			t.Errorf("exit %d after HUP", c.ProcessState.ExitCode())
		}
		for _, pid := range keepers {
			until(t, "the end of the keeper", func() bool { return unix.Kill(pid, 0) != nil || dead(pid) })
		}
	})
	return c
}

func children(pid int) (pids []int) {
	all, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, f := range all {
		b, _ := os.ReadFile(f)
		for p := range strings.FieldsSeq(string(b)) {
			n, _ := strconv.Atoi(p)
			pids = append(pids, n)
		}
	}
	return pids
}

// dead tells of a process that nobody has reaped: whose parent is no longer ours.
func dead(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(b), ") Z ")
}

func pidOf(service string) int {
	b, _ := os.ReadFile(filepath.Join(service, "supervise/pid"))
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return n
}

const sleeper = "#!/bin/sh\nexec sleep 100000\n"

// TestAsTheOriginal has both say what is wrong, in their title if there is a log, and end.
func TestAsTheOriginal(t *testing.T) {
	original := needs.Tool(t, "runsvdir")
	dir := t.TempDir()
	write(t, filepath.Join(dir, "sv/a/run"), "#!/bin/sh\necho hello >&2; printf 'a\\0b\\n' >&2; exec sleep 100000\n")
	write(t, filepath.Join(dir, "file"), "")
	if err := os.Mkdir(filepath.Join(dir, "empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/nosuch", filepath.Join(dir, "empty/dangling")); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args []string
		sig  syscall.Signal
	}{
		{nil, 0},
		{[]string{"-P"}, 0},
		{[]string{"--"}, 0},
		{[]string{"-x"}, unix.SIGTERM},
		{[]string{"-"}, unix.SIGTERM},
		{[]string{"empty", "abc"}, unix.SIGTERM},
		{[]string{"empty", "abcdef"}, unix.SIGHUP},
		{[]string{"none"}, unix.SIGTERM},
		{[]string{"--", "-P"}, unix.SIGTERM},
		{[]string{"file"}, unix.SIGHUP},
		{[]string{"empty"}, unix.SIGTERM},
		{[]string{"sv", "log: 01234567890123456789"}, unix.SIGHUP},
		{[]string{"none", "log: 0"}, unix.SIGHUP},
	} {
		services := len(test.args) > 0 && test.args[0] == "sv"
		run := func(program, want string) (got string) {
			c := exec.Command(program, test.args...)
			c.Args[0], c.Dir = "runsvdir", dir
			said, err := os.CreateTemp(t.TempDir(), "")
			if err != nil {
				t.Fatal(err)
			}
			defer said.Close()
			c.Stderr = said
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			look := func() (spoke bool) {
				title, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", c.Process.Pid))
				if services { // whether the first dot or the service comes first is the scheduler's choice
					title = bytes.Replace(title, []byte("."), nil, 1)
				}
				b, _ := os.ReadFile(said.Name())
				lines := strings.Split(string(b), "\n") // some the original says again and again
				got = fmt.Sprintf("%q, title %q", slices.Compact(lines), title)
				return len(b) > 0 || services && strings.Contains(got, `ab\n`)
			}
			if test.sig != 0 {
				last, since := "", time.Now()
				for end := time.Now().Add(3 * time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
					spoke := look()
					if got != last {
						last, since = got, time.Now()
					}
					// The original looks after a second, and we don't know what it will say.
					if spoke && want == "" && time.Since(since) > 2500*time.Millisecond || want != "" && strings.HasPrefix(want, got) {
						break
					}
				}
				_ = c.Process.Signal(test.sig)
			}
			_ = c.Wait()
			until(t, "end of the service", func() bool {
				fd, err := unix.Open(filepath.Join(dir, "sv/a/supervise/ok"), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
				if err == nil {
					unix.Close(fd)
				}
				return err != nil
			})
			if test.sig == 0 {
				look()
			}
			return fmt.Sprintf("%s, exit %d", got, c.ProcessState.ExitCode())
		}
		theirs := run(original, "")
		if ours := run(runittest.Link(t, "runsvdir"), theirs); ours != theirs {
			t.Errorf("runsvdir %q: %s\nwant %s", test.args, ours, theirs)
		}
	}
}

// TestSwitchesAsTheOriginal has links switched by runsvchdir, and services and directories whose permissions allow users more than
// they usually may, or less.
func TestSwitchesAsTheOriginal(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	needs.Tool(t, "runsvchdir")
	needs.Tool(t, "setpriv")
	// A directory that everybody may enter, and in it ours as runsvdir and runsv, or neither.
	const prepare = `base=$(mktemp -d); trap 'rm -rf "$base"' EXIT; chmod 755 $base; cd $base; mkdir bin
		ours=$(readlink "$(command -v runsvdir)"); case $ours in /usr/*) ;; *) ln -s "$ours" bin/runsvdir; ln -s "$ours" bin/runsv;; esac
		export PATH=$base/bin:/usr/bin:/bin:/usr/sbin:/sbin; : >said; cat >lib <<'.'
			service() { for s; do mkdir -p $s; printf '#!/bin/sh\nexec sleep 1000000\n' >$s/run; chmod 755 $s/run; done; }
			up() { until test "$(cut -c1-3 $1/supervise/stat)" = run; do sleep 0.05; done 2>/dev/null; }
			down() { until flock -n $1/supervise/lock true; do sleep 0.05; done; }
			says() { until grep -q "$1" said; do sleep 0.05; done; }
			user() { u=$1; shift; setpriv --reuid=$u --regid=$u --clear-groups "$@" 2>&1; echo "exit $?"; }
			told() { sed 's/pid [0-9]*/pid N/g; s/[0-9][0-9]*s/Ns/g'; }
			modes() { stat -c "%a %u %n" $1/supervise $1/supervise/* | grep -v /mark; } # which only ours has
.
	`
	runittest.Same(t, runittest.Link(t, "runsvdir"), needs.Tool(t, "runsvdir"), []string{"runsvdir"}, prepare,
		// What is in both goes on; so does all while the link dangles.
		`mkdir one two; ln -s $base/all/a $base/all/both one; ln -s $base/all/b $base/all/both two; ln -s one current
		unshare -m sh -c '. ./lib; service all/a all/b all/both; mount --bind . /etc/runit/runsvdir
			runsvdir /etc/runit/runsvdir/current 2>said & up all/a; up all/both; both=$(cat all/both/supervise/pid)
			runsvchdir two; up all/b; down all/a; b=$(cat all/b/supervise/pid); runsvchdir two; runsvchdir three; echo "exit $?"
			readlink current previous
			mv two gone; says "does not exist"; sleep 1; test $b = $(cat all/b/supervise/pid) && echo goes on
			mv gone two; runsvchdir one; up all/a; down all/b; test $both = $(cat all/both/supervise/pid) && echo the same
			kill -HUP $!; wait $!; echo "ended $?"; down all/a; down all/both; sort -u said'`,
		// A user who is given a service, and others; also after the service was away, and runsvdir.
		`. ./lib; service sv/a; runsvdir sv 2>said & up sv/a; modes sv/a; user 65534 sv status ./sv/a
			chmod 755 sv/a/supervise; chown 65534 sv/a/supervise/ok sv/a/supervise/control; export SVDIR=$base/sv
			for u in 65534 65533; do for c in "-w60 down" "-w60 up" status "-w60 restart" hup; do user $u sv $c a | told; done; done
			mv sv/a .; down a; mv a sv; up sv/a; modes sv/a; user 65534 sv -w60 down a | told
			kill -HUP $!; wait $!; down sv/a; runsvdir sv 2>>said & up sv/a; modes sv/a; user 65534 sv -w60 down a | told
			kill -HUP $!; wait $!; down sv/a; sort -u said`,
		// A user may not read the directory, and then may; of its services one can't be entered, one not be run, one not written.
		`. ./lib; service sv/a sv/b sv/c sv/d; chown -R 65534 sv/a sv/b sv/c; chown 0 sv/b; chmod 700 sv/b; chmod 644 sv/c/run; chmod 711 sv
			setpriv --reuid=65534 --regid=65534 --clear-groups runsvdir sv 2>said & says denied; chmod 755 sv; touch sv
			up sv/a; says "runsv b"; says "runsv c"; says "runsv d"; kill -HUP $!; wait $!; echo "ended $?"; down sv/a; down sv/c; sort -u said | grep -v "unable to watch"`,
	)
}

// TestKilledKeeper shows that a keeper that was killed is replaced, and the service goes on under the new one.
func TestKilledKeeper(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sv")
	write(t, filepath.Join(dir, "a/run"), sleeper)
	c := running(t, dir)
	a := filepath.Join(dir, "a")
	until(t, "a", func() bool { return pidOf(a) > 0 })
	keepers := children(c.Process.Pid)
	if len(keepers) != 1 {
		t.Fatalf("%d children", len(keepers))
	}
	_ = unix.Kill(keepers[0], unix.SIGKILL)
	until(t, "another keeper", func() bool {
		now := children(c.Process.Pid)
		return len(now) == 1 && now[0] != keepers[0]
	})
	until(t, "supervision", func() bool {
		fd, err := unix.Open(filepath.Join(a, "supervise/ok"), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == nil {
			unix.Close(fd)
		}
		return err == nil && pidOf(a) > 0
	})
}

var kills = flag.Int("kills", 100, "how often TestKilledTogether kills")

// TestKilledTogether kills runsvdir and its keeper at once, at any moment: what the next ones find goes on under them.
func TestKilledTogether(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes half a minute")
	}
	dir := t.TempDir()
	services := []string{filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "c")}
	for _, s := range services {
		runittest.Counter(t, s)
	}
	reap := runittest.Subreaper(t)
	program := runittest.Link(t, "runsvdir")
	t.Setenv("PATH", filepath.Dir(runittest.Link(t, "runsv"))+":"+os.Getenv("PATH"))
	begin := func() int {
		p, err := os.StartProcess(program, []string{"runsvdir", dir}, &os.ProcAttr{Files: []*os.File{nil, nil, nil}})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Release()
		return p.Pid
	}
	for range *kills {
		pid := begin()
		time.Sleep(time.Duration(rand.IntN([]int{30_000, 300_000}[rand.IntN(2)])) * time.Microsecond)
		_ = unix.Kill(pid, unix.SIGSTOP)   // so that there is no keeper that isn't seen, once it has stopped
		until(t, "its stop", func() bool { // each of its threads stops by itself; the one that is forking once it has
			tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
			return len(tasks) > 0 && !slices.ContainsFunc(tasks, func(path string) bool {
				stat, err := os.ReadFile(path)
				return err == nil && !strings.Contains(string(stat), ") T ")
			})
		})
		keepers := children(pid)
		for _, p := range append(keepers, pid) {
			if err := unix.Kill(p, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		reap(pid)
		for _, k := range keepers {
			until(t, "the keeper's end", func() bool { _, _ = unix.Wait4(k, nil, unix.WNOHANG, nil); return dead(k) })
		}
	}
	pid := begin()
	time.Sleep(1500 * time.Millisecond) // a restart or two
	_ = unix.Kill(pid, unix.SIGHUP)
	reap(pid)
	reap(0)
	for _, s := range services {
		runittest.Counted(t, s)
	}
}

// TestWaitForLogs shows that services that wait for the locks of their logs hold up neither others nor the end of those.
func TestWaitForLogs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sv")
	var locks []*os.File
	for i := range 9 { // more than are opened at once
		w := filepath.Join(dir, fmt.Sprintf("w%d", i))
		write(t, filepath.Join(w, "run"), sleeper)
		write(t, filepath.Join(w, "log/run"), "#!/bin/sh\nexec cat\n")
		write(t, filepath.Join(w, "log/supervise/lock"), "")
		f, err := os.Open(filepath.Join(w, "log/supervise/lock"))
		if err == nil {
			defer f.Close()
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		}
		if err != nil {
			t.Fatal(err)
		}
		locks = append(locks, f)
	}
	c := running(t, dir)
	for i := range locks {
		until(t, "the wait", func() bool { // it holds its own lock by then
			fd, err := unix.Open(filepath.Join(dir, fmt.Sprintf("w%d/supervise/lock", i)), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return false
			}
			defer unix.Close(fd)
			return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) != nil
		})
	}
	a := filepath.Join(dir, "a")
	write(t, filepath.Join(dir, ".a/run"), sleeper)
	if err := os.Rename(filepath.Join(dir, ".a"), a); err != nil {
		t.Fatal(err)
	}
	until(t, "a", func() bool { return pidOf(a) > 0 })
	keepers := children(c.Process.Pid)
	_ = c.Process.Signal(unix.SIGHUP)
	until(t, "the end of a", func() bool { return pidOf(a) == 0 })
	for _, f := range locks {
		f.Close()
	}
	for _, pid := range keepers {
		until(t, "the end of the keeper", func() bool { return dead(pid) })
	}
}

// TestKeeperIsRunsv shows that who deals with the runsv processes by name or by -P's sessions finds what it expects.
func TestKeeperIsRunsv(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sv")
	write(t, filepath.Join(dir, "a/run"), sleeper)
	c := running(t, dir, "-P")
	a := filepath.Join(dir, "a")
	until(t, "a", func() bool { return pidOf(a) > 0 })
	before := pidOf(a)
	keepers := children(c.Process.Pid)
	if len(keepers) != 1 {
		t.Fatalf("%d children", len(keepers))
	}
	comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", keepers[0]))
	if sid, err := unix.Getsid(keepers[0]); string(comm) != "runsv\n" || err != nil || sid != keepers[0] {
		t.Errorf("name %q, session %d of process %d, %v", comm, sid, keepers[0], err)
	}
	// A runsv that ends is started again by runsvdir, and its service with it.
	_ = unix.Kill(keepers[0], unix.SIGTERM)
	until(t, "the service's restart", func() bool { pid := pidOf(a); return pid > 0 && pid != before })
	if now := children(c.Process.Pid); len(now) != 1 || now[0] != keepers[0] {
		t.Errorf("keeper %v became %v", keepers, now)
	}
}

func TestSessions(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sv")
	write(t, filepath.Join(dir, "a/run"), sleeper)
	running(t, dir, "-P")
	until(t, "a", func() bool { return pidOf(filepath.Join(dir, "a")) > 0 })
	pid := pidOf(filepath.Join(dir, "a"))
	if sid, err := unix.Getsid(pid); err != nil || sid != pid {
		t.Errorf("session %d of process %d, %v", sid, pid, err)
	}
}

// TestWatch shows which changes on and near the path are told, and as what.
func TestWatch(t *testing.T) {
	for _, c := range []struct {
		what, path string
		do         func(dir string) error
		want       change
	}{
		{"link in the directory", "real/sv", func(d string) error { return os.Symlink("x", d+"/real/sv/new") }, within},
		{"removal", "real/sv", func(d string) error { return os.Remove(d + "/real/sv/old") }, within},
		{"directory made", "real/sv", func(d string) error { return os.Mkdir(d+"/real/sv/new", 0o755) }, growing},
		{"through links", "via/current", func(d string) error { return os.Symlink("x", d+"/real/sv/new") }, within},
		{"link replaced", "via/current", func(d string) error {
			_ = os.Symlink("../real/other", d+"/via/next")
			return os.Rename(d+"/via/next", d+"/via/current")
		}, moved},
		{"link in the link replaced", "first", func(d string) error {
			_ = os.Symlink("../real/other", d+"/via/next")
			return os.Rename(d+"/via/next", d+"/via/current")
		}, moved},
		{"renamed", "real/sv", func(d string) error { return os.Rename(d+"/real/sv", d+"/real/gone") }, moved},
		{"parent renamed", "real/sv", func(d string) error { return os.Rename(d+"/real", d+"/gone") }, moved},
		{"made", "real/missing/sv", func(d string) error { return os.Mkdir(d+"/real/missing", 0o755) }, moved},
		{"dangling link gets its target", "dangling", func(d string) error { return os.Mkdir(d+"/nothing", 0o755) }, moved},
	} {
		t.Run(c.what, func(t *testing.T) {
			d := t.TempDir()
			for _, dir := range []string{"real/sv/old", "real/other", "via"} {
				if err := os.MkdirAll(filepath.Join(d, dir), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for link, to := range map[string]string{"via/current": "../real/sv", "first": d + "/via/current", "dangling": "nothing"} {
				if err := os.Symlink(to, filepath.Join(d, link)); err != nil {
					t.Fatal(err)
				}
			}
			events := make(chan change)
			w, err := newWatch(filepath.Join(d, c.path), events)
			if err != nil {
				t.Fatal(err)
			}
			defer w.close()
			// What concerns nobody comes first: were it told, it would be the first event.
			for _, noise := range []string{"noise", "real/noise", "via/noise", "real/sv/.noise"} {
				write(t, filepath.Join(d, noise), "")
			}
			if err := c.do(d); err != nil {
				t.Fatal(err)
			}
			select {
			case got := <-events:
				if got != c.want {
					t.Errorf("%v, want %v", got, c.want)
				}
			case <-time.After(3 * time.Minute):
				t.Error("nothing")
			}
		})
	}
}

func FuzzTitle(f *testing.F) {
	f.Add("log: ..", []byte("runsv a: fatal\n"))
	f.Add("log: ..........", []byte{0, 'x', 0})
	// The end of what was there and came is there, without NULs, and as long as before.
	f.Fuzz(func(t *testing.T, arg string, b []byte) {
		if len(arg) < keepBytes+2 {
			t.Skip("too short")
		}
		title := &title{text: memory(arg)[keepBytes:]}
		title.add(b)
		all := arg[keepBytes:] + string(bytes.ReplaceAll(b, []byte{0}, nil))
		if want := all[len(all)-(len(arg)-keepBytes):]; string(title.text) != want {
			t.Fatalf("%q, want %q", title.text, want)
		}
	})
}
