package systools

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
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

// TestLikeErlang makes scripts of random releases, good ones and bad ones, and wants what the real systools says and writes.
func TestLikeErlang(t *testing.T) {
	erl := needs.Tool(t, "erl")
	const cases = 60
	root := t.TempDir()
	r := rand.New(rand.NewPCG(1, 2))
	for n := range cases {
		randomRelease(t, r, filepath.Join(root, strconv.Itoa(n)))
	}
	cmd := exec.CommandContext(t.Context(), erl, "+S", "1:1", "-noinput", "-boot", "start_sasl", "-eval", fmt.Sprintf(`
		logger:set_primary_config(level, none),
		[begin
			ok = file:set_cwd(filename:join("%s", integer_to_list(N))),
			R = systools:make_script("r", [silent, {path,["lib/*/ebin"]}, {outdir,"."}, {script_name,"real"}]),
			ok = file:write_file("real.result", term_to_binary(R))
		end || N <- lists:seq(0, %d)], halt(0).`, root, cases-1))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("erl: %v\n%s", err, out)
	}
	good := 0
	for n := range cases {
		t.Chdir(filepath.Join(root, strconv.Itoa(n)))
		result, err := os.ReadFile("real.result")
		if err != nil {
			t.Fatal(err)
		}
		want, err := term.Decode(result)
		if err != nil {
			t.Fatal(err)
		}
		warnings, err := Make("r", Options{Path: []string{"lib/*/ebin"}, ScriptName: "ours"})
		var got term.Term
		if f := (*Failure)(nil); errors.As(err, &f) {
			got = term.Tuple{term.Atom("error"), term.Atom("systools_make"), f.Term}
		} else if err != nil {
			t.Fatal(err)
		} else {
			var terms []term.Term
			for _, w := range warnings {
				terms = append(terms, tuple("warning", w.Term))
			}
			got = term.Tuple{term.Atom("ok"), term.Atom("systools_make"), term.Cons(terms, nil)}
		}
		if term.Compare(got, want) != 0 {
			rel, _ := os.ReadFile("r.rel")
			t.Errorf("%d: %s\nwant %s\n%s", n, term.Text(got), term.Text(want), rel)
			continue
		}
		if err != nil {
			continue
		}
		good++
		one, _ := os.ReadFile("real.boot")
		two, _ := os.ReadFile("ours.boot")
		if !bytes.Equal(one, two) {
			t.Errorf("%d: the boot files differ", n)
		}
	}
	t.Logf("%d of %d are releases", good, cases)
	if good < cases/4 || good > cases*9/10 {
		t.Error("the cases are not good and bad ones")
	}
}

// randomRelease writes r.rel and the applications that it lists into dir.
func randomRelease(t *testing.T, r *rand.Rand, dir string) {
	t.Helper()
	write := func(name, text string) {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rarely := func() bool { return r.IntN(40) == 0 }
	app := func(name, vsn, more string) {
		if rarely() && name != "kernel" {
			more += ",{maxT,0}"
		}
		write("lib/"+name+"-"+vsn+"/ebin/"+name+".app", fmt.Sprintf("{application,%s,[{vsn,\"%s\"},{description,\"\"}%s]}.\n", name, vsn, more))
	}
	app("kernel", "9.0", `,{modules,[kernel,user]},{registered,[]},{applications,[]}`)
	app("stdlib", "9.1", `,{modules,[array]},{registered,[]},{applications,[kernel]}`)
	names := []string{"a", "b", "c", "d", "e", "f", "g"}
	included := map[string]bool{}
	listed := []string{`{kernel,"9.0"}`, `{stdlib,"9.1"}`}
	for i, n := range names {
		var uses, incs, opts []string
		for j, o := range names {
			ahead := j > i || r.IntN(1000) == 0
			switch {
			case ahead && !included[o] && r.IntN(8) == 0:
				incs = append(incs, o)
				included[o] = !rarely()
			case ahead && r.IntN(3) == 0:
				uses = append(uses, o)
			}
		}
		if rarely() {
			uses, opts = append(uses, "zz"), append(opts, "zz")
		}
		if rarely() {
			uses = append(uses, "nowhere")
		}
		r.Shuffle(len(uses), func(i, j int) { uses[i], uses[j] = uses[j], uses[i] })
		module := n + "_mod"
		if rarely() {
			module = "a_mod"
		}
		app(n, "1", fmt.Sprintf(",{modules,[%s]},{registered,[%s_reg]},{applications,[%s]},{included_applications,[%s]},{optional_applications,[%s]}",
			module, n, strings.Join(append([]string{"kernel"}, uses...), ","), strings.Join(incs, ","), strings.Join(opts, ",")))
		vsn := "1"
		if rarely() {
			vsn = "2"
		}
		kind := []string{"", "", ",load", ",none", ",transient"}[r.IntN(5)]
		listed = append(listed, fmt.Sprintf(`{%s,"%s"%s}`, n, vsn, kind))
	}
	r.Shuffle(len(listed), func(i, j int) { listed[i], listed[j] = listed[j], listed[i] })
	write("r.rel", `{release,{"r","1"},{erts,"13"},[`+strings.Join(listed, ",")+"]}.\n")
}

// TestInstalledErlang: every script, boot file, release and application file of the Erlang that is installed is read, and written
// again it is the same.
func TestInstalledErlang(t *testing.T) {
	erl, err := filepath.EvalSymlinks(needs.Tool(t, "erl"))
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	err = filepath.WalkDir(filepath.Dir(filepath.Dir(erl)), func(file string, d fs.DirEntry, err error) error {
		ext := filepath.Ext(file)
		if err != nil || d.IsDir() || !slices.Contains([]string{".script", ".boot", ".rel", ".app"}, ext) {
			return err
		}
		src, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a link into a package that is not installed
		}
		if err != nil {
			return err
		}
		count[ext]++
		one, err := Read(file, src)
		if err != nil {
			t.Error(err)
			return nil
		}
		for _, text := range []string{term.Text(one), term.Format(one)} {
			two, err := term.Parse(file, []byte(text+".\n"))
			if err != nil || term.Compare(one, two) != 0 {
				t.Errorf("%s: printed and read again it is another term: %v", file, err)
			}
		}
		boot := src
		if ext == ".script" {
			boot, err = os.ReadFile(strings.TrimSuffix(file, "script") + "boot")
			if err != nil {
				return nil
			}
		}
		if ext == ".script" || ext == ".boot" {
			if !bytes.Equal(term.Encode(one, false), boot) {
				t.Errorf("%s: another boot file comes of it", file)
			}
			if found := Check(one); found != nil {
				t.Errorf("%s: %v", file, found)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(count)
	for ext, least := range map[string]int{".script": 3, ".boot": 3, ".rel": 2, ".app": 5} {
		if count[ext] < least {
			t.Errorf("only %d files %s", count[ext], ext)
		}
	}
}
