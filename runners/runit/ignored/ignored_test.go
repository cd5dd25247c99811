package ignored

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/cmgr/cmgr/runners/runit/runittest"
)

func TestMain(m *testing.M) {
	if os.Getenv("IGNORED_SHOW") != "" {
		for _, s := range signals() {
			fmt.Printf("%d ", int(s))
		}
		fmt.Println()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestSignals(t *testing.T) {
	runittest.Unignore(t)
	for trap, want := range map[string]string{
		"":                       "",
		"USR1":                   "10 ",
		"HUP INT PIPE TERM USR2": "1 2 12 13 15 ",
		"TSTP CONT":              "18 20 ",
		"PROF URG 40":            "23 27 40 ",
	} {
		c := exec.Command("/bin/sh", "-c", `for s in $0; do trap "" $s; done; exec "$1"`, trap, os.Args[0])
		c.Env = append(os.Environ(), "IGNORED_SHOW=1")
		out, err := c.CombinedOutput()
		if got := string(out); err != nil || got != want+"\n" {
			t.Errorf("ignored %q: %q, %v; want %q", trap, got, err, want)
		}
	}
}

func TestData(t *testing.T) {
	const maps = `00400000-00a00000 r-xp 00000000 fe:00 1 /bin/p
00a00000-00b00000 r--p 00600000 fe:00 1 /bin/p
00b00000-00b10000 rw-p 00700000 fe:00 1 /bin/p
00b10000-00b40000 rw-p 00000000 00:00 0
00b50000-00b60000 rw-p 00000000 00:00 0
c000000000-c000400000 rw-p 00000000 00:00 0 [anon: Go: heap]
`
	if got := fmt.Sprintf("%x", data(maps)); got != "[{b00000 b40000}]" {
		t.Error(got)
	}
}
