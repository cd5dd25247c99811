package runsv

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/runners/runit/runittest"
	"github.com/cmgr/cmgr/runners/runit/servicedir"
)

// A side is a runsv, ours or the original, over a service directory of its own.
type side struct {
	t       *testing.T
	dir     string
	c       *exec.Cmd
	ended   chan struct{}
	changed map[string]time.Time // the time in the status, at the last step
}

// A life is a service directory and what happens to it. Steps are
//
//	BYTES          are written to the control FIFO
//	log BYTES      to the log's
//	TERM           is sent to runsv
//	SIG=NAME       is sent to the service
//	+FILE, -FILE   is made, removed
type life struct {
	name  string
	files map[string]string // scripts, without the #! line; "": an empty file; an entry that ends with / is a directory
	steps []string
}

func newSide(t *testing.T, program string, files map[string]string) *side {
	s := &side{t: t, dir: filepath.Join(t.TempDir(), "sv"), ended: make(chan struct{}), changed: map[string]time.Time{}}
	// A process that is started meanwhile must not have them open for writing: "text busy".
	syscall.ForkLock.RLock()
	for name, text := range files {
		path := filepath.Join(s.dir, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if text != "" {
			text = "#!/bin/sh\n" + text + "\n"
		}
		if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(path, 0o755)
		} else if err == nil {
			err = os.WriteFile(path, []byte(text), 0o755)
		}
		if err != nil {
			t.Error(err)
		}
	}
	syscall.ForkLock.RUnlock()
	s.c = exec.Command(program, s.dir)
	said, err := os.Create(s.dir + ".said")
	if err != nil {
		t.Error(err)
	}
	defer said.Close()
	s.c.Args[0], s.c.Dir, s.c.Env, s.c.Stderr, s.c.Stdout = "runsv", "/", []string{"PATH=/usr/bin:/bin"}, said, said
	s.c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.c.Start(); err != nil {
		t.Error(err)
	}
	go func() { _ = s.c.Wait(); close(s.ended) }()
	return s
}

func (s *side) status(log string) servicedir.Status {
	st, _ := servicedir.Read(unix.AT_FDCWD, s.dir+"/"+log)
	return st
}

func (s *side) do(step string) {
	log := ""
	rest, isLog := strings.CutPrefix(step, "log ")
	if isLog {
		step, log = rest, "log/"
	}
	var err error
	if name, ok := strings.CutPrefix(step, "SIG="); ok {
		err = unix.Kill(int(s.status(log).PID), unix.SignalNum(name))
	} else if name, ok := strings.CutPrefix(step, "+"); ok {
		err = os.WriteFile(filepath.Join(s.dir, name), []byte("#!/bin/sh\n"), 0o755)
	} else if name, ok := strings.CutPrefix(step, "-"); ok {
		err = os.Remove(filepath.Join(s.dir, name))
	} else if step == "TERM" {
		err = s.c.Process.Signal(unix.SIGTERM)
	} else if step != "" {
		var fd int
		if fd, err = unix.Open(filepath.Join(s.dir, log, "supervise/control"), unix.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
			_, err = unix.Write(fd, []byte(step))
			unix.Close(fd)
		}
	}
	if err != nil {
		s.t.Errorf("%s: %v", step, err)
	}
}

// view is what can be seen of the service from outside.
func (s *side) view() string {
	var b strings.Builder
	select {
	case <-s.ended:
		fmt.Fprintf(&b, "runsv exited %d\n", s.c.ProcessState.ExitCode())
	default:
	}
	for _, log := range []string{"", "log/"} {
		entries, err := os.ReadDir(filepath.Join(s.dir, log, "supervise"))
		if err != nil {
			continue
		}
		fmt.Fprintf(&b, "%ssupervise:", log)
		for _, e := range entries {
			if i, err := e.Info(); err == nil && e.Name() != "mark" && !strings.HasSuffix(e.Name(), ".new") {
				fmt.Fprintf(&b, " %s %v", i.Mode(), e.Name())
			}
		}
		dir := filepath.Join(s.dir, log, "supervise") + "/"
		raw, _ := os.ReadFile(dir + "status")
		stat, _ := os.ReadFile(dir + "stat")
		pid, _ := os.ReadFile(dir + "pid")
		st, err := servicedir.Decode(raw)
		fmt.Fprintf(&b, "\n%v, want %c, paused %v, term %v, stat %q, error %v", st.State, st.Want, st.Paused, st.Term, stat, err)
		if text := fmt.Sprintf("%d\n", st.PID); st.PID > 0 && string(pid) == text {
			path, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", st.PID))
			fmt.Fprintf(&b, ", process %q", path)
		} else if st.PID > 0 || len(pid) > 0 {
			fmt.Fprintf(&b, ", pid %d and %q", st.PID, pid)
		}
		fmt.Fprintf(&b, ", new time %v, not far %v\n", !st.Since.Equal(s.changed[log]), time.Since(st.Since).Abs() < time.Minute)
	}
	for _, who := range []string{"run", "cont", "log", "control"} {
		rec, _ := os.ReadFile(s.dir + "/" + who + ".notes")
		fmt.Fprintf(&b, "%s notes: %s\n", who, strings.Fields(string(rec)))
	}
	said, _ := os.ReadFile(s.dir + ".said")
	fmt.Fprintf(&b, "said: %s", strings.ReplaceAll(string(said), s.dir, "DIR"))
	return b.String()
}

// settled says whether it has begun, has read all commands, and nothing is about to happen: a shell that waits for a processor may not
// have set its traps, and what ended too soon is started again in a second, if it can be.
func (s *side) settled() bool {
	select {
	case <-s.ended:
		return true
	default:
	}
	if _, err := servicedir.Read(unix.AT_FDCWD, s.dir+"/"); err != nil {
		return false
	}
	said, _ := os.ReadFile(s.dir + ".said")
	for _, log := range []string{"", "log/"} {
		st := s.status(log)
		if st.State == servicedir.Down && st.Want == 'u' && !bytes.Contains(said, []byte("unable to start")) {
			return false
		}
		if fd, err := unix.Open(filepath.Join(s.dir, log, "supervise/control"), unix.O_RDWR|unix.O_NONBLOCK, 0); err == nil {
			n, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
			unix.Close(fd)
			if err != nil || n > 0 {
				return false
			}
		}
	}
	return idle(s.c.Process.Pid)
}

// idle says whether neither process pid nor any below it runs, or would if it could.
func idle(pid int) bool {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	for _, task := range tasks {
		stat, _ := os.ReadFile(task + "/stat") // one that has ended is idle
		if _, state, ok := bytes.Cut(stat, []byte(") ")); ok && strings.IndexByte("RD", state[0]) >= 0 {
			return false
		}
		children, _ := os.ReadFile(task + "/children")
		for child := range strings.FieldsSeq(string(children)) {
			if n, err := strconv.Atoi(child); err == nil && !idle(n) {
				return false
			}
		}
	}
	return true
}

func (s *side) end() {
	_ = unix.Kill(-s.c.Process.Pid, unix.SIGKILL)
	<-s.ended
}

// live leads l with both, and tells where they differ.
func (l life) live(t *testing.T, ours, theirs string) (difference string) {
	sides := []*side{newSide(t, ours, l.files), newSide(t, theirs, l.files)}
	defer sides[0].end()
	defer sides[1].end()
	for _, step := range append([]string{""}, l.steps...) {
		for _, s := range sides {
			s.do(step)
		}
		var last string
		same := 0
		for limit := time.Now().Add(3 * time.Minute); same < 3; {
			time.Sleep(50 * time.Millisecond)
			a, b := sides[0].view(), sides[1].view()
			if a == b && a == last && sides[0].settled() && sides[1].settled() {
				same++
			} else {
				same = 0
			}
			last = a
			if time.Now().After(limit) {
				var d []string
				as, bs := strings.Split(a, "\n"), strings.Split(b, "\n")
				for _, x := range as {
					if !slices.Contains(bs, x) {
						d = append(d, "ours   "+x)
					}
				}
				for _, x := range bs {
					if !slices.Contains(as, x) {
						d = append(d, "theirs "+x)
					}
				}
				return fmt.Sprintf("%s: after %q of %q:\n%s", l.name, step, l.steps, strings.Join(d, "\n"))
			}
		}
		for _, s := range sides {
			for _, log := range []string{"", "log/"} {
				b, _ := os.ReadFile(filepath.Join(s.dir, log, "supervise/status"))
				st, _ := servicedir.Decode(b)
				s.changed[log] = st.Since
			}
		}
	}
	return ""
}

const (
	// A ./run that notes the signals it gets, and ends of TERM. Not CONT, which comes together with TERM, in any order.
	recorder = `exec >/dev/null
for s in HUP ALRM INT QUIT USR1 USR2; do trap "echo $s >>run.notes" $s; done
trap 'echo TERM >>run.notes; exit 7' TERM
echo run $# >>run.notes
sleep 1000 & while :; do wait; done`
	// The same as a log service; it does not end with its input.
	logRecorder = `cd ..
for s in HUP ALRM INT QUIT USR1 USR2; do trap "echo $s >>log.notes" $s; done
trap 'echo TERM >>log.notes; exit 7' TERM
echo log $# >>log.notes
sleep 1000 & while :; do wait; done`
	cat      = "echo cat >>../log.notes; cat; echo end >>../log.notes"
	finish   = `echo finish $# "$@" >>run.notes`
	finisher = finish + "; while ! test -e go; do sleep 0.1; done; rm go"
	// What ends in some way once, then lives.
	once = "echo run >>run.notes; test -e 1 || { : >1; %s; }; exec sleep 1000"
)

// stubborn does not end of TERM, and has its own list of CONT.
var stubborn = "trap 'echo CONT >>cont.notes' CONT\n" + strings.Replace(recorder, "exit 7", "", 1)

// TestLivesAsUnderTheOriginal leads hundreds of lives under both. What DIFFERENCES.md has is left out.
func TestLivesAsUnderTheOriginal(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes a while")
	}
	ours, theirs := runittest.Link(t, "runsv"), needs.Tool(t, "runsv")
	type files = map[string]string
	var lives []life
	add := func(name string, f files, steps ...string) { lives = append(lives, life{name, f, steps}) }
	with := func(f files, more files) files {
		f = maps.Clone(f)
		maps.Copy(f, more)
		return f
	}
	plain := files{"run": recorder, "finish": finish}
	down := with(plain, files{"down": ""})

	// Every command in every state, and TERM to runsv.
	for _, state := range []life{
		{"down", down, nil},
		{"running", plain, nil},
		{"once", down, []string{"o"}},
		{"stopping", with(plain, files{"run": stubborn}), []string{"d"}},
		{"exiting", with(plain, files{"run": stubborn}), []string{"x"}},
		{"terminated", with(plain, files{"run": stubborn}), []string{"t"}},
		{"paused", plain, []string{"p"}},
		{"finishing", with(plain, files{"finish": finisher}), []string{"t"}},
		{"finishing, down", with(plain, files{"finish": finisher}), []string{"d"}},
		{"finishing, exit", with(plain, files{"finish": finisher}), []string{"x"}},
	} {
		for _, b := range strings.Fields("u d o x t k p c h a i q 1 2 z TERM") {
			steps := append(slices.Clone(state.steps), b)
			if strings.HasPrefix(state.name, "finishing") {
				if b == "k" || b == "p" && state.name != "finishing" {
					continue // differs
				}
				steps = append(steps, "+go")
			} else if state.name == "exiting" && b == "k" {
				continue // differs
			}
			add(state.name, state.files, steps...)
		}
	}
	// The log.
	logged := with(plain, files{
		"log/run": logRecorder, "log/finish": "echo finish >>../log.notes", "log/control/t": "echo t >>../log.notes",
	})
	for _, state := range []life{
		{"log running", logged, nil},
		{"log once", with(logged, files{"log/down": ""}), []string{"log o"}},
		{"log down", with(logged, files{"log/down": ""}), nil},
		{"log paused", logged, []string{"log p"}},
		{"log, service down", with(logged, files{"down": ""}), nil},
		{"log draining", logged, []string{"x"}},
	} {
		for _, b := range strings.Fields("u d o x t k p c h 1 z") {
			if state.name == "log draining" && strings.Contains("uodtk", b) || state.name == "log paused" && strings.Contains("dk", b) {
				continue // differs
			}
			add(state.name, state.files, append(slices.Clone(state.steps), "log "+b)...)
		}
	}
	// Ends from outside.
	piped := with(plain, files{"log/run": cat})
	for _, state := range []life{
		{"with log", piped, nil},
		{"with log, down", with(piped, files{"down": ""}), nil},
		{"with log, both down", with(piped, files{"down": "", "log/down": ""}), nil},
		{"with log, log down", with(piped, files{"log/down": ""}), nil},
		{"without log", plain, nil},
	} {
		add(state.name, state.files, "x")
		add(state.name, state.files, "TERM")
		if _, ok := state.files["down"]; !ok {
			for _, s := range []string{"KILL", "ABRT", "TERM", "SEGV"} {
				add(state.name, state.files, "SIG=SIG"+s)
			}
		}
	}
	add("log ends", piped, "log SIG=SIGKILL", "x")
	// Control scripts.
	for _, code := range []string{"exit 0", "exit 1"} {
		all := files{}
		for _, c := range "tdxupkchaiq12o" {
			all["control/"+string(c)] = fmt.Sprintf("echo $0 $# %c ${PWD##*/} >>control.notes; %s", c, code)
		}
		for _, b := range strings.Fields("u d o x t k p c h a i q 1 2 TERM") {
			add("control scripts: "+code, with(plain, all), b)
			add("down, control scripts: "+code, with(down, all), b)
		}
	}
	add("control script comes", plain, "+control.notes", "t", "-control.notes")
	add("control is a file", with(plain, files{"control": ""}), "t", "d")
	// Several commands at once, and one after the other.
	for _, s := range []string{"du", "dx", "xu", "tcu", "ou", "od", "uu", "pd", "pk", "oo", "xd", "xo", "ud", "d\nu\n"} {
		add("at once", plain, s)
		if s != "od" && s != "ud" && s != "xu" {
			add("down, at once", down, s)
		}
	}
	for _, s := range []string{
		"p d", "p x", "p t c", "p k", "p SIG=SIGKILL", "p c", "p TERM", "d u", "d o", "o u", "o t", "o k", "o d u", "d k",
	} {
		add("in turn", plain, strings.Fields(s)...)
	}
	// Ends of its own.
	for _, e := range []string{
		"exit 0", "exit 1", "exit 100", "exit 111", "exit 255", "kill -9 $$", "kill -15 $$", "kill -2 $$", "kill -1 $$",
		"ulimit -c unlimited; kill -6 $$", "ulimit -c 0; kill -11 $$", "exec /none", "sleep 1.5; exit 3",
	} {
		add("run: "+e, files{"run": fmt.Sprintf(once, e), "finish": finish})
		add("run, no finish: "+e, files{"run": fmt.Sprintf(once, e)})
		add("finish: "+e, files{"run": fmt.Sprintf(once, "exit 3"), "finish": finish + "; " + e})
		log := "echo log >>../log.notes; test -e 1 || { : >1; " + e + "; }; exec cat >/dev/null"
		add("log: "+e, files{"run": recorder, "log/run": log})
	}
	fails := fmt.Sprintf(once, "exit 3")
	add("slow finish", files{"run": fails, "finish": finish + "; sleep 2"})
	add("finish vanishes", files{"run": fmt.Sprintf(once, "rm finish; exit 3"), "finish": finish})
	add("finish is a directory", files{"run": fails, "finish/": ""})
	add("finish is no program", files{"run": fails, "finish": ""})
	add("run is missing", files{"finish": finish, "down": ""}, "o")
	add("run is a directory", files{"run/": "", "finish": finish, "down": ""}, "o")
	add("run is no program", files{"run": "", "finish": finish, "down": ""}, "o")
	add("log is a file", with(plain, files{"log": ""}), "t")
	add("log has no run", with(plain, files{"log/x": ""}), "log d", "x")
	add("down is a directory", with(plain, files{"down/": ""}), "u")
	add("down comes", plain, "+down", "t")
	add("down goes", down, "-down", "", "u")
	add("supervise is there", with(piped, files{"supervise/": "", "log/supervise/": ""}), "d")

	turn := make(chan struct{}, 24)
	var all sync.WaitGroup
	for _, l := range lives {
		turn <- struct{}{}
		all.Go(func() {
			if d := l.live(t, ours, theirs); d != "" {
				t.Error(d)
			}
			<-turn
		})
	}
	all.Wait()
}

// TestLivesBetter leads those that differ, with ours alone.
func TestLivesBetter(t *testing.T) {
	for _, l := range []struct {
		life
		want []string
	}{
		{
			life{"killed when it is to exit", map[string]string{"run": stubborn, "finish": finish}, []string{"x", "k"}},
			[]string{"runsv exited 0", `down, want d, paused false, term false, stat "down\n"`, "TERM", "finish 2 -1 9]"},
		},
		{
			life{"no program", map[string]string{"run": recorder, "control/t": ""}, []string{"t"}},
			[]string{"said: runsv DIR: fatal: unable to run control/t: exec format error\n", "TERM run 0]"},
		},
		{
			life{"stat can't be written", map[string]string{"run": recorder, "supervise/stat.new/x": ""}, nil},
			[]string{"run, want u, paused false, term false, stat \"\"", "warning: unable to open supervise/stat.new: is a directory\n"},
		},
	} {
		s := newSide(t, runittest.Link(t, "runsv"), l.files)
		for _, step := range l.steps {
			s.until("the last step", func(string) bool { return s.settled() })
			s.until("./run", func(view string) bool { return strings.Contains(view, "run notes: [run 0") })
			s.do(step)
		}
		for _, want := range l.want {
			s.until(l.name+": "+want, func(view string) bool { return strings.Contains(view, want) })
		}
		s.end()
	}
}

// until waits for what must come.
func (s *side) until(what string, happened func(view string) bool) {
	for end := time.Now().Add(3 * time.Minute); !happened(s.view()); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Errorf("no %s: %s", what, s.view())
			return
		}
	}
}
