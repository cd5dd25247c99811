package sv

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/runners/runit/servicedir"
)

var age = regexp.MustCompile(`\b\d+s\b`)

// An outcome is what one call did.
type outcome struct {
	code      int
	out, errs string
	sent      []string // by fake
}

func outcomeOf(code int, out, errs *bytes.Buffer, fakes []*fake) outcome {
	o := outcome{code, age.ReplaceAllString(out.String(), "Ns"), errs.String(), nil}
	for _, f := range fakes {
		o.sent = append(o.sent, f.got())
	}
	return o
}

// both calls ours and the original as name in the working directory.
func both(name, original string, fakes []*fake, args []string) (ours, theirs outcome) {
	var out, errs bytes.Buffer
	c := exec.Command(original, args...)
	c.Args[0], c.Stdout, c.Stderr = name, &out, &errs
	_ = c.Run() // its code is compared
	theirs = outcomeOf(c.ProcessState.ExitCode(), &out, &errs, fakes)
	out.Reset()
	errs.Reset()
	code := Main(append([]string{name}, args...), nil, &out, &errs)
	return outcomeOf(code, &out, &errs, fakes), theirs
}

// lines is the lines of a that b has not.
func lines(a, b string) string {
	have := strings.Split(b, "\n")
	return strings.Join(slices.DeleteFunc(strings.Split(a, "\n"), func(l string) bool { return slices.Contains(have, l) }), "\n")
}

// set is the lines of what was said, each once: the original runs a check for each command of which that depends.
func set(s string) []string {
	all := strings.Split(s, "\n")
	slices.Sort(all)
	return slices.Compact(all)
}

// TestEveryCommandAsTheOriginal has both tell, send and wait for services in all states, also such as no runsv tells: what is
// printed, sent and returned must be the same, but that ours sends also what the status seems to make unnecessary.
func TestEveryCommandAsTheOriginal(t *testing.T) {
	original := needs.Tool(t, "sv")
	defer func(d time.Duration) { leastCheck = d }(leastCheck)
	leastCheck = time.Minute // the original waits as long as it takes
	dir := t.TempDir()
	var fakes []*fake
	var names []string
	add := func(s servicedir.Status, check string, mode os.FileMode) {
		f := newFake(t, fmt.Sprintf("%s/f%03d", dir, len(fakes)), s)
		if check != "" {
			if err := os.WriteFile(f.dir+"/check", []byte(check), mode); err != nil {
				t.Fatal(err)
			}
		}
		fakes, names = append(fakes, f), append(names, filepath.Base(f.dir))
	}
	// The original compares whole seconds: not this one.
	times := []time.Time{time.Now().Add(-90 * time.Second), time.Now().Add(time.Hour)}
	for i := range 3 * 2 * 3 * 2 * 2 * 2 {
		pick := func(n int) (k int) { k = i % n; i /= n; return k }
		add(servicedir.Status{
			State: servicedir.State(pick(3)), PID: uint32(pick(2) * 4321), Want: "ud\x00"[pick(3)],
			Paused: pick(2) == 1, Term: pick(2) == 1, Since: times[pick(2)],
		}, "", 0)
	}
	for _, since := range times {
		up := servicedir.Status{State: servicedir.Run, PID: 4321, Want: 'u', Since: since}
		add(up, "#!/bin/sh\nexit 0\n", 0o755)
		add(up, "#!/bin/sh\nexit 1\n", 0o755)
		add(up, "#!/bin/sh\nexit 0\n", 0o644)
		add(up, "#!/none\n", 0o755)
		add(up, "echo no interpreter\n", 0o755)
		add(servicedir.Status{Want: 'u', Since: since}, "#!/bin/sh\nexit 1\n", 0o755)
	}
	t.Chdir(dir)
	t.Setenv("SVDIR", dir)
	t.Setenv("SVWAIT", "0")
	for _, command := range strings.Fields(`status s st up u start down d stop once o pause p cont c hup h alarm a interrupt i quit q 1 2
		term t kill k exit e x shutdown restart reload try-restart force-stop D force-reload T force-restart force-shutdown X E`) {
		var options []string
		if len(command) == 1 { // the words that don't wait are to show just that
			options = []string{"-w0"}
		}
		ours, theirs := both("sv", original, fakes, append(append(slices.Clone(options), command), names...))
		if ours.code != theirs.code {
			t.Errorf("sv %s %s: exit %d, want %d", options, command, ours.code, theirs.code)
		}
		if ours.out != theirs.out || !slices.Equal(set(ours.errs), set(theirs.errs)) {
			t.Errorf("sv %s %s (or in another order): %s%s\nwant %s%s", options, command,
				lines(ours.out, theirs.out), lines(ours.errs, theirs.errs), lines(theirs.out, ours.out), lines(theirs.errs, ours.errs))
		}
		for i, got := range ours.sent {
			want := theirs.sent[i]
			if got != want && strings.NewReplacer("u", "", "d", "").Replace(got) != want {
				t.Errorf("sv %s %s %s: sent %q, want %q", options, command, names[i], got, want)
			}
		}
	}
	// As an init script, one by one.
	for i := range fakes {
		for _, command := range []string{"status", "start", "stop", "hup", "reload"} {
			if command != "status" && i%40 != 0 {
				continue
			}
			ours, theirs := both("/etc/init.d/"+names[i], original, nil, []string{command})
			if fmt.Sprint(ours) != fmt.Sprint(theirs) {
				t.Errorf("%s %s: %+v\nwant %+v", names[i], command, ours, theirs)
			}
		}
	}
	for _, args := range [][]string{
		{}, {"stat"}, {"-w", "0", "stop"}, {"-v"}, {"--", "status", "f001"}, {"status", "--"}, {"resta"}, {"-q", "status"}, {"s"},
	} {
		ours, theirs := both("/etc/init.d/f002", original, nil, args)
		if fmt.Sprint(ours) != fmt.Sprint(theirs) {
			t.Errorf("f002 %q: %+v\nwant %+v", args, ours, theirs)
		}
	}
	if ours, theirs := both("/etc/init.d/none", original, nil, []string{"status"}); fmt.Sprint(ours) != fmt.Sprint(theirs) {
		t.Errorf("none status: %+v\nwant %+v", ours, theirs)
	}
}
