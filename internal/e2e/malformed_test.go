package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/cmgr/cmgr/manifest/cml/cmltest"
)

// TestMalformed: of hundreds of malformed manifests in one tree each gives one error with its place, and nothing of any is started;
// the one that is whole runs.
func TestMalformed(t *testing.T) {
	files := map[string]string{"good.cml": cmltest.Valid, "bin/echo": "#!/bin/sh\necho \"$@\"\n"}
	var what []string
	add := func(w, src string) {
		files[fmt.Sprintf("c%d.cml", len(what))] = src
		what = append(what, w)
	}
	for _, c := range cmltest.Broken() {
		add(c.What, c.Src)
	}
	for _, c := range cmltest.Slips() {
		add(c.Src, c.Src)
	}
	if len(what) < 200 {
		t.Fatalf("only %d malformed manifests", len(what))
	}
	var root strings.Builder
	root.WriteString("{ children: [\n{ name: \"good\", url: \"good.cml\", startup: \"eager\" },\n")
	for i := range what {
		fmt.Fprintf(&root, "{ name: \"c%d\", url: \"c%d.cml\", startup: \"eager\" },\n", i, i)
	}
	root.WriteString("] }")
	files["root.cml"] = root.String()

	r := run(t, write(t, files), "--json")
	if code := r.wait(); code != 1 {
		t.Errorf("exit code %d, want 1\n%s", code, r.err())
	}
	if !strings.Contains(r.out(), `"Hello world!"`) {
		t.Errorf("what is whole does not run: %.2000s", r.out()[max(0, len(r.out())-1500):])
	}
	for line := range strings.Lines(r.out()) {
		if strings.Contains(line, `"stream":"stdout"`) && !strings.Contains(line, `"/good"`) {
			t.Errorf("it ran: %s", line)
		}
	}
	told := make([]string, len(what))
	for _, e := range r.events() {
		i := -1
		if fmt.Sscanf(e.Moniker, "/c%d", &i); i < 0 {
			continue
		}
		switch e.Kind {
		case "discovered", "shutdown":
		case "failed":
			if told[i] != "" {
				t.Errorf("%s: a second error: %s", what[i], e.Error)
			}
			told[i] = e.Error
		default:
			t.Errorf("%s: %s %s", what[i], e.Moniker, e.Kind)
		}
	}
	place := regexp.MustCompile(`^resolve /c\d+ \(declared at [^ ]*/root\.cml:\d+:\d+\): [^ ]*/c\d+\.cml:\d+:\d+: .`)
	for i, said := range told {
		if !place.MatchString(said) {
			t.Errorf("%s: it says %q", what[i], said)
		}
	}
}
