package resolver_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/blake2b"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/runtime/loader/cache"
	"github.com/cmgr/cmgr/runtime/loader/inet"
	"github.com/cmgr/cmgr/runtime/loader/prim"
	"github.com/cmgr/cmgr/runtime/resolver"
)

// packages makes a directory with a package srv/app.
func packages(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for p, text := range map[string]string{
		"srv/app/root.cml":          `{ include: ["inc/all.shard.cml"], children: [ { name: "net", url: "net/net.cml" } ] }`,
		"srv/app/inc/all.shard.cml": `{ facets: { shard: "yes" } }`,
		"srv/app/net/net.cml":       `{ program: { runner: "elf", binary: "bin/net" } }`,
		"srv/app/net/bin/net":       "#!/bin/sh\n",
		"srv/app/meta/x.cml":        `{ program: { runner: "elf", binary: "net/bin/net" } }`,
		"srv/app/bad.cml":           "{\n  child: [] }",
	} {
		p = filepath.Join(dir, p)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// loaded makes a resolver of what is below dir, by kind of loader.
func loaded(t *testing.T, kind, dir string, trust *cache.Trust) *resolver.Loaded {
	t.Helper()
	cfg := prim.Config{Path: []string{"/none", "/srv/app"}}
	switch kind {
	case "inet":
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		s, err := inet.Listen(inet.ServerConfig{Addr: "127.0.0.1:0", Allow: []string{"127.0.0.1"}, Root: root})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := s.Serve(); err != nil {
				t.Error(err)
			}
		})
		t.Cleanup(func() { s.Close(); wg.Wait() })
		cfg.Loader, cfg.Hosts = "inet", []string{s.UDPAddr().String()}
	case "port":
		p := filepath.Join(t.TempDir(), "program")
		text := "#!/bin/sh\nn=" + dir + "$(tail -c +2)\n[ -f \"$n\" ] && { printf y; exec cat \"$n\"; }\nprintf z\n"
		if err := os.WriteFile(p, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
		cfg.Loader = p
	}
	l, err := prim.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Stop() })
	c, err := cache.Open(cache.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	r := resolver.NewLoaded(resolver.LoadedConfig{Loader: l, Cache: c, Trust: trust})
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// A tree is resolved alike by whatever loader, with its programs on this disk and its names those of the other side.
func TestLoaded(t *testing.T) {
	for _, kind := range []string{"inet", "port"} {
		t.Run(kind, func(t *testing.T) {
			dir := packages(t)
			l := loaded(t, kind, dir, nil)
			root, err := l.Resolve(t.Context(), "s:root.cml", nil)
			if err != nil {
				t.Fatal(err)
			}
			if root.URL != "s:///srv/app/root.cml" || len(root.Decl.Decl().Facets) != 1 {
				t.Errorf("root: %s, %v", root.URL, root.Decl.Decl().Facets)
			}
			there := []string{"/srv/app/root.cml", "/srv/app/inc/all.shard.cml"}
			if d := root.Decl.Decl(); !slices.Equal(d.Sources, there) || d.Children[0].Pos.File != there[0] {
				t.Errorf("it is told of %q, and of a child at %s", d.Sources, d.Children[0].Pos)
			}
			for i, file := range root.Sources {
				if _, err := os.Stat(file); err != nil || !strings.HasSuffix(file, strings.TrimPrefix(there[i], "/srv/app")) {
					t.Errorf("%s is here in %q: %v", there[i], root.Sources, err)
				}
			}
			for ref, want := range map[string]struct {
				parent      *resolver.Resolved
				url, binary string
			}{
				"net/net.cml":              {root, "s:///srv/app/net/net.cml", "bin/net"},
				"#meta/x.cm":               {root, "s:///srv/app#meta/x.cm", "net/bin/net"},
				"T:///srv/app#meta/x.cm":   {nil, "t:///srv/app#meta/x.cm", "net/bin/net"},
				"s:///srv/app/net/net.cml": {root, "s:///srv/app/net/net.cml", "bin/net"},
			} {
				r, err := l.Resolve(t.Context(), ref, want.parent)
				if err != nil {
					t.Error(err)
					continue
				}
				p, err := r.Package.Path(want.binary)
				if err != nil || r.URL != want.url {
					t.Errorf("%s: %s with %s in %s, %v", ref, r.URL, want.binary, r.Package.Dir, err)
					continue
				}
				st, err := os.Stat(p)
				if err != nil || st.Mode() != 0o555 {
					t.Errorf("%s: %v, %v", p, st, err)
				}
			}
			for ref, want := range map[string]struct {
				why  capabilities.Code
				says string
			}{
				"s:///srv/app/none.cml": {capabilities.NotFound, "/srv/app/none.cml"},
				"s:///srv/app#../x.cm":  {capabilities.Denied, ""},
				"s:///srv/app/bad.cml":  {capabilities.Invalid, "/srv/app/bad.cml:2:3"},
				"s:nowhere.cml":         {capabilities.NotFound, "nowhere.cml"},
			} {
				_, err := l.Resolve(t.Context(), ref, nil)
				var e *resolver.Error
				if !errors.As(err, &e) || e.Why != want.why || !strings.Contains(err.Error(), want.says) || strings.Contains(err.Error(), os.TempDir()) {
					t.Errorf("%s: %v, want %v with %q", ref, err, want.why, want.says)
				}
			}
			// The relative URLs of what was resolved mean the package as it was, an absolute one as it is.
			if err := os.WriteFile(dir+"/srv/app/net/net.cml", []byte("{}"), 0o644); err != nil {
				t.Fatal(err)
			}
			was, err1 := l.Resolve(t.Context(), "net/net.cml", root)
			is, err2 := l.Resolve(t.Context(), "s:///srv/app/net/net.cml", nil)
			if err := errors.Join(err1, err2); err != nil {
				t.Fatal(err)
			}
			if kind == "inet" && was.Decl.Decl().Program == nil || is.Decl.Decl().Program != nil {
				t.Error("a package has changed under its components, or did not for new ones")
			}
		})
	}
}

func TestTrust(t *testing.T) {
	dir := packages(t)
	app := filepath.Join(dir, "srv/app")
	var files []cache.File
	for _, p := range []string{"root.cml", "inc/all.shard.cml", "net/net.cml", "net/bin/net", "meta/x.cml"} {
		b, err := os.ReadFile(filepath.Join(app, p))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, cache.File{Path: p, Hash: cache.HashOf(b)})
	}
	contents, err := cache.FormatContents(files)
	if err != nil {
		t.Fatal(err)
	}
	public, secret, _ := ed25519.GenerateKey(nil)
	b64 := base64.StdEncoding.EncodeToString
	id := "keykeyke"
	minisig := func(alg string, message []byte) string {
		sig, comment := ed25519.Sign(secret, message), "timestamp:0"
		return fmt.Sprintf("untrusted comment: x\n%s\ntrusted comment: %s\n%s\n", b64([]byte(alg+id+string(sig))), comment,
			b64(ed25519.Sign(secret, append(sig[:len(sig):len(sig)], comment...))))
	}
	h := blake2b.Sum512(contents)
	mini := "minisign " + b64([]byte("Ed"+id+string(public)))
	other, _, _ := ed25519.GenerateKey(nil)
	for name, c := range map[string]struct {
		trust, sig, minisig string
		says                string
	}{
		"hash":             {trust: "# ours\nsha256 " + cache.HashOf(contents).String()},
		"another hash":     {trust: "sha256 " + cache.HashOf(nil).String(), says: "its hash is not listed"},
		"minisign":         {trust: mini, minisig: minisig("Ed", contents)},
		"minisign, hashed": {trust: mini, minisig: minisig("ED", h[:])},
		"minisign, other":  {trust: mini, minisig: minisig("Ed", []byte("other")), says: "by none of the keys"},
		"minisign, none":   {trust: mini, says: "its hash is not listed"},
		"ed25519":          {trust: "ed25519 " + b64(public), sig: b64(ed25519.Sign(secret, contents)) + "\n"},
		"ed25519, other":   {trust: "ed25519 " + b64(other), sig: b64(ed25519.Sign(secret, contents)), says: "by none of the keys"},
		"nobody":           {says: "its hash is not listed"},
	} {
		t.Run(name, func(t *testing.T) {
			trust, err := cache.ParseTrust("trusted", []byte(c.trust))
			if err != nil {
				t.Fatal(err)
			}
			for suffix, text := range map[string]string{"": string(contents), ".sig": c.sig, ".minisig": c.minisig} {
				os.Remove(filepath.Join(app, cache.Contents+suffix))
				if text != "" {
					if err := os.WriteFile(filepath.Join(app, cache.Contents+suffix), []byte(text), 0o644); err != nil {
						t.Fatal(err)
					}
				}
			}
			_, err = loaded(t, "port", dir, trust).Resolve(t.Context(), "s:///srv/app/root.cml", nil)
			if (err == nil) != (c.says == "") || err != nil && (!strings.Contains(err.Error(), c.says) || !errors.Is(err, cache.ErrUntrusted)) {
				t.Errorf("%v, want %q", err, c.says)
			}
		})
	}
	t.Run("minisign itself", func(t *testing.T) {
		tool := needs.Tool(t, "minisign")
		keys, file := t.TempDir(), filepath.Join(app, cache.Contents)
		os.Remove(file + ".sig")
		run := func(args ...string) {
			cmd := exec.Command(tool, append(args, "-p", keys+"/pub", "-s", keys+"/key", "-m", file)...)
			if said, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("minisign %q: %v\n%s", args, err, said)
			}
		}
		run("-G", "-W") // without a password
		public, err := os.ReadFile(keys + "/pub")
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(public), "\n")
		trust, err := cache.ParseTrust("trusted", []byte("minisign "+lines[1]))
		if err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"-S"}, {"-S", "-l"}, {"-S", "-c", "a comment", "-t", "a trusted one"}} {
			run(args...)
			if _, err := loaded(t, "port", dir, trust).Resolve(t.Context(), "s:///srv/app/root.cml", nil); err != nil {
				t.Errorf("%q: %v", args, err)
			}
		}
		sig, err := os.ReadFile(file + ".minisig")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file+".minisig", bytes.Replace(sig, []byte("trusted one"), []byte("trusted two"), 1), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := loaded(t, "port", dir, trust).Resolve(t.Context(), "s:///srv/app/root.cml", nil); !errors.Is(err, cache.ErrUntrusted) {
			t.Errorf("with another trusted comment: %v", err)
		}
	})
	// What is listed must be what comes.
	if err := os.WriteFile(filepath.Join(app, "net/bin/net"), []byte("#!/bin/evil\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	trust, _ := cache.ParseTrust("trusted", []byte("sha256 "+cache.HashOf(contents).String()))
	if _, err := loaded(t, "inet", dir, trust).Resolve(t.Context(), "s:///srv/app/root.cml", nil); err == nil || !strings.Contains(err.Error(), "net/bin/net: sha256 is") {
		t.Errorf("a file that was changed: %v", err)
	}
	os.Remove(filepath.Join(app, cache.Contents))
	if _, err := loaded(t, "inet", dir, trust).Resolve(t.Context(), "s:///srv/app/root.cml", nil); !errors.Is(err, cache.ErrUntrusted) {
		t.Errorf("a package without contents file: %v", err)
	}
	for _, bad := range []string{"sha256", "sha256 12", "minisign abc", "ed25519 QUJD", "gpg x"} {
		if _, err := cache.ParseTrust("trusted", []byte("\n"+bad)); err == nil || !strings.HasPrefix(err.Error(), "trusted:2: ") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestEfile(t *testing.T) {
	dir := packages(t)
	p, err := prim.Start(prim.Config{Pa: []string{dir + "/srv/app"}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	l := resolver.NewLoaded(resolver.LoadedConfig{Loader: p})
	root, err := l.Resolve(t.Context(), "efile:root.cml", nil)
	if err != nil {
		t.Fatal(err)
	}
	net, err := l.Resolve(t.Context(), "net/net.cml", root)
	if err != nil || net.URL != "efile://"+dir+"/srv/app/net/net.cml" || net.Package.Dir != dir+"/srv/app/net" {
		t.Errorf("%+v, %v", net, err)
	}
	if _, err := l.Resolve(t.Context(), "efile:none.cml", nil); err == nil || !strings.HasPrefix(err.Error(), "efile:none.cml: ") {
		t.Errorf("%v", err)
	}
}
