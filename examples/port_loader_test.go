package examples

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/cmgr/cmgr/internal/needs"
)

// The port programs serve the hello example's package.
func TestPortLoader(t *testing.T) {
	dir := t.TempDir()
	cmgr := filepath.Join(dir, "cmgr")
	if out, err := exec.Command("go", "build", "-o", cmgr, "../cmd/cmgr").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for lang, flags := range map[string][]string{
		"shell":  {"--loader", "port-loader/loader.sh hello"},
		"python": {"--loader", "port-loader/loader.py hello", "--framing", "packet4"},
		"c":      {"--loader", dir + "/loader hello"},
	} {
		t.Run(lang, func(t *testing.T) {
			switch lang {
			case "python":
				needs.Tool(t, "python3")
			case "c":
				if out, err := exec.Command(needs.Tool(t, "gcc"), "-Wall", "-O", "-o", dir+"/loader", "port-loader/loader.c").CombinedOutput(); err != nil || len(out) > 0 {
					t.Fatalf("%v\n%s", err, out)
				}
			}
			args := append([]string{"run", "--socket", filepath.Join(dir, lang), "--state", filepath.Join(dir, lang+".state")}, flags...)
			out, err := exec.Command(cmgr, append(args, "/root.cml")...).Output()
			if err != nil || string(out) != "/hello | Hello world!\n" {
				t.Errorf("%q, %v", out, err)
			}
		})
	}
}
