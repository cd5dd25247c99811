package runit_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/elf/job"
	"github.com/cmgr/cmgr/runners/runit"
	"github.com/cmgr/cmgr/runners/runit/runsvdir"
)

// children is a Tree that runs nothing: it remembers what it has, and what was done.
type children struct {
	mu   sync.Mutex
	have map[string]string // directories, by child
	done []string
	hold map[string]chan struct{} // a child is destroyed once its channel is closed
	log  bytes.Buffer
}

func (c *children) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.log.Write(b)
}

func (c *children) Has(m name.Moniker, collection string) bool {
	return m == "/test" && collection == "services"
}

func (c *children) Create(_ context.Context, _ name.Moniker, _, child, dir string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.have[child] != "" {
		return fmt.Errorf("%s is there", child)
	}
	c.have[child] = filepath.Base(dir)
	c.done = append(c.done, "+"+child)
	return nil
}

func (c *children) Destroy(ctx context.Context, _ name.Moniker, _, child string) error {
	c.mu.Lock()
	hold := c.hold[child]
	c.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.have, child)
	c.done = append(c.done, "-"+child)
	return nil
}

// await waits until the children are want: "child=directory …", in their order.
func (c *children) await(t *testing.T, want string) {
	t.Helper()
	var got []string
	for deadline := time.Now().Add(bound); ; time.Sleep(5 * time.Millisecond) {
		c.mu.Lock()
		got = got[:0]
		for child, dir := range c.have {
			got = append(got, child+"="+dir)
		}
		c.mu.Unlock()
		if slices.Sort(got); strings.Join(got, " ") == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("children %q, want %q; %q; %s", got, want, c.done, &c.log)
		}
	}
}

// directory starts a component whose children are the services in dir.
func directory(t *testing.T, dir string) (*children, runners.Program) {
	t.Helper()
	needs.Cgroup2(t)
	r := newRunner(t, job.Cgroup2)
	c := &children{have: map[string]string{}, hold: map[string]chan struct{}{}}
	r.Tree, r.Log = c, slog.New(slog.NewTextHandler(c, nil))
	p, err := r.Start(t.Context(), runners.StartInfo{Moniker: "/test", Program: block("service_dirs", dir)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Kill(context.Background()); wait(t, p) })
	return c, p
}

func mkdir(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

func do(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestDirectory: what comes, goes, is renamed or replaced, as soon as it does; also where the directory itself does.
func TestDirectory(t *testing.T) {
	top := t.TempDir()
	dir := top + "/current"
	c, p := directory(t, dir) // it waits for it
	mkdir(t, top+"/one/b d")
	mkdir(t, top+"/one/.hidden")
	do(t, os.WriteFile(top+"/one/file", nil, 0o644))
	do(t, os.Symlink("one", dir))
	c.await(t, "b_d=b d")
	mkdir(t, top+"/one/b_d")
	c.await(t, "b_d=b d b_d_2=b_d")
	do(t, os.Symlink("b_d", top+"/one/a")) // a second name is no second service
	mkdir(t, top+"/one/c")
	c.await(t, "b_d=b d b_d_2=b_d c=c")
	do(t, os.Remove(top+"/one/b d"))
	c.await(t, "b_d_2=b_d c=c")

	// A directory that was renamed has its new child only once the old one is gone.
	c.mu.Lock()
	c.done, c.hold["c"] = nil, make(chan struct{})
	c.mu.Unlock()
	do(t, os.Rename(top+"/one/c", top+"/one/d"))
	mkdir(t, top+"/one/e")
	c.await(t, "b_d_2=b_d c=c e=e")
	close(c.hold["c"])
	c.await(t, "b_d_2=b_d d=d e=e")
	if want := []string{"+e", "-c", "+d"}; !slices.Equal(c.done, want) {
		t.Errorf("done %q, want %q", c.done, want)
	}

	// A switched link, as runsvchdir switches it: what is in both goes on.
	mkdir(t, top+"/two/f")
	do(t, os.Symlink("../one/e", top+"/two/e"))
	do(t, os.Symlink("two", top+"/new"))
	do(t, os.Rename(top+"/new", dir))
	c.await(t, "e=e f=f")
	if slices.Contains(c.done, "-e") {
		t.Errorf("done %q: e was in both directories", c.done)
	}
	// As under runsvdir, they stay while the directory is missing.
	c.mu.Lock()
	c.log.Reset()
	c.mu.Unlock()
	do(t, os.Remove(dir))
	for deadline := time.Now().Add(bound); ; time.Sleep(5 * time.Millisecond) {
		c.mu.Lock()
		told := strings.Contains(c.log.String(), "unable to read")
		c.mu.Unlock()
		if told {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("told: %s", &c.log)
		}
	}
	c.await(t, "e=e f=f")
	do(t, os.Symlink("one", dir))
	c.await(t, "a=a d=d e=e")

	p.Stop(t.Context())
	if x := wait(t, p); !x.OK() || x.Cause != runners.ByStop {
		t.Errorf("exit %v", x)
	}
}

// TestDirectoryLimit: as many as under runsvdir, and the next one when there is room.
func TestDirectoryLimit(t *testing.T) {
	dir := t.TempDir()
	for i := range runsvdir.MaxServices + 2 {
		mkdir(t, fmt.Sprintf("%s/%04d", dir, i))
	}
	c, _ := directory(t, dir)
	until := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(bound); ; time.Sleep(5 * time.Millisecond) {
			c.mu.Lock()
			done := ok() && len(c.have) == runsvdir.MaxServices
			c.mu.Unlock()
			if done {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d children; %s; told: %s", len(c.have), what, &c.log)
			}
		}
	}
	until("as many as there may be", func() bool { // all may be there before it is told that there won't be more
		return strings.Contains(c.log.String(), "unable to start 1000 and 1 more: too many services, 1000 is the most")
	})
	do(t, os.Remove(dir+"/0000"))
	until("the next one", func() bool { return c.have["1000"] != "" })
}

func TestDirectoryRefused(t *testing.T) {
	needs.Cgroup2(t)
	r := newRunner(t, job.Cgroup2)
	r.Tree = &children{}
	for _, c := range []struct {
		block runners.Block
		text  string
	}{
		{block("service_dirs", ""), "service_dirs: is missing"},
		{block("service_dirs", "/etc/service", "service_dir", "x"), "program.service_dir: is not a key"},
		{block("service_dirs", "/etc/service", "collection", "other"), `needs a collection for its services: add collections: [{ name: "other"`},
	} {
		_, err := r.Start(t.Context(), runners.StartInfo{Moniker: "/test", Program: c.block})
		if err == nil || !strings.Contains(err.Error(), c.text) || capabilities.CodeOf(err) != capabilities.Invalid {
			t.Errorf("%v: %v (%v)", c.block.Info, err, capabilities.CodeOf(err))
		}
	}
	if _, err := newRunner(t, job.Subreaper).Start(t.Context(), runners.StartInfo{
		Moniker: "/test", Program: block("service_dirs", "/etc/service"),
	}); err == nil || !strings.Contains(err.Error(), "cgroup v2") {
		t.Error(err)
	}
}

func TestComponentName(t *testing.T) {
	taken := map[string]bool{"web": true, "web_2": true}
	for base, want := range map[string]string{
		"web": "web_3", "my db": "my_db", "-x": "_-x", "é": "_", strings.Repeat("x", 255): strings.Repeat("x", 200),
	} {
		if got := runit.ComponentName(base, taken); got != want || name.Check(got) != nil {
			t.Errorf("%q is %q, want %q", base, got, want)
		}
	}
}
