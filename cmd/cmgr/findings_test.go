package main

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/cml"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/elf"
)

// TestFindingsHaveOneForm: what is wrong in a file looks the same in the JSON of every command.
func TestFindingsHaveOneForm(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/tools")); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	for name, text := range map[string]string{
		"tree.cml":  `{ children: [ { name: "bad", url: "bad.cml" } ] }`,
		"one.cml":   `{}`,
		"stale.txt": `[ { target: "/x", protocol: "p", reason: "r" } ]`,
		"wrong.txt": `[ { target: "/x", protocl: "p", reason: "r" } ]`,
		"cut.cm":    "\x89CMGR\r\n\x1a\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if code, _, stderr := run("compile", "good.cml", "-p", "shards", "-o", "cut.cm"); code != exitFine {
		t.Fatal(stderr)
	}
	if b, err := os.ReadFile("cut.cm"); err != nil || os.WriteFile("cut.cm", b[:len(b)-1], 0o600) != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]int{ // how many findings at least
		"check bad.cml nothing.cml":                          6,
		"check includes.cml -p shards":                       2,
		"compile bad.cml":                                    3,
		"compile includes.cml -p shards":                     2,
		"compile nothing.cml":                                0,
		"include includes.cml -p shards":                     2,
		"merge site.cml clash.cml":                           1,
		"check-includes good.cml other.cml -p shards":        1,
		"validate-references -c good.cml -p package.txt":     1,
		"validate-references -c includes.cml -p package.txt": 1,
		"fmt worse.cml":                                      1,
		"fmt slips.cml":                                      5,
		"fmt --fix --check slips.cml":                        5,
		"json5 worse.cml":                                    1,
		"json5 nan.json5":                                    1,
		"decompile cut.cm":                                   1,
		"check cut.cm":                                       1,
		"verify bad.cml":                                     3,
		"verify tree.cml":                                    3,
		"verify one.cml --allow stale.txt":                   1,
		"verify one.cml --allow wrong.txt":                   1,
		"verify tree.cml --shutdown-order":                   0,
		"compile good.cml -p shards -o x.cm --features allow_long_names": 0,
	} {
		_, stdout, stderr := run(append(strings.Fields(line), "--json")...)
		n, included := 0, 0
		for _, text := range []string{stdout, stderr} {
			if text == "" {
				continue
			}
			var v any
			if err := json.Unmarshal([]byte(text), &v); err != nil {
				t.Errorf("%s: %v: %s", line, err, text)
			}
			eachFinding(v, func(f map[string]any) {
				n++
				if f["included_at"] != nil {
					included++
					delete(f, "included_at")
				}
				got := strings.Join(slices.Sorted(maps.Keys(f)), " ")
				at, _ := f["position"].(map[string]any)
				place := strings.Join(slices.Sorted(maps.Keys(at)), " ")
				if got != "hint message position rule warning" || place != "column file line" || f["rule"] == "" || at["file"] == "" {
					t.Errorf("%s: %v", line, f)
				}
			})
		}
		if n < want || want == 0 && n > 0 {
			t.Errorf("%s: %d findings, want %d:\n%s%s", line, n, want, stdout, stderr)
		}
		if strings.Contains(line, "includes.cml -p shards") && included != 2 {
			t.Errorf("%s: %d of the findings say where their file is included:\n%s%s", line, included, stdout, stderr)
		}
	}
}

// eachFinding calls f with the elements of all "findings", "fixes" and "stale" in v.
func eachFinding(v any, f func(map[string]any)) {
	switch x := v.(type) {
	case []any:
		for _, e := range x {
			eachFinding(e, f)
		}
	case map[string]any:
		for k, e := range x {
			list, ok := e.([]any)
			if !ok || k != "findings" && k != "fixes" && k != "stale" {
				eachFinding(e, f)
				continue
			}
			for _, finding := range list {
				f(finding.(map[string]any))
			}
		}
	}
}

// TestManualOfPrograms: the runner elf knows each key that the manual, and so the schema and the editor, tells of.
func TestManualOfPrograms(t *testing.T) {
	var keys []string
	for _, k := range cml.Language().Key("program").Value.Object.Keys {
		if k.Name == "runner" {
			continue
		}
		if k.Value.Object == nil {
			keys = append(keys, k.Name)
		} else {
			for _, inner := range k.Value.Object.Keys {
				keys = append(keys, k.Name+"."+inner.Name)
			}
		}
	}
	if len(keys) < 20 {
		t.Errorf("only %q", keys)
	}
	for _, key := range keys {
		for _, d := range elf.Check(runners.Block{Info: manifest.Dictionary{{Key: key, Value: manifest.String("x")}}}) {
			if d.Rule == "unknown-key" && strings.Contains(d.Message, "program."+key+":") {
				t.Error(d)
			}
		}
	}
}
