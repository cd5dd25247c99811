package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
)

// explored is what Config.Explore was asked for.
type explored struct {
	runners.Exploration
	at   name.Moniker
	note string
}

func TestExplore(t *testing.T) {
	tr := newTree(t, map[string]string{
		"root.cml": `{ children: [ { name: "app", url: "app.cml" }, { name: "shy", url: "app.cml" } ] }`,
		"app.cml":  `{ program: { runner: "elf", binary: "b" } }`,
	})
	asked := make(chan explored, 1)
	gone := make(chan error, 1)
	c, _, socket := serve(t, tr, func(cfg *Config) {
		cfg.Explore = func(ctx context.Context, m name.Moniker, x runners.Exploration, note string) (runners.Exit, error) {
			defer x.Close()
			if m == "/shy" {
				return runners.Exit{}, errors.New("it is shy")
			}
			asked <- explored{x, m, note}
			if len(x.Command) > 1 && x.Command[len(x.Command)-1] == "wait" {
				<-ctx.Done()
				gone <- context.Cause(ctx)
				return runners.Exit{Signal: syscall.SIGKILL}, nil
			}
			x.Launched()
			b, err := io.ReadAll(x.Files[0])
			fmt.Fprintf(x.Files[1], "got %s", b)
			return runners.Exit{Code: 7}, err
		}
	})
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	inR, inW, _ := os.Pipe()
	outR, outW, _ := os.Pipe()
	defer inR.Close()
	defer outR.Close()
	fmt.Fprint(inW, "text")
	inW.Close()
	launched := 0
	exit, err := c.Explore(bounded(t), Exploration{
		Query: "app", Command: "do it", Files: [3]*os.File{inR, outW, null}, Env: []string{"A=b c", "D=&"}, Tools: dir,
		Launched: func() { launched++ },
	})
	outW.Close()
	if err != nil || exit.GetCode() != 7 || launched != 1 {
		t.Fatalf("%v, %v; launched %d times", exit, err, launched)
	}
	if b, err := io.ReadAll(outR); string(b) != "got text" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	x := <-asked
	if x.at != "/app" || x.Command[len(x.Command)-1] != "do it" || strings.Join(x.Env, ";") != "A=b c;D=&" || x.Terminal ||
		x.note != fmt.Sprintf("explored by user %d, process %d: do it", os.Getuid(), os.Getpid()) {
		t.Errorf("asked for %+v", x)
	}

	// Whoever cannot is told why.
	nulls := [3]*os.File{null, null, null}
	for _, w := range []struct {
		x    Exploration
		want string
	}{
		{Exploration{Query: "shy", Files: nulls}, "explore /shy: it is shy"},
		{Exploration{Query: "nobody", Files: nulls}, "no matching component instance"},
		{Exploration{Query: "app", Files: [3]*os.File{null, dir, null}}, "descriptor 1: is a directory"},
		{Exploration{Query: "app", Files: nulls, Tools: null}, "descriptor 3"},
		{Exploration{Query: "app", Files: [3]*os.File{null, null}}, "three descriptors are needed"},
	} {
		if _, err := c.Explore(bounded(t), w.x); err == nil || !strings.Contains(err.Error(), w.want) {
			t.Errorf("%v, want %s", err, w.want)
		}
	}

	// A client that gives up, or goes away before it has sent anything, ends what it began.
	ctx, cancel := context.WithCancel(bounded(t))
	go func() { <-asked; cancel() }()
	if _, err := c.Explore(ctx, Exploration{Query: "app", Command: "wait", Files: nulls}); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	if err := <-gone; err == nil {
		t.Error("it goes on")
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST %s?query=app HTTP/1.1\r\nHost: cmgr\r\nContent-Length: 0\r\n\r\n", explorePath)
	r, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || r.StatusCode != http.StatusSwitchingProtocols {
		t.Errorf("%v, %v", r, err)
	}
	conn.Close()
}
