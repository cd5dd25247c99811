package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/codec"
)

// Every line is a command in a copy of testdata/tools; "cat" shows a file, and "< FILE" is standard input.
const toolCommands = `
check good.cml
check good.cml -p shards
check good.cml bad.cml nothing.cml pkg -p shards
check bad.cml --json
check bad.cml --features use_dictionaries,delivery_type
check good.cml -p shards --must-offer-protocol log,a --must-use-protocol log,clock --must-offer-dictionary d
check good.cml -p shards --stamp good.stamp
check - < bad.cml
check ring.cml
check good.cml --sarif --json
check slips.cml
check includes.cml -p shards
check includes.cml -p shards --json
check
compile good.cml -p shards -o out.cm -d out.d
cat out.d
compile good.cml -p shards --json
compile bad.cml -f allow_long_names,dictionaries
compile bad.cml --json
compile nothing.cml
compile good.cml -p shards --features alow_long_names
compile good.cml -p shards --experimental-force-runner own -o own.cm
check own.cm
decompile out.cm
decompile own.cm -o own.cml
decompile own.cm --json
decompile own.cm --json -o own.cml
cat own.cml
decompile good.cml
compile out.cm
include good.cml
include good.cml -p shards -o out.json --depfile out.d --stamp out.stamp
cat out.json
cat out.d
include good.cml -r shards
include slips.cml --validate=false
include good.cml -p shards -d out.d -o new/dir/out.json --json
include bad.cml --validate
merge many.cml site.cml -o merged.json --json
check-includes good.cml log/client.shard.cml -p shards -d out.d
merge many.cml site.cml
merge site.cml clash.cml
merge -f expected.txt
merge
check-includes good.cml log/client.shard.cml -p shards --json
check-includes good.cml -p shards -f expected.txt other.cml
check-includes good.cml
check-includes good.cml -f nothing.txt
check-includes good.cml log/client.shard.cml -p shards -d out.d --stamp out.stamp
cat out.d
validate-references -c good.cml --includepath shards -p pkg --json
validate-references -c good.cml --includepath shards -p package.txt -e //hello:pkg
validate-references -c out.cm -p package.txt --json
validate-references -c good.cml
fmt good.cml
fmt good.cml slips.cml worse.cml
fmt --check nothing.cml out.cm pkg slips.cml own.cml
fmt --check good.cml slips.cml --json
fmt nothing.cml --json
fmt --check good.cml own.cml
fmt --check good.cml own.cml --json
fmt --fix slips.cml
fmt --fix worse.cml
fmt --fix brackets.cml
fmt --fix closed.cml --json
fmt --fix -w slips.cml good.cml --json
fmt --check good.cml slips.cml
fmt - --json < x.json5
fmt < x.json5
fmt -w --check good.cml
fmt -w -
fmt good.cml own.cml -o out.cml
fmt --fix slips.cml -o new/fixed.cml --stamp fixed.stamp --json
json5 x.json5
json5 - < x.json5
json5 nan.json5
json5 worse.cml
json5 worse.cml --json
init new
cat new/README.md
check new/root.cml new/hello.cml
fmt --check new/root.cml new/hello.cml
init new
init new --json
init newer/one --json
`

func TestToolsGolden(t *testing.T) {
	golden, err := filepath.Abs("testdata/tools.txt")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/tools")); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	var got strings.Builder
	for line := range strings.Lines(strings.TrimSpace(toolCommands)) {
		line = strings.TrimSpace(line)
		command, input, _ := strings.Cut(line, "< ")
		args := strings.Fields(command)
		if args[0] == "cat" {
			b, err := os.ReadFile(args[1])
			fmt.Fprintf(&got, "$ %s\n%s", line, b)
			if err != nil {
				t.Error(err)
			}
			continue
		}
		var in []byte
		if input != "" {
			if in, err = os.ReadFile(input); err != nil {
				t.Fatal(err)
			}
		}
		code, stdout, stderr := runWith(string(in), args...)
		fmt.Fprintf(&got, "$ cmgr %s\n%s", line, stdout)
		for l := range strings.Lines(stderr) {
			got.WriteString("2> " + l)
		}
		fmt.Fprintf(&got, "= %d\n\n", code)
	}
	if *update {
		if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got.String()); d != "" {
		t.Errorf("-want +got (run with -update, and read what changed):\n%s", d)
	}
	if _, err := os.Stat("good.stamp"); err != nil {
		t.Error(err)
	}
}

// TestCmc: the command lines with which builds call cmc do here what they do there.
func TestCmc(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/tools")); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	if code, _, stderr := run("compile", "good.cml", "-p", "shards"); code != exitFine {
		t.Fatal(stderr)
	}
	for line, want := range map[string]string{ // what is there afterwards
		"compile good.cml --output obj/good.cm --depfile good.d --config-package-path meta/good.cvf --includeroot . --includepath shards " +
			"--features allow_long_names use_dictionaries --must-offer-protocol a --must-offer-protocol b": "obj/good.cm good.d",
		"compile --features allow_long_names delivery_type --includepath pkg shards -- good.cml":                                  "good.cm",
		"compile good.cml --features=allow_long_names delivery_type --includepath=pkg shards -o x.cm":                             "x.cm",
		"include good.cml --output i.json --depfile i.d --includeroot . --includepath pkg shards --validate false":                "i.json i.d",
		"merge --output m.cml --depfile m.d site.cml many.cml":                                                                    "m.cml m.d",
		"merge --output m2.cml --depfile m2.d --fromfile files.txt":                                                               "m2.cml m2.d",
		"--stamp s1 check-includes good.cml --fromfile expected.txt --depfile c.d --includeroot . --includepath pkg shards":       "s1 c.d",
		"-s s2 check-includes good.cml log/client.shard.cml -p shards":                                                            "s2",
		"--stamp s3 validate-references --component-manifest good.cm --package-manifest whole.txt --context //hello(//toolchain)": "s3",
		"--stamp s4 validate good.cml -p shards":                                                                                  "s4",
		"format --in-place x.cml":                                                                                                 "x.cml",
		"format --pretty --cml x.cml --output f.cml":                                                                              "f.cml",
		"-s s5 print-cml-reference --output reference.md":                                                                         "s5 reference.md",
		"-s s6 debug-print-cm good.cm":                                                                                            "s6",
	} {
		for file, text := range map[string]string{
			"x.cml": "{}", "files.txt": "site.cml\nmany.cml\n", "whole.txt": "bin/hello=obj/hello\nmeta/hello.cm=x\n",
		} {
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		code, _, stderr := run(strings.Fields(line)...)
		if code != exitFine || stderr != "" {
			t.Errorf("cmgr %s: %d, %s", line, code, stderr)
		}
		for _, file := range strings.Fields(want) {
			if _, err := os.Stat(file); err != nil {
				t.Errorf("cmgr %s: %v", line, err)
			}
		}
	}
}

// TestCompileKeepsTheAge: as by cmc, an output that would be the same is not written again, and so what depends on it is not built
// again; a stamp always is.
func TestCompileKeepsTheAge(t *testing.T) {
	t.Chdir(t.TempDir())
	old := time.Now().Add(-time.Hour).Truncate(time.Second)
	for text, same := range map[string]bool{"{}": true, "{ facets: {} }": true, "{ facets: { a: 'b' } }": false} {
		for _, file := range []string{"{}", text} {
			if err := os.WriteFile("a.cml", []byte(file), 0o600); err != nil {
				t.Fatal(err)
			}
			code, _, stderr := run("compile", "a.cml", "--strip", "--stamp", "a.stamp")
			if code != exitFine || stderr != "" {
				t.Fatal(code, stderr)
			}
			for _, out := range []string{"a.cm", "a.stamp"} {
				info, err := os.Stat(out)
				if err != nil {
					t.Fatal(err)
				}
				if kept := info.ModTime().Equal(old); file == text && text != "{}" && kept != (same && out == "a.cm") {
					t.Errorf("%s: %s is kept: %v", text, out, kept)
				}
				if err := os.Chtimes(out, old, old); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// TestJSON5Suite puts github.com/json5/json5-tests through the command: .json and .json5 are JSON5, .js and .txt are not.
func TestJSON5Suite(t *testing.T) {
	cases := 0
	err := filepath.WalkDir(filepath.Join(needs.Shared(t), "vectors", "json5"), func(path string, d fs.DirEntry, err error) error {
		ext := filepath.Ext(path)
		good := ext == ".json" || ext == ".json5"
		if err != nil || d.IsDir() || !good && ext != ".js" && ext != ".txt" {
			return err
		}
		cases++
		code, stdout, stderr := run("json5", path)
		switch {
		case good && code != exitFine && strings.Contains(stderr, "cannot be written as JSON"):
		case good && (code != exitFine || stderr != "" || !json.Valid([]byte(stdout))):
			t.Errorf("%s: exit %d\n%s%s", path, code, stdout, stderr)
		case !good && (code != exitFailed || stdout != "" || !strings.Contains(stderr, path+":")):
			t.Errorf("%s: exit %d\n%s%s", path, code, stdout, stderr)
		}
		return nil
	})
	if err != nil || cases != 113 {
		t.Errorf("%d cases, %v", cases, err)
	}
}

// TestVectors puts the vectors of the tools through the commands.
func TestVectors(t *testing.T) {
	type vector struct {
		Name, Main, CML, Want string
		Files                 map[string]string
		IncludePath           []string
		IncludeRoot           string
		Validate              *bool
		ErrorContains         *string  `json:"error_contains"`
		IncludeCML            string   `json:"include_cml"`
		Expected              []string `json:"expected_includes"`
		Package               *string  `json:"package_manifest"`
	}
	dir := filepath.Join(needs.Shared(t), "vectors", "cml")
	for file, command := range map[string]func(v vector) []string{
		"include.json": func(v vector) []string {
			return []string{"include", v.Main, fmt.Sprintf("--validate=%v", *v.Validate)}
		},
		"include_loader.json": func(v vector) []string { return []string{"include", v.Main, "--validate=false"} },
		"merge.json":          func(vector) []string { return []string{"merge", "a.cml", "b.cml"} },
		"check_includes.json": func(v vector) []string { return append([]string{"check-includes", v.Main}, v.Expected...) },
		"validate_references.json": func(vector) []string {
			return []string{"validate-references", "-c", "a.cml", "-p", "package.txt"}
		},
	} {
		src, err := os.ReadFile(filepath.Join(dir, file))
		var vs []vector
		if err == nil {
			err = json.Unmarshal(src, &vs)
		}
		if err != nil || len(vs) == 0 {
			t.Fatalf("%s: %d, %v", file, len(vs), err)
		}
		for _, v := range vs {
			t.Run(file+"/"+v.Name, func(t *testing.T) {
				t.Chdir(t.TempDir())
				files := map[string]string{"a.cml": v.CML, "b.cml": v.IncludeCML}
				if v.Package != nil {
					files["package.txt"] = *v.Package
				}
				maps.Copy(files, v.Files)
				for name, text := range files {
					if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o600)); err != nil {
						t.Fatal(err)
					}
				}
				args := command(v)
				for _, p := range v.IncludePath {
					args = append(args, "-p", p)
				}
				if v.IncludeRoot != "" {
					args = append(args, "-r", v.IncludeRoot)
				}
				code, stdout, stderr := run(args...)
				if want := map[string]int{"ok": exitFine, "error": exitFailed}[v.Want]; code != want {
					t.Errorf("exit %d, want %d: %s%s", code, want, stdout, stderr)
				}
				if v.ErrorContains != nil && !strings.Contains(stderr, *v.ErrorContains) {
					t.Errorf("%q is not in %s", *v.ErrorContains, stderr)
				}
				if code == exitFine && (args[0] == "include" || args[0] == "merge") && !json.Valid([]byte(stdout)) {
					t.Errorf("wrote %s", stdout)
				}
			})
		}
	}
}

// TestFmtKeepsTheFile: a formatted file keeps its mode and its link, and one that is formatted is not written.
func TestFmtKeepsTheFile(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "a.cml"), filepath.Join(dir, "b.cml")
	if err := os.WriteFile(file, []byte("{use:[]}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	if code, stdout, stderr := run("fmt", "-w", link); code != exitFine || stdout+stderr != "" {
		t.Errorf("%d, %s%s", code, stdout, stderr)
	}
	if b, err := os.ReadFile(file); string(b) != "{\n    use: [],\n}\n" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	before, err := os.Lstat(file)
	if err != nil || before.Mode() != 0o600 {
		t.Errorf("%v, %v", before, err)
	}
	if code, _, _ := run("fmt", "-w", link); code != exitFine {
		t.Error(code)
	}
	after, err := os.Lstat(file)
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("written again: %v", err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("%v, %v", info, err)
	}
}

// TestDecompileCorpus: what is compiled from the corpus is the same bytes when it is compiled from what it is decompiled to, but
// for the places.
func TestDecompileCorpus(t *testing.T) {
	root := filepath.Join(needs.Shared(t), "corpus", "cml")
	var files []string
	if err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".cml") && !strings.Contains(path, ".shard.") {
			files = append(files, path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	n := 0
	for _, file := range files {
		for _, in := range []string{"includeroot-newest", "includeroot-2023"} {
			in = filepath.Join(root, in)
			if code, _, _ := run("compile", file, "-o", "a.cm", "-r", in, "-p", filepath.Join(in, "sdk/lib")); code != exitFine {
				continue // not of this dialect
			}
			n++
			for _, step := range [][]string{
				{"decompile", "a.cm", "-o", "b.cml"},
				{"compile", "b.cml"},
				{"decompile", "b.cm", "-o", "c.cml"},
				{"compile", file, "--strip", "-o", "a.cm", "-r", in, "-p", filepath.Join(in, "sdk/lib")},
				{"compile", "b.cml", "--strip", "-o", "b.cm"},
			} {
				if code, _, stderr := run(step...); code != exitFine {
					t.Fatalf("%s: %v: %d, %s", file, step, code, stderr)
				}
			}
			one, err1 := os.ReadFile("b.cml")
			two, err2 := os.ReadFile("c.cml")
			_, one2, _ := strings.Cut(string(one), "\n") // the header names other files
			_, two2, _ := strings.Cut(string(two), "\n")
			if err1 != nil || err2 != nil || one2 != two2 {
				t.Errorf("%s: decompiled differently the second time:\n%s", file, cmp.Diff(one2, two2))
			}
			one, err1 = os.ReadFile("a.cm")
			two, err2 = os.ReadFile("b.cm")
			if err1 != nil || err2 != nil || !bytes.Equal(one, two) {
				t.Errorf("%s: what it is decompiled to is compiled to other bytes", file)
			}
		}
	}
	if n < 20 {
		t.Errorf("only %d of %d files", n, len(files))
	}
}

// TestDecompileRefuses: a stored form that no source compiles to is not decompiled to something else.
func TestDecompileRefuses(t *testing.T) {
	b, err := codec.Encode(&manifest.Component{Facets: manifest.Dictionary{
		{Key: "b", Value: manifest.Null{}}, {Key: "a", Value: manifest.Null{}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := runWith(string(b), "decompile", "-")
	if code != exitFailed || stdout != "" || !strings.Contains(stderr, "no manifest says the same") {
		t.Errorf("%d, %s%s", code, stdout, stderr)
	}
	if code, _, stderr := runWith(string(b[:len(b)-1]), "decompile", "-"); code != exitFailed || !strings.Contains(stderr, "damaged") {
		t.Errorf("%d, %s", code, stderr)
	}
}

// TestCheckSARIF: what is wrong in an included file is told there, and related to the include.
func TestCheckSARIF(t *testing.T) {
	t.Chdir("testdata/tools")
	code, stdout, stderr := run("check", "includes.cml", "good.cml", "-p", "shards", "--sarif")
	type place struct {
		PhysicalLocation struct {
			ArtifactLocation struct{ URI string }
			Region           struct{ StartLine, StartColumn int }
		}
		Message struct{ Text string }
	}
	var log struct {
		Runs []struct {
			Results []struct {
				RuleID, Level               string
				Locations, RelatedLocations []place
			}
		}
	}
	if err := json.Unmarshal([]byte(stdout), &log); err != nil || code != exitFailed || stderr != "" {
		t.Fatal(code, stderr, err, stdout)
	}
	var got []string
	for _, r := range log.Runs[0].Results {
		line := r.Level + " " + r.RuleID
		for _, p := range append(r.Locations, r.RelatedLocations...) {
			l := p.PhysicalLocation
			line += fmt.Sprintf(" %s:%d:%d %s", l.ArtifactLocation.URI, l.Region.StartLine, l.Region.StartColumn, p.Message.Text)
		}
		got = append(got, strings.TrimSpace(line))
	}
	want := []string{
		"error bad-path shards/bad.shard.cml:1:33  includes.cml:2:16 included here",
		"error syntax worse.cml:2:2  shards/bad.shard.cml:1:57 included here",
		"warning no-effect good.cml:4:50",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestEndlessFiles: a manifest cannot make anybody read for ever.
func TestEndlessFiles(t *testing.T) {
	if code, _, stderr := run("json5", "/dev/zero"); code != exitFailed || !strings.Contains(stderr, "no more than") {
		t.Errorf("%d, %s", code, stderr)
	}
	code, stdout, _ := runWith(`{ include: [ "/dev/zero", "/" ] }`, "check", "-")
	if code != exitFailed || strings.Count(stdout, "not a regular file") != 2 {
		t.Errorf("%d, %s", code, stdout)
	}
}

// TestExcerpt: the caret stands under the character, on a screen that is wide enough.
func TestExcerpt(t *testing.T) {
	lines := []string{"{", "\tä: [ 1 ],\r", ""}
	for _, c := range []struct {
		line, col, width int
		want             string
	}{
		{2, 5, 80, "     2 |  ä: [ 1 ],\n       |     ^\n"},
		{2, 11, 80, "     2 |  ä: [ 1 ],\n       |           ^\n"},
		{2, 2, 15, "     2 |  ä: […\n       |  ^\n"},
		{2, 9, 15, ""},
		{2, 40, 80, ""},
		{3, 1, 80, ""},
		{4, 1, 80, ""},
	} {
		var got strings.Builder
		screen{width: c.width}.excerpt(&got, lines, c.line, c.col)
		if got.String() != c.want {
			t.Errorf("%+v: got\n%s", c, got.String())
		}
	}
}

// TestTerminalWithoutSize: one that does not know how wide it is gets what others get, such as the line that is wrong.
func TestTerminalWithoutSize(t *testing.T) {
	script := needs.Tool(t, "script")
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(script, "-qec", binary+" check ring.cml", "/dev/null")
	cmd.Dir = "testdata/tools"
	cmd.Env = append(os.Environ(), "CMGR_TEST_MAIN=1", "TERM=xterm", "NO_COLOR=1")
	out, err := cmd.Output()
	if want := "\n     1 | { include: [ \"ring.cml\" ] }"; !strings.Contains(strings.ReplaceAll(string(out), "\r", ""), want) {
		t.Errorf("%v, %q has no %q", err, out, want)
	}
}
