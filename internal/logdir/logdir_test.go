package logdir

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/internal/tai64n"
)

func TestMain(m *testing.M) { os.Exit(leak.Run(m)) }

func mustOpen(t testing.TB, dir string, opt Options) *Writer {
	t.Helper()
	w, err := Open(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func mustWrite(t testing.TB, w *Writer, s string) {
	t.Helper()
	if n, err := w.Write([]byte(s)); n != len(s) || err != nil {
		t.Fatalf("Write = %d, %v", n, err)
	}
}

// crash is what the kernel does for a writer that is killed.
func crash(w *Writer) {
	syscall.Close(w.fd)
	syscall.Close(w.lock)
}

// content is all of dir's lines as one text.
func content(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	for line, err := range Lines(dir) {
		if err != nil {
			t.Fatal(err)
		}
		b.Write(line)
	}
	return b.String()
}

// listing is "NAME MODE SIZE" of each file, labels as @.
func listing(t testing.TB, dir string) (files []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		st, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		name := e.Name()
		if isOld(name) {
			if _, err := tai64n.Parse(name[:tai64n.Size]); err != nil {
				t.Error(err)
			}
			name = "@" + name[tai64n.Size:]
		}
		files = append(files, fmt.Sprintf("%s %04o %d", name, st.Mode().Perm(), st.Size()))
	}
	return files
}

func wantFiles(t testing.TB, dir string, want ...string) {
	t.Helper()
	if got := listing(t, dir); !slices.Equal(got, want) {
		t.Errorf("files:\n got %q\nwant %q", got, want)
	}
}

func TestNamesAndModes(t *testing.T) {
	dir := t.TempDir()
	w := mustOpen(t, dir, Options{Size: 10, Keep: 2, Sync: true})
	wantFiles(t, dir, "current 0644 0", "lock 0600 0")
	mustWrite(t, w, "1234\n")
	wantFiles(t, dir, "current 0644 5", "lock 0600 0")
	mustWrite(t, w, "6789\n") // exactly the size
	wantFiles(t, dir, "current 0644 10", "lock 0600 0")
	mustWrite(t, w, "1\n22\n333\n4444\n")
	wantFiles(t, dir, "@.s 0744 10", "@.s 0744 9", "current 0644 5", "lock 0600 0")
	mustWrite(t, w, "longer than a file\n1\n")
	wantFiles(t, dir, "@.s 0744 5", "@.s 0744 19", "current 0644 2", "lock 0600 0")
	if err := w.Rotate(); err != nil {
		t.Fatal(err)
	}
	if err := w.Rotate(); err != nil { // nothing in it
		t.Fatal(err)
	}
	wantFiles(t, dir, "@.s 0744 19", "@.s 0744 2", "current 0644 0", "lock 0600 0")
	mustWrite(t, w, "end\n")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	wantFiles(t, dir, "@.s 0744 19", "@.s 0744 2", "current 0744 4", "lock 0600 0")
}

func TestTakesOver(t *testing.T) {
	dir := t.TempDir()
	w := mustOpen(t, dir, Options{})
	crash(w) // empty: kept
	w = mustOpen(t, dir, Options{})
	mustWrite(t, w, "a\nb")
	crash(w)
	w = mustOpen(t, dir, Options{Keep: 1})
	wantFiles(t, dir, "@.u 0644 3", "current 0644 0", "lock 0600 0")
	mustWrite(t, w, "c\n")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	w = mustOpen(t, dir, Options{Keep: 1, Size: 3})
	mustWrite(t, w, "d\n")
	wantFiles(t, dir, "@.s 0744 2", "current 0644 2", "lock 0600 0") // the size of what was there counts; one old file is kept
	crash(w)
	other := []string{"@" + strings.Repeat("0", 24) + ".t", "@short.s", "state", "notes"}
	for _, name := range other {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w = mustOpen(t, dir, Options{Keep: 1})
	defer w.Close()
	wantFiles(t, dir, "@.u 0644 2", "@short.s 0600 0", "current 0644 0", "lock 0600 0", "notes 0600 0", "state 0600 0")
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	w := mustOpen(t, dir, Options{})
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrLocked) {
		t.Errorf("second Open = %v, want ErrLocked", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := mustOpen(t, dir, Options{}).Close(); err != nil {
		t.Error(err)
	}
	if _, err := Open(filepath.Join(dir, "none"), Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open of no directory = %v", err)
	}
}

func TestRemove(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	if err := Remove(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Remove of nothing = %v", err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w := mustOpen(t, dir, Options{Size: 10})
	mustWrite(t, w, strings.Repeat("1234567\n", 200))
	if err := Remove(dir); !errors.Is(err, ErrLocked) {
		t.Errorf("Remove of one in use = %v", err)
	}
	w.Close()
	if got := len(listing(t, dir)); got != 201 {
		t.Errorf("%d files", got)
	}
	if err := Remove(dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

// svlogd and a Writer take turns on one directory; neither loses or renames what the other wrote.
func TestSvlogdTakesTurns(t *testing.T) {
	svlogd := needs.Tool(t, "svlogd")
	dir := t.TempDir()
	run := func(in string) string {
		t.Helper()
		cmd := exec.Command(svlogd, "-v", "-b", "200", "-l", "100", dir)
		cmd.Stdin = strings.NewReader(in)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	var want strings.Builder
	for i := range 20 {
		var lines strings.Builder
		for j := range 30 {
			fmt.Fprintf(&lines, "round %d line %d\n", i, j)
		}
		want.WriteString(lines.String())
		if i%2 == 0 {
			if out := run(lines.String()); i > 0 && i%4 != 0 && !strings.Contains(out, "append: "+dir+"/current") {
				t.Errorf("svlogd did not append to what we closed: %s", out)
			}
			continue
		}
		w := mustOpen(t, dir, Options{Size: 5000})
		mustWrite(t, w, lines.String())
		if i%4 == 3 {
			crash(w) // svlogd must find it so
		} else if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if got := content(t, dir); got != want.String() {
		t.Errorf("content differs: %d bytes, want %d", len(got), want.Len())
	}
	crashed := 0
	for _, f := range listing(t, dir) {
		if strings.HasPrefix(f, "@.u 0644") {
			crashed++
		}
	}
	if crashed != 4 { // the last one's is still current
		t.Errorf("%d files left by crashes, want 4: %q", crashed, listing(t, dir))
	}
	// Locked out, both ways.
	w := mustOpen(t, dir, Options{})
	out, err := exec.Command(svlogd, dir).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "unable to lock") {
		t.Errorf("svlogd on our directory: %v: %s", err, out)
	}
	w.Close()
	r, wr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(svlogd, "-v", dir)
	cmd.Stdin = r
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.Close()
	if _, err := stderr.Read(make([]byte, 1)); err != nil { // "info: append": it has the lock
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrLocked) {
		t.Errorf("Open of svlogd's directory = %v", err)
	}
	wr.Close()
	_, _ = io.Copy(io.Discard, stderr)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// The same lines, the same limits: svlogd and we leave files of the same names, modes and contents where lines are such that the
// two rules for the end of a file coincide.
func TestRotatesAsSvlogd(t *testing.T) {
	svlogd := needs.Tool(t, "svlogd")
	theirs, ours := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(theirs, "config"), []byte("s1000\nn3\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	in := strings.Repeat(strings.Repeat("x", 99)+"\n", 75)
	cmd := exec.Command(svlogd, "-l", "50", "-b", "60", theirs) // rotates at the first newline from 950 on
	cmd.Stdin = strings.NewReader(in)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	w := mustOpen(t, ours, Options{Size: 1000, Keep: 3})
	mustWrite(t, w, in)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	want := slices.DeleteFunc(listing(t, theirs), func(s string) bool { return strings.HasPrefix(s, "config") })
	wantFiles(t, ours, want...)
	if got, want := content(t, ours), content(t, theirs); got != want {
		t.Errorf("content: %d bytes, theirs %d", len(got), len(want))
	}
}

// A file system that takes no more in the middle of a record.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	ignoreXFSZ(t)
	w := mustOpen(t, dir, Options{Size: 1000})
	mustWrite(t, w, "first\n")
	in := []byte(strings.Repeat("0123456789\n", 20))
	limit := old
	limit.Cur = 100
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	n, err := w.Write(in)
	if restore := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); restore != nil {
		t.Fatal(restore)
	}
	if n != 94 || err == nil || !strings.HasPrefix(err.Error(), "write "+dir+"/current: ") {
		t.Fatalf("Write = %d, %v", n, err)
	}
	// Another Writer goes on in the middle of the record.
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	w = mustOpen(t, dir, Options{})
	mustWrite(t, w, string(in[n:]))
	w.Close()
	if got := content(t, dir); got != "first\n"+string(in) {
		t.Errorf("content %q", got)
	}
}

func TestRotationThatFails(t *testing.T) {
	dir := t.TempDir()
	w := mustOpen(t, dir, Options{Size: 4})
	mustWrite(t, w, "abc\n")
	// No current to rename, then none can be made: a directory is in its place.
	current := filepath.Join(dir, "current")
	if err := os.Rename(current, filepath.Join(dir, "hidden")); err != nil {
		t.Fatal(err)
	}
	if n, err := w.Write([]byte("d\n")); n != 0 || err == nil {
		t.Errorf("Write = %d, %v", n, err)
	}
	if err := os.Rename(filepath.Join(dir, "hidden"), current); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, w, "d\n")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got := content(t, dir); got != "abc\nd\n" {
		t.Errorf("content %q", got)
	}
}

func TestLast(t *testing.T) {
	dir := t.TempDir()
	if got, err := Last(filepath.Join(dir, "none"), 5); len(got) != 0 || err != nil {
		t.Errorf("no directory: %q, %v", got, err)
	}
	w := mustOpen(t, dir, Options{Size: 100_000})
	var all []string
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 3000 {
		all = append(all, fmt.Sprintf("%d %s\n", i, strings.Repeat("y", rng.IntN(200))))
	}
	all = append(all, strings.Repeat("z", 200_000)+"\n", "\n", "\n")
	mustWrite(t, w, strings.Join(all, ""))
	crash(w)
	for _, n := range []int{0, 1, 2, 3, 4, 5, 100, 1000, 2999, 3003, 5000, -1} {
		got, err := Last(dir, n)
		if err != nil {
			t.Fatal(err)
		}
		want := all
		if n >= 0 {
			want = all[max(len(all)-n, 0):]
		}
		if string(bytes.Join(got, nil)) != strings.Join(want, "") || len(got) != len(want) {
			t.Errorf("Last(%d): %d lines, want %d", n, len(got), len(want))
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "current"), []byte("whole\ntorn"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := Last(dir, 2); err != nil || string(bytes.Join(got, []byte("|"))) != "whole\n|torn" {
		t.Errorf("Last(2) = %q, %v", got, err)
	}
}

func TestFollow(t *testing.T) {
	dir := t.TempDir()
	none, err := Follow(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer none.Close()
	w := mustOpen(t, dir, Options{Size: 50})
	mustWrite(t, w, "before\n")
	tail, err := Follow(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	var all, got strings.Builder
	read := func() {
		for {
			line, err := tail.Next()
			if err == io.EOF {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got.Write(line)
		}
	}
	read()
	for i := range 200 {
		line := fmt.Sprintf("line %d\n", i)
		all.WriteString(line)
		mustWrite(t, w, line)
		if i%17 == 0 {
			read() // rotated several times meanwhile
		}
	}
	mustWrite(t, w, "torn")
	all.WriteString("torn")
	crash(w)
	read()
	w = mustOpen(t, dir, Options{})
	mustWrite(t, w, "after\n")
	all.WriteString("after\n")
	read()
	if got.String() != all.String() {
		t.Errorf("followed %d bytes, want %d", got.Len(), all.Len())
	}
	// From before there was a file; and over files that were pruned.
	if line, err := none.Next(); err != nil || string(line) != "before\n" {
		t.Errorf("Next = %q, %v", line, err)
	}
	w.Close()
	w = mustOpen(t, dir, Options{Size: 10, Keep: 1})
	mustWrite(t, w, "1111111\n2222222\n3333333\n")
	w.Close()
	lines := 0
	for {
		line, err := none.Next()
		if err != nil {
			break
		}
		if lines++; string(line) == "3333333\n" && lines < 3 {
			t.Error("skipped what was there")
		}
	}
	if lines == 0 {
		t.Error("nothing after the pruned files")
	}
}

// FuzzWrite: whatever the sizes of records, writes and files, and wherever writers end or crash, the files hold the records, each
// whole in one file, none above the size but a record alone.
func FuzzWrite(f *testing.F) {
	f.Add([]byte("a\nbb\nccc\n\n\ndddd\n"), uint8(5), uint8(3))
	f.Fuzz(func(t *testing.T, in []byte, size, chunk uint8) {
		if len(in) > 2000 {
			return
		}
		in = append(bytes.Clone(in), '\n')
		dir := t.TempDir()
		opt := Options{Size: int64(size)}
		w := mustOpen(t, dir, opt)
		records := bytes.SplitAfter(in[:len(in)-1], []byte("\n"))
		if len(records) > 1 && len(records[len(records)-1]) == 0 {
			records = records[:len(records)-1]
		}
		in = nil
		for i, r := range records {
			if !bytes.HasSuffix(r, []byte("\n")) {
				r = append(bytes.Clone(r), '\n')
			}
			in = append(in, r...)
			mustWrite(t, w, string(r))
			if chunk > 0 && i%int(chunk) == 0 {
				if i%2 == 0 {
					crash(w)
				} else if err := w.Close(); err != nil {
					t.Fatal(err)
				}
				w = mustOpen(t, dir, opt)
			}
		}
		w.Close()
		if got := content(t, dir); got != string(in) {
			t.Fatalf("%q came back as %q", in, got)
		}
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			b, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil || len(b) > 0 && b[len(b)-1] != '\n' {
				t.Errorf("%s ends within a record (%v)", e.Name(), err)
			}
			if size > 0 && len(b) > int(size) && bytes.Count(b, []byte("\n")) > 1 {
				t.Errorf("%s has %d bytes, limit %d", e.Name(), len(b), size)
			}
		}
	})
}

// ignoreXFSZ makes a write beyond RLIMIT_FSIZE an error only (setrlimit(2)).
func ignoreXFSZ(t *testing.T) {
	signal.Ignore(syscall.SIGXFSZ)
	t.Cleanup(func() { signal.Reset(syscall.SIGXFSZ) })
}
