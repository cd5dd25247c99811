package cml

import (
	"testing"

	"github.com/cmgr/cmgr/manifest"
)

// TestDocumentedManifests: the two manifests of the ELF runner's documentation lack a comma. They are refused at that place, and
// good with it.
func TestDocumentedManifests(t *testing.T) {
	for _, c := range []struct{ src, want string }{
		{`{
    "program": {
        "runner": "elf",
        "binary": "bin/echo",
        "args": [ "Hello", "world!" ]
    }
    "use": [
        { "protocol": "fuchsia.logger.LogSink" }
    ]
}`, "echo.cml:6:6: missing comma between `}` and `\"use\"`\n  hint: insert `,` here"},
		{`{
    "program": {
        "binary": "bin/echo",
        "lifecycle": { "stop_event": "notify" }
    }
    "use": [
        { "runner": "elf" }
    ]
}`, "echo.cml:5:6: missing comma between `}` and `\"use\"`\n  hint: insert `,` here"},
	} {
		v, ds := Load("echo.cml", []byte(c.src), Options{})
		if !v.IsZero() || ds.Error() != c.want {
			t.Errorf("got  %v\nwant %s", ds, c.want)
		}
		doc, _ := Parse("echo.cml", []byte(c.src))
		v, ds = Load("echo.cml", doc.JSON(), Options{})
		if v.IsZero() || len(ds) > 0 {
			t.Errorf("with the comma: %v", ds)
			continue
		}
		p := v.Decl().Program
		if e, _ := p.Info.Get("binary"); e.Value != manifest.String("bin/echo") {
			t.Errorf("program %+v", p)
		}
		if p.Runner == "" {
			if e, _ := p.Info.Get("lifecycle.stop_event"); e.Value != manifest.String("notify") {
				t.Errorf("program %+v", p)
			}
			if u := v.Decl().Uses[0]; u.Kind != manifest.KindRunner || u.SourceName != "elf" || u.Source.Kind != manifest.RefParent {
				t.Errorf("use %+v", u)
			}
		}
	}
}
