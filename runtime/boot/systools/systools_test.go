package systools

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/runtime/boot/term"
)

func TestMain(m *testing.M) { os.Exit(leak.Run(m)) }

// TestReadAgain: a real script, printed and read, is the same boot file; a damaged one is never taken for a script.
func TestReadAgain(t *testing.T) {
	dir := filepath.Join(needs.Shared(t), "conformance/erlang/scripts")
	scripts, _ := filepath.Glob(dir + "/good/*.script")
	if len(scripts) < 20 {
		t.Fatalf("%d scripts in %s", len(scripts), dir)
	}
	for _, file := range scripts {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(strings.TrimSuffix(file, "script") + "boot")
		if err != nil {
			t.Fatal(err)
		}
		one, err := Read(file, src)
		if err != nil {
			t.Error(err)
			continue
		}
		two, err := Read(file, []byte(term.Text(one)+".\n"))
		if err != nil || !bytes.Equal(term.Encode(two, false), want) {
			t.Errorf("%s: printed and read again it is another term: %v", file, err)
		}
	}
	bad, _ := filepath.Glob(dir + "/bad_*/*.*")
	for _, file := range bad {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Read(file, src)
		if err == nil {
			_, err = Instructions(got)
		}
		if err == nil {
			t.Errorf("%s is accepted", file)
		}
	}
}

func TestCheck(t *testing.T) {
	for _, c := range []struct{ script, want string }{
		{`[{preLoaded,x},{path,["$ROOT/a",b]},{primLoad,[a,b]},{primLoad,[a]},{kernel_load_completed}]`, ""},
		{`[{kernelProcess,n,{m,f,[]}},{apply,{m,f,[1]}},{progress,started}]`, ""},
		{`[]`, "a script without instructions"},
		{`[{progress,a},{primLoad,[a,a]}]`, "instruction 2, {primLoad,[a,a]}: module a twice in one list"},
		{`[{progress,a}|b]`, "the instructions end in b, not as a list"},
		{`[{apply,{m,f,x}}]`, "instruction 1, {apply,{m,f,x}}: what is to be called is not {Module,Function,[Argument…]}"},
	} {
		s, err := term.Parse("x", []byte("{script,{\"n\",\"1\"},"+c.script+"}."))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, err := range Check(s) {
			got = append(got, err.Error())
		}
		if strings.Join(got, "; ") != c.want {
			t.Errorf("%s: %q, want %q", c.script, got, c.want)
		}
	}
}
