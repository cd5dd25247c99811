package leak

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

type run func() int

func (r run) Run() int { return r() }

func TestRun(t *testing.T) {
	defer func(d time.Duration) { patience = d }(patience)
	patience = 0
	var undo []func()
	tests := map[string]struct {
		body run
		want int
	}{
		"clean":  {func() int { return 0 }, 0},
		"failed": {func() int { return 3 }, 3},
		"goroutine": {func() int {
			stop, done := make(chan struct{}), make(chan struct{})
			go func() { <-stop; close(done) }()
			undo = append(undo, func() { close(stop); <-done })
			return 0
		}, 1},
		"descriptor": {func() int {
			f, err := os.Open("/dev/null")
			if err != nil {
				t.Error(err)
			}
			undo = append(undo, func() { f.Close() })
			return 0
		}, 1},
		"child": {func() int {
			c := exec.Command("cat")
			in, err := c.StdinPipe()
			if err != nil {
				t.Error(err)
			}
			if err := c.Start(); err != nil {
				t.Error(err)
			}
			undo = append(undo, func() { in.Close(); c.Wait() })
			return 0
		}, 1},
		"closed again": {func() int {
			if err := exec.Command("true").Run(); err != nil {
				t.Error(err)
			}
			f, err := os.Open("/dev/null")
			if err != nil {
				t.Error(err)
			}
			f.Close()
			return 0
		}, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := Run(test.body); got != test.want {
				t.Errorf("Run = %d, want %d", got, test.want)
			}
			for _, u := range undo {
				u()
			}
			undo = nil
		})
	}
}

func TestChildrenNamesWhatIsLeft(t *testing.T) {
	c := exec.Command("sleep", "1000")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer c.Wait()
	defer c.Process.Kill()
	if left := children(); len(left) == 0 {
		t.Error("children() names nothing while a child runs")
	}
	if left := children(); len(left) != 1 {
		t.Errorf("children() = %q, want one", left)
	}
}

func TestMain(m *testing.M) { os.Exit(Run(m)) }
