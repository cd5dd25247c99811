package prim_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/runtime/loader/inet"
	"github.com/cmgr/cmgr/runtime/loader/port"
	"github.com/cmgr/cmgr/runtime/loader/prim"
)

func TestMain(m *testing.M) { os.Exit(leak.Run(m)) }

// Every kind of loader finds names along the path alike.
func TestPath(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, fstest.MapFS{"a/one": {Data: []byte("a1")}, "b/one": {Data: []byte("b1")}, "b/two": {Data: []byte("b2")}, "b/sub/x": {}}); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "program")
	text := "#!/bin/sh\nn=$(tail -c +2)\n[ -d \"$n\" ] && exit 1\n[ -e \"$n\" ] && { printf y; exec cat \"$n\"; }\nprintf z\n"
	if err := os.WriteFile(program, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot("/")
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
	defer wg.Wait()
	defer s.Close()
	t.Chdir(dir)
	for kind, cfg := range map[string]prim.Config{
		"efile": {}, "inet": {Loader: "inet", Hosts: []string{s.UDPAddr().String()}}, "port": {Loader: program},
	} {
		t.Run(kind, func(t *testing.T) {
			cfg.Pa, cfg.Pz = []string{dir + "/a"}, []string{dir + "/b"}
			l, err := prim.Start(cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Stop()
			if got := l.Path(); cfg.Kind() != kind || !slices.Equal(got, []string{dir + "/a", ".", dir + "/b"}) {
				t.Errorf("%s with path %q", cfg.Kind(), got)
			}
			get := func(name, want, where string) {
				t.Helper()
				f, at, err := l.Get(t.Context(), name)
				if err != nil {
					t.Error(err)
					return
				}
				defer f.Close()
				if b, err := io.ReadAll(f); err != nil || string(b) != want || at != where {
					t.Errorf("%s: %q at %s, %v", name, b, at, err)
				}
			}
			get("one", "a1", dir+"/a/one")
			get("two", "b2", dir+"/b/two")
			get(dir+"/b/one", "b1", dir+"/b/one")
			l.SetPath([]string{dir + "/b", dir + "/a"})
			get("one", "b1", dir+"/b/one")
			if _, _, err := l.Get(t.Context(), "three"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), dir+"/b, "+dir+"/a") {
				t.Errorf("in vain: %v", err)
			}
			// A failure is no absence: the search ends with it.
			l.SetPath([]string{dir + "/b", dir + "/a"})
			if _, _, err := l.Get(t.Context(), "sub"); err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a directory: %v", err)
			}
			info, err := l.Stat(t.Context(), "two")
			entries, err2 := l.List(t.Context(), dir+"/b")
			if kind == "port" {
				if !errors.Is(err, errors.ErrUnsupported) || !errors.Is(err2, errors.ErrUnsupported) {
					t.Errorf("%v, %v", err, err2)
				}
				return
			}
			if err != nil || err2 != nil || info.Size() != 2 || len(entries) != 3 {
				t.Errorf("stat %v, %v; list %v, %v", info, err, entries, err2)
			}
		})
	}
}

func TestStart(t *testing.T) {
	for _, cfg := range []prim.Config{
		{Loader: "inet"},
		{Hosts: []string{"127.0.0.1"}},
		{Transport: port.Raw},
		{Loader: "/no/such/program"},
		{Loader: "true", Transport: "packet2"},
	} {
		if l, err := prim.Start(cfg); err == nil {
			l.Stop()
			t.Errorf("%+v: started", cfg)
		}
	}
}
