package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cmgr/cmgr/internal/needs"
)

// The test binary is cmgr if it is asked to be.
func init() {
	if os.Getenv("CMGR_TEST_MAIN") == "1" {
		os.Exit(cmgr(os.Args, os.Stdin, os.Stdout, os.Stderr))
	}
}

// itself is a command that runs cmgr.
func itself(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	c := exec.CommandContext(ctx, binary, args...)
	c.Env = append(os.Environ(), "CMGR_TEST_MAIN=1")
	return c
}

// An lspClient speaks to `cmgr lsp`.
type lspClient struct {
	t   *testing.T
	in  io.WriteCloser
	out *bufio.Reader
}

func (c lspClient) send(message string) {
	c.t.Helper()
	if _, err := fmt.Fprintf(c.in, "Content-Length: %d\r\n\r\n%s", len(message), message); err != nil {
		c.t.Fatal(err)
	}
}

// receive reads one message.
func (c lspClient) receive(into any) {
	c.t.Helper()
	var n int
	if _, err := fmt.Fscanf(c.out, "Content-Length: %d\r\n\r\n", &n); err != nil {
		c.t.Fatal(err)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(c.out, b); err != nil {
		c.t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		c.t.Fatalf("%v: %s", err, b)
	}
}

func TestLSP(t *testing.T) {
	const (
		initialize = `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"capabilities":{}}}`
		open       = `{"jsonrpc":"2.0","method":"textDocument/didOpen","params":{"textDocument":{` +
			`"uri":"file:///none/a.cml","version":1,"text":"/* 𝄞 */ { sue: [] }"}}}`
		fix = `{"jsonrpc":"2.0","id":2,"method":"textDocument/codeAction","params":{"textDocument":{"uri":"file:///none/a.cml"},` +
			`"range":{"start":{"line":0,"character":12},"end":{"line":0,"character":12}}}}`
		shutdown = `{"jsonrpc":"2.0","id":3,"method":"shutdown"}`
		exit     = `{"jsonrpc":"2.0","method":"exit"}`
	)
	type position struct{ Line, Character int }
	var stderr bytes.Buffer
	start := func(args ...string) (*exec.Cmd, lspClient) {
		cmd := itself(t, append([]string{"lsp"}, args...)...)
		stderr.Reset()
		cmd.Stderr = &stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, lspClient{t, in, bufio.NewReader(out)}
	}
	end := func(cmd *exec.Cmd, c lspClient, code int, words string) {
		t.Helper()
		if _, err := c.out.ReadByte(); err != io.EOF {
			t.Errorf("more is written than expected: %v", err)
		}
		_ = cmd.Wait() // the exit code says it
		if got := cmd.ProcessState.ExitCode(); got != code || stderr.String() != words {
			t.Errorf("exit %d, %q, want %d, %q", got, stderr.String(), code, words)
		}
	}

	cmd, c := start("--stdio")
	c.send(initialize)
	var capabilities struct {
		Result struct {
			Capabilities struct{ PositionEncoding string }
			ServerInfo   struct{ Name, Version string }
		}
	}
	c.receive(&capabilities)
	if r := capabilities.Result; r.Capabilities.PositionEncoding != "utf-16" || r.ServerInfo.Version != versionString() {
		t.Errorf("%+v", r)
	}
	c.send(open)
	var diagnostics struct {
		Params struct {
			Diagnostics []struct {
				Range         struct{ Start, End position }
				Code, Message string
			}
		}
	}
	c.receive(&diagnostics)
	d := diagnostics.Params.Diagnostics
	if len(d) != 1 || d[0].Code != "unknown-key" || d[0].Range.Start != (position{0, 11}) || d[0].Range.End != (position{0, 14}) {
		t.Errorf("%+v", d)
	}
	c.send(fix)
	var actions struct{ Result []struct{ Title string } }
	c.receive(&actions)
	if len(actions.Result) != 1 || actions.Result[0].Title != "change to `use`" {
		t.Errorf("%+v", actions)
	}
	c.send(shutdown)
	var down map[string]any
	c.receive(&down)
	c.send(exit)
	end(cmd, c, exitFine, "")

	cmd, c = start()
	c.send(exit)
	end(cmd, c, exitFailed, "cmgr: lsp: exit without shutdown\n")

	cmd, c = start()
	c.in.Close()
	end(cmd, c, exitFailed, "cmgr: lsp: the client went away\n")

	cmd, c = start()
	if _, err := io.WriteString(c.in, "hello\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	end(cmd, c, exitFailed, "cmgr: lsp: malformed header: \"hello\"\n")
}

// TestNeovim does in a real editor what somebody would do: sees what is wrong, has it repaired, completes, goes to definitions,
// renames and formats.
func TestNeovim(t *testing.T) {
	nvim := needs.Tool(t, "nvim")
	dir := t.TempDir()
	for file, text := range map[string]string{
		"a.cml":       "{}\n",
		"x.shard.cml": "{}\n",
		"root.cml": `{
    include: [ "x.shard.cml" ],
    children: [
        // 𝄞
        /* 𝄞 */ { name: "a", url: "a.cml", startup: "eager" }, // here
    ]
    environments: [ { name: "e", extends: "realm" } ],
    collections: [ { name: "b", durability: "transient" } ],
    offer: [ /* 𝄞 */ { protocol: "p", from: "#a", to: "#b" } ],
}
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, nvim, "--clean", "--headless", "-n", "-c", "luafile testdata/lsp.lua")
	cmd.Env = append(os.Environ(), "DIR="+dir, "OUT="+out, "CMGR="+binary, "HOME="+dir, "XDG_STATE_HOME="+dir, "XDG_CACHE_HOME="+dir,
		"XDG_DATA_HOME="+dir, "NVIM_LOG_FILE="+filepath.Join(dir, "log"))
	text, err := cmd.CombinedOutput()
	got, readErr := os.ReadFile(out)
	if err != nil || readErr != nil {
		t.Fatalf("%v, %v\n%s", err, readErr, text)
	}
	const file = "testdata/neovim.txt"
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(string(got), "\n")); d != "" {
		t.Errorf("-want +got (run with -update, and read what changed):\n%s%s", d, text)
	}
}

func TestSchema(t *testing.T) {
	code, stdout, stderr := run("schema")
	var schema struct {
		Schema     string `json:"$schema"`
		Properties struct{ Program any }
	}
	if err := json.Unmarshal([]byte(stdout), &schema); err != nil || code != exitFine || stderr != "" {
		t.Fatalf("%d, %v, %s", code, err, stderr)
	}
	if schema.Schema != "https://json-schema.org/draft/2020-12/schema" || schema.Properties.Program == nil {
		t.Errorf("%+v", schema)
	}
}
