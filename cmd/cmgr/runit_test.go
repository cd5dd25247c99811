package main

import (
	"bytes"
	"os"
	"testing"
)

func TestPrograms(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"bin", "init.d", "other"} {
		if err := os.Mkdir(dir+"/"+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(dir+"/bin/cmgr", nil, 0o755); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{
		"bin/sv": "cmgr", "init.d/web": "../bin/sv", "other/web": dir + "/init.d/web", "other/manager": "../bin/cmgr",
		"other/loop": "loop", "other/runsv": "../bin/cmgr",
	} {
		if err := os.Symlink(target, dir+"/"+link); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+"/other:/none")
	const svUsage = "usage: sv [-v] [-w sec] command service ...\n\n"
	const webUsage = "usage: web [-w sec] command\n\n"
	const noCommand = "cmgr: unknown command \"nonsense\" for \"cmgr\"\ncmgr: hint: `cmgr help` lists the commands\n"
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"cmgr", "sv"}, 100, svUsage},
		{[]string{"cmgr", "runsv"}, 1, "usage: runsv dir\n\n"},
		{[]string{dir + "/bin/sv"}, 100, svUsage},
		{[]string{dir + "/init.d/web"}, 2, webUsage},
		{[]string{dir + "/other/web"}, 2, webUsage},
		{[]string{"web"}, 2, webUsage},
		{[]string{"runsv"}, 1, "usage: runsv dir\n\n"},
		{[]string{dir + "/other/runsv", "a", "b"}, 1, "usage: " + dir + "/other/runsv dir\n\n"},
		{[]string{dir + "/other/manager", "nonsense"}, 100, noCommand},
		{[]string{"manager", "nonsense"}, 100, noCommand},
		{[]string{dir + "/other/loop", "nonsense"}, 100, noCommand},
		{[]string{dir + "/nowhere", "nonsense"}, 100, noCommand},
		{[]string{"cmgr", "nonsense", "sv"}, 100, noCommand},
	} {
		var stdout, stderr bytes.Buffer
		if code := Main(c.args, os.Stdin, &stdout, &stderr); code != c.code || stderr.String() != c.says {
			t.Errorf("%q: %d, %q, want %d, %q", c.args, code, &stderr, c.code, c.says)
		}
	}
}
