package runners_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/runners"
)

func TestPackagePath(t *testing.T) {
	top, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(top, fstest.MapFS{
		"pkg/bin/echo": {Mode: 0o755}, "pkg/lib/deep/x": {}, "pkgs/bin/echo": {}, "out/echo": {},
	}); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(top, "pkg")
	for link, target := range map[string]string{
		"bin/again": "echo", "bin/up": "../lib/deep/x", "tools": "bin", "bin/out": "../../out/echo", "away": "../out",
		"bin/abs":  "/bin/sh",
		"bin/self": dir + "/bin/echo", "bin/sibling": "../../pkgs/bin/echo", "bin/gone": "nowhere", "bin/loop": "loop",
	} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	p := runners.Package{Dir: dir}
	for rel, want := range map[string]string{
		"bin/echo": "bin/echo", "bin/again": "bin/echo", "bin/up": "lib/deep/x", "tools/echo": "bin/echo", "lib": "lib",
		"./bin//echo":       "bin/echo",
		"bin/../lib/deep/x": "lib/deep/x",
	} {
		if got, err := p.Path(rel); err != nil || got != filepath.Join(dir, want) {
			t.Errorf("%s: %q, %v", rel, got, err)
		}
	}
	for rel, want := range map[string]struct {
		why  capabilities.Code
		text string
	}{
		"bin/ecoh":    {capabilities.NotFound, "did you mean bin/echo?"},
		"bni/echo":    {capabilities.NotFound, "did you mean bin/echo?"},
		"bin/echo/x":  {capabilities.NotFound, "no such file"},
		"bin/gone":    {capabilities.NotFound, "no such file"},
		"bin/out":     {capabilities.Denied, "outside of the package"},
		"away/echo":   {capabilities.Denied, "outside of the package"},
		"away/none":   {capabilities.Denied, "outside of the package"},
		"bin/abs":     {capabilities.Denied, "outside of the package"},
		"bin/self":    {capabilities.Denied, "outside of the package"},
		"bin/sibling": {capabilities.Denied, "outside of the package"},
		"../out/echo": {capabilities.Denied, "outside of the package"},
		"bin/loop":    {capabilities.Internal, "symbolic links"},
		"/bin/sh":     {capabilities.Invalid, "relative"},
		"":            {capabilities.Invalid, "relative"},
		"bin/\x00":    {capabilities.Invalid, "relative"},
	} {
		got, err := p.Path(rel)
		if err == nil || capabilities.CodeOf(err) != want.why || !strings.Contains(err.Error(), want.text) {
			t.Errorf("%q: %q, %v (%v), want %v: %s", rel, got, err, capabilities.CodeOf(err), want.why, want.text)
		}
	}
	// What is plain below a directory that is not is not.
	if err := os.Symlink("pkg", filepath.Join(top, "link")); err != nil {
		t.Fatal(err)
	}
	if got, err := (runners.Package{Dir: filepath.Join(top, "link")}).Path("bin/echo"); capabilities.CodeOf(err) != capabilities.Denied {
		t.Errorf("through a link: %q, %v", got, err)
	}
	if got, err := (runners.Package{}).Path("bin/echo"); capabilities.CodeOf(err) != capabilities.Precondition {
		t.Errorf("without a package: %q, %v", got, err)
	}
	if got := p.Nearest("away/ecoh"); strings.Contains(got, "echo") {
		t.Errorf("nearest looks outside: %q", got)
	}
}
