package capabilities_test

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
)

func TestScope(t *testing.T) {
	whole := capabilities.Scope{At: "/core"}
	part := capabilities.Scope{At: "/core", Segments: []string{"net", "jobs"}}
	top := capabilities.Scope{At: name.Root, Segments: []string{"core"}}
	for _, c := range []struct {
		m                name.Moniker
		whole, part, top bool
	}{
		{"/", false, false, false},
		{"/core", true, false, true},
		{"/core2/net", false, false, false},
		{"/core/net", true, true, true},
		{"/core/net/deep", true, true, true},
		{"/core/network", true, false, true},
		{"/core/jobs:1", true, true, true},
		{"/core/jobs:1/deep", true, true, true},
		{"/core/other:net", true, false, true},
	} {
		if w, p, r := whole.Contains(c.m), part.Contains(c.m), top.Contains(c.m); w != c.whole || p != c.part || r != c.top {
			t.Errorf("%s: whole %v, part %v, top %v", c.m, w, p, r)
		}
	}
}

func TestError(t *testing.T) {
	err := error(&capabilities.Error{
		Target: "/net", Kind: manifest.KindRunner, Name: "elf", At: "/net", Reason: "`elf` was not offered to `/net` by parent",
		Pos:  manifest.Pos{File: "net.cml", Line: 3, Col: 8},
		Hint: `add { runner: "elf", from: "parent", to: "#net" } to "offer" of / (root.cml)`,
		Why:  capabilities.NotFound, Err: fs.ErrNotExist,
	})
	const want = "runner elf: `elf` was not offered to `/net` by parent (net.cml:3:8): file does not exist\n" +
		`  hint: add { runner: "elf", from: "parent", to: "#net" } to "offer" of / (root.cml)`
	if err.Error() != want {
		t.Errorf("%s\nwant\n%s", err, want)
	}
	if !errors.Is(err, fs.ErrNotExist) || capabilities.CodeOf(fmt.Errorf("start: %w", err)) != capabilities.NotFound {
		t.Error("the cause and the code are lost")
	}
	if c := capabilities.CodeOf(fs.ErrNotExist); c != capabilities.Internal {
		t.Errorf("an error without a code is %s", c)
	}
}
