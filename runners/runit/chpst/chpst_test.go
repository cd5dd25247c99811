package chpst

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/runners/runit/runittest"
)

func TestMain(m *testing.M) {
	programs := map[string]runittest.Program{}
	for _, name := range allNames() {
		programs[name] = Main
	}
	os.Exit(runittest.Main(programs, func() int { return leak.Run(m) }))
}

// allNames are those that Main answers to.
func allNames() (all []string) {
	for _, name := range Names {
		all = append(all, name, "d"+name)
	}
	return all
}

func TestSuite(t *testing.T) {
	runittest.Suite(t, []string{"CHPST=" + runittest.Link(t, "chpst")}, "chpst", "ext/*chpst*", "better/*chpst*")
}

// run is the output and exit code of a program of ours.
func run(t *testing.T, name string, args ...string) (string, int) {
	t.Helper()
	c := exec.Command(runittest.Link(t, name), args...)
	// One that the user may not look into would make "file does not exist" "access denied", as execvp(3) has it.
	c.Env = append(os.Environ(), "PATH=/usr/bin:/bin")
	out, err := c.CombinedOutput()
	if c.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), c.ProcessState.ExitCode()
}

// What Debian's chpst says and returns was observed.
func TestMessages(t *testing.T) {
	for _, c := range []struct {
		name, args, want string
		code             int
	}{
		{"chpst", "-n x true", "usage: chpst" + usage + "\n\n", 100},
		{"dchpst", "", "usage: chpst" + usage + "\n\n", 100},
		{"chpst", "-V", "cmgr\nusage: chpst" + usage + "\n\n", 100},
		{"chpst", "-Z", "chpst: illegal option -- Z\nusage: chpst" + usage + "\n\n", 100},
		{"chpst", "-u nosuch true", "chpst: fatal: unknown user/group: nosuch\n", 111},
		{"chpst", "-u root:nosuch true", "chpst: fatal: unknown user/group: root:nosuch\n", 111},
		{"chpst", "-u :12:x true", "chpst: fatal: invalid uid/gids: 12:x\n", 111},
		{"chpst", "-u :12: true", "chpst: fatal: invalid uid/gids: 12:\n", 111}, // runit takes it for group 0
		{"chpst", "-C /none true", "chpst: fatal: unable to change directory: /none: file does not exist\n", 111},
		{"chpst", "-e /none true", "chpst: fatal: unable to switch to directory: /none: file does not exist\n", 111},
		{"chpst", "-e /etc/passwd true", "chpst: fatal: unable to switch to directory: /etc/passwd: not a directory\n", 111},
		{"chpst", "-L /none/x true", "chpst: fatal: unable to open lock: /none/x: file does not exist\n", 111},
		{"chpst", "-b other nosuchprog", "chpst: fatal: unable to run: other: file does not exist\n", 111},
		{"chpst", "-2 nosuchprog", "chpst: fatal: unable to run: nosuchprog: file does not exist\n", 111}, // 2.1.2 says nothing
		{"chpst", "-N2 nosuchprog", "chpst: fatal: unable to run: nosuchprog: file does not exist\n", 111},
		{"chpst", "/", "chpst: fatal: unable to run: /: access denied\n", 111},
		{"envdir", "d", "usage: envdir dir child\n\n", 100},
		{"denvuidgid", "nobody", "usage: envuidgid account child\n\n", 100},
		{"setuidgid", "nosuch true", "chpst: fatal: unknown account: nosuch\n", 111},
		{"pgrphack", "", "usage: pgrphack child\n\n", 100},
		{"pgrphack", "nosuchprog", "chpst: fatal: unable to run: nosuchprog: file does not exist\n", 111},
		{"setlock", "f", "usage: setlock [ -nNxX ] file program [ arg ... ]\n\n", 100},
		{"setlock", "-x /none/f true", "", 0},
		{"setlock", "-xX /none/f true", "chpst: fatal: unable to open lock: /none/f: file does not exist\n", 111},
	} {
		out, code := run(t, c.name, strings.Fields(c.args)...)
		if out != c.want || code != c.code {
			t.Errorf("%s %s: %q, exit %d; want %q, %d", c.name, c.args, out, code, c.want, c.code)
		}
	}
}

// TestAsDebian runs both programs where a reader of the manual would not be sure.
func TestAsDebian(t *testing.T) {
	const prepare = `mkdir env; printf 'one\ntwo\n' >env/A; printf '  x \t\n' >env/B; : >env/C; printf '\n' >env/D
		printf 'a\0b\n' >env/N; export C=old; exec 2>&1`
	// The usage, which names more options here, goes to a closed descriptor.
	runittest.Same(t, runittest.Link(t, "chpst"), needs.Tool(t, "chpst"), allNames(), prepare,
		// An empty argument is one.
		`chpst -u '' id`, `chpst -U '' id`, `chpst -e '' env`, `chpst -l '' true`, `chpst -L '' true`, `chpst -/ '' pwd`,
		`chpst -b '' sh -c 'echo "[$0]"'`, `chpst -n '' nice`, `chpst -o '' sh -c 'ulimit -n'`, `setuidgid '' id`, `envuidgid '' id`,
		`envdir '' env`, `setlock '' true`,
		// The environment.
		`chpst -e env env | sort`, `ln -s /nosuch env/USER; chpst -e env env | sort`, `ln -s loop env/loop; chpst -e env true`,
		`mkdir env/sub; chpst -e env true; chpst -ve env true; envdir env true; echo $?`, `printf ' \n' >env/D; envdir env env | sort`,
		`printf 'bin\n' >env/PATH; chpst -e env echo hi`, `chpst -e env -U nobody env | sort`, `chpst -U :7:8:9 env | sort`,
		// Users; an ordinary user may not become any of them.
		`chpst -u nobody id`, `chpst -u nobody:daemon:bin id`, `chpst -u nobody: id`, `chpst -u :1:2:3 id`, `chpst -u :1 id`,
		`chpst -u 12 id`, `chpst -u nosuch -/ nosuch true`, `chpst -u nosuch -l /nosuch/l true`, `setuidgid nobody:daemon id`,
		// Numbers and limits.
		`chpst -n +5 nice`, `chpst -n 50 nice`, `chpst -n 5x nice 2>&-`, `chpst -n - nice`, `chpst -n ' 5' nice 2>&-`,
		`chpst -o 99999999999999999999999 sh -c 'ulimit -n'`, `chpst -o =5 true 2>&-`, `chpst -o 5x true 2>&-`, `chpst -o 0 true`,
		`softlimit -o = sh -c 'ulimit -n'`, `softlimit -m 100000000 sh -c 'ulimit -d; ulimit -s; ulimit -l; ulimit -v'`,
		`ulimit -Hn 60; chpst -o 100 sh -c 'ulimit -n; ulimit -Hn'`, `chpst -d 90000000 -m 100000000 sh -c 'ulimit -d'`,
		// Locks.
		`umask 027; chpst -l lock sh -c 'stat -c %a lock; umask'`, `chpst -l lock chpst -L lock true`,
		`setlock lock setlock -N lock true`, `setlock -x lock setlock lock true`,
		`setlock lock setlock -x lock true; echo $?`, `echo data >lock; chpst -L lock cat lock`,
		// The program.
		`mkdir a; printf x >a/p; chmod 755 a/p; PATH=$PWD/a:$PATH chpst p`, `mkdir a; : >a/p; PATH=$PWD/a:$PATH chpst p`, `chpst ''`,
		`mkdir -p a/p; PATH=$PWD/a:$PATH chpst p`, `p=$(command -v chpst); env -u PATH $p echo hi`, `chpst -- echo hi`, `chpst - echo`,
		`chpst sh -c 'kill -9 $$'`, `chpst -P sh -c 'exit 3'`, `chpst -012 true`, `setlock -x lock nosuch`, `pgrphack -x true`,
	)
}

// TestStateAsDebian compares all that a program inherits, after each option, after pairs of them, and after each other name.
func TestStateAsDebian(t *testing.T) {
	// ./state notes it in a file: standard output may be closed. Of a pipe only that it is one is the same in both runs, of the
	// lock not even its descriptor.
	const prepare = `mkdir env; echo one >env/A; : >env/C; echo /bin >env/PATH; export C=old; chmod 777 .; umask 022
cat >state <<'END'
#!/bin/sh
exec >state.out
ls -l /proc/self/fd >fds
sed -n 's/.*-> .*lock$/lock/p; s/.* \([0-9]* -> .*\)/\1/; /proc/d; s/\[[0-9]*\]//p' fds
echo "$0 $*"; pwd; nice; umask; cat /proc/self/limits; env -0 | sort -z | tr '\0' '\n'
grep -E '^(Uid|Gid|Groups|SigBlk|SigIgn|NoNew|Cap)' /proc/self/status
read -r pid _ _ _ pgrp sid tty _ </proc/self/stat; echo $((pgrp == pid)) $((sid == pid)) $tty
END
chmod 755 state; run() { "$@" ./state a 'b c'; echo $?; cat state.out 2>&-; }
`
	options := []string{
		"", "-v", "-P", "-0", "-1", "-2", "-012", "-u nobody", "-u nobody:daemon:bin", "-u :7:8:9", "-u nobody:", "-u :7", "-u :7:x",
		"-U nobody", "-U :7:8", "-U nobody:bin:daemon", "-U nosuch", "-b name", "-e env", "-/ .", "-n 5", "-n -3", "-n +3", "-n -50",
		"-l lock", "-L lock", "-l no/such", "-m 900000000", "-d 1000000000", "-o 50", "-o 0", "-p 5000", "-f 10000000", "-c 0",
		"-r 1000000000", "-t 1000", "-e nosuch", "-vP0", "-P0v1", "--", "-n5 --", "-",
		// The order in which things are done.
		"-u nobody -n -3", "-n -3 -u nobody", "-u nobody -l lock", "-l no/such -u nosuch", "-o 1 -u nobody",
		"-m 900000000 -d 800000000",
		"-d 800000000 -m 900000000", "-U daemon -u nobody", "-u nobody -U daemon", "-e env -U nobody", "-o 20 -o 30",
		"-u nosuch -u nobody",
		"-l lock -o 3", "-2 -e nosuch", "-2 -u nosuch", "-1 -0 -l lock", "-e nosuch -/ nosuch", "-/ nosuch -n 5 -u nosuch", "-n 3 -n 4",
		"-/ . -u nobody", "-/ . -U :7:8 -l lock", "-P -P", "-b a -b b", "-e env -e nosuch", "-u nobody -u root",
		"-v -e env -P -n 1 -o 60",
	}
	var scripts []string
	for _, o := range options {
		scripts = append(scripts, "run chpst "+o)
	}
	for _, c := range []string{
		"setuidgid nobody", "setuidgid nobody:daemon", "setuidgid :7:8", "dsetuidgid nosuch", "envuidgid daemon", "denvuidgid nosuch",
		"envdir env", "envdir nosuch", "denvdir state", "pgrphack", "dpgrphack", "setlock lock", "setlock -n lock", "setlock -N lock",
		"setlock -x no/such", "setlock -X no/such", "dsetlock -nNxX lock", "setlock -z lock", "setlock -- lock", "softlimit",
		"softlimit -a 900000000 -m 1000000000", "softlimit -m 1000000000 -a 900000000", "softlimit -c 0 -c =",
		"softlimit -d 900000000 -f 1000000 -l 4096 -o 40 -p 5000 -r 1000000 -s 4194304 -t 100", "softlimit -t = -s =", "softlimit -z 1",
		"dsoftlimit -p 99999999999", "softlimit --",
	} {
		scripts = append(scripts, "run "+c)
	}
	// Ignored and blocked signals, and an ordinary user's errors.
	scripts = append(scripts, `trap '' USR2 PIPE; run chpst -n 1`, `trap '' HUP INT QUIT CHLD URG PROF; run chpst -o 30`,
		`chpst -u nobody chpst -u nobody true`, `chpst -u nobody chpst -n -5 true`, `chpst -u nobody chpst -/ / true`,
		`mkdir d; chmod 711 d; chpst -u nobody chpst -e d true`, `mkdir d; chmod 744 d; chpst -u nobody chpst -e d true`,
		`: >env/X; chmod 0 env/X; chpst -u nobody chpst -e env true`, `: >lock; chmod 600 lock; chpst -u nobody chpst -L lock true`,
		`ulimit -Hp 50; chpst -p 100 sh -c 'ulimit -p; ulimit -Hp'`, `chpst -u nobody sh -c 'chpst -p 1 ./state'; echo $?`)
	runittest.Same(t, runittest.Link(t, "chpst"), needs.Tool(t, "chpst"), allNames(), prepare, scripts...)
}

// TestRootAsDebian changes the root to a directory with a shell of its own.
func TestRootAsDebian(t *testing.T) {
	needs.Root(t)
	prepare := `mkdir -p root/bin root/etc root/sub root/proc; chmod 755 . root; chmod 777 root/sub
		cp ` + needs.Tool(t, "busybox") + ` root/bin
		ln -s busybox root/bin/sh; ln -s busybox root/bin/id; ln -s busybox root/bin/pwd; ln -s busybox root/bin/ls
		echo zed:x:4242:4343::/:/bin/sh >root/etc/passwd; printf 'zedg:x:4343:\nmore:x:4444:zed\n' >root/etc/group; exec 2>&1`
	runittest.Same(t, runittest.Link(t, "chpst"), needs.Tool(t, "chpst"), allNames(), prepare,
		`chpst -/ root pwd`, `chpst -/ root -u zed id -u`, `chpst -/ root -u zed:more id -G`, `chpst -/ root -u nobody id`,
		`chpst -/ root -u zed:daemon id`, `chpst -/ root -U zed sh -c 'echo $UID $GID'`, `chpst -/ root -u zed -l sub/lock ls -ln sub`,
		`chpst -/ root -l /sub/lock ls /sub`, `chpst -/ root -b sh busybox -c 'echo $0'`, `cd root; chpst -/ . -e sub pwd`,
		`echo in >root/sub/V; chpst -e root/sub -/ root sh -c 'echo $V'; chpst -e sub -/ root sh -c 'echo $V'`, `chpst -/ root true`,
		`PATH=/none:$PATH chpst -/ root pwd`, `rm -r root/etc; chpst -/ root -u zed id`,
		`rm root/etc/group; chpst -/ root -u zed:more id`,
		`rm root/etc/group; chpst -/ root -u zed id -u`, `rm -r root/etc; chpst -/ root -u :7:8 id -u`, `: >f; chpst -/ f pwd`,
		`chroot root /bin/sh -c pwd; chpst -u nobody chpst -/ root pwd`,
		`rm root/etc/passwd; mkdir root/etc/passwd; chpst -/ root -u zed id`)
}

// setlock's -n and -N are the other way round than daemontools': without an option it does not wait.
func TestSetlock(t *testing.T) {
	lock := filepath.Join(t.TempDir(), "lock")
	f, err := os.Create(lock)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	out, code := run(t, "setlock", lock, "true")
	if code != 111 || !strings.Contains(out, "unable to lock: "+lock+": temporary failure") {
		t.Errorf("%q, exit %d", out, code)
	}
	waits := exec.Command(runittest.Link(t, "setlock"), "-n", lock, "echo", "got it")
	time.AfterFunc(100*time.Millisecond, func() { f.Close() })
	if out, err := waits.CombinedOutput(); err != nil || string(out) != "got it\n" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestSoftlimit(t *testing.T) {
	const script = "ulimit -n; ulimit -s; test $(ulimit -c) = $(ulimit -Hc) && echo same"
	out, code := run(t, "softlimit", "-o", "33", "-s", "1000000", "-c", "=", "sh", "-c", script)
	if want := "33\n976\nsame\n"; out != want || code != 0 {
		t.Errorf("%q, exit %d, want %q", out, code, want)
	}
	for _, args := range [][]string{{"-m", "x", "true"}, {"-m"}} {
		if out, code := run(t, "softlimit", args...); !strings.Contains(out, "usage: softlimit [-a ") || code != 100 {
			t.Errorf("%s: %q, exit %d", args, out, code)
		}
	}
	out, code = run(t, "softlimit", "-c", "99999999999999999999", "sh", "-c", "test $(ulimit -c) = $(ulimit -Hc) && echo same")
	if out != "same\n" || code != 0 {
		t.Errorf("%q, exit %d", out, code)
	}
}

func TestIgnoredSignalsStayIgnored(t *testing.T) {
	runittest.Unignore(t)
	const script = `trap "" USR1 TERM HUP; exec "$0" grep SigIgn /proc/self/status`
	out, err := exec.Command("sh", "-c", script, runittest.Link(t, "chpst")).CombinedOutput()
	if want := "SigIgn:\t0000000000004201\n"; err != nil || string(out) != want {
		t.Errorf("%q, %v; want %q", out, err, want)
	}
}

func TestAlarm(t *testing.T) {
	c := exec.Command(runittest.Link(t, "chpst"), "-A", "1", "sleep", "1000")
	_ = c.Run() // of interest is how
	if ws := c.ProcessState.Sys().(syscall.WaitStatus); ws.Signal() != syscall.SIGALRM {
		t.Errorf("%v", c.ProcessState)
	}
}

// TestNamespace shows that with -F daemons end with the program, or are waited for, and -I leaves them no time.
func TestNamespace(t *testing.T) {
	needs.Root(t)
	const program = ` & echo $$; exit 3`
	const daemon = `(while kill -0 $$ 2>/dev/null; do sleep 0.1; done; echo late; exit 9)`
	if out, code := run(t, "chpst", "-F", "sh", "-c", "env | grep CMGR; "+daemon+program); !strings.HasSuffix(out, "\nlate\n") || code != 9 {
		t.Errorf("-F: %q, exit %d", out, code)
	}
	if out, code := run(t, "chpst", "-I", "sh", "-c", "(sleep 100; echo late)"+program); out != "1\n" || code != 3 {
		t.Errorf("-I: %q, exit %d", out, code)
	}
	c := exec.Command(runittest.Link(t, "chpst"), "-F", "sh", "-c", "setsid sleep 1000 & echo up; wait")
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil { // all are there
		t.Fatal(err)
	}
	_ = c.Process.Signal(syscall.SIGTERM)
	if err := c.Wait(); c.ProcessState.ExitCode() != 128+15 {
		t.Errorf("after TERM: %v", err)
	}
}

func FuzzNumericIDs(f *testing.F) {
	for _, s := range []string{"1:2", "0:0:5", "1:", ":", "4294967295:1", "1:2x", "007:8"} {
		f.Add(s)
	}
	// What is taken is what was written, number by number.
	f.Fuzz(func(t *testing.T, s string) {
		u, ok := numericIDs(s)
		if !ok {
			return
		}
		fields := strings.Split(s, ":")
		for i, id := range append([]int{u.uid}, u.gids...) {
			if digits := strings.TrimLeft(fields[i], "0"); digits != strings.TrimLeft(fmt.Sprint(id), "0") {
				t.Fatalf("%q: %v", s, u)
			}
		}
		if len(fields) != 1+len(u.gids) || len(u.gids) == 0 {
			t.Fatalf("%q: %v", s, u)
		}
	})
}

func FuzzSetEnv(f *testing.F) {
	f.Add("A=1\nB=2", "A", "3")
	f.Add("A=1", "A=B", "x")
	f.Add("", "", "")
	// Afterwards the name is there once, with that value; nothing else has changed; and removing it is the end of it.
	f.Fuzz(func(t *testing.T, env, name, value string) {
		before := strings.Split(env, "\n")
		c := &change{env: slices.Clone(before)}
		c.setEnv(name, value, true)
		key, _, _ := strings.Cut(name+"="+value, "=")
		is := func(e string) bool { return strings.HasPrefix(e, key+"=") }
		others := slices.DeleteFunc(slices.Clone(before), is)
		if want := append(slices.Clone(others), name+"="+value); !slices.Equal(c.env, want) {
			t.Fatalf("%q", c.env)
		}
		c.setEnv(key, "", false)
		if !slices.Equal(c.env, others) {
			t.Fatalf("%q", c.env)
		}
	})
}
