package svlogd

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/runners/runit/runittest"
)

func TestMain(m *testing.M) {
	os.Exit(runittest.Main(map[string]runittest.Program{"svlogd": Main}, func() int { return leak.Run(m) }))
}

func TestSuite(t *testing.T) {
	runittest.Suite(t, []string{"SVLOGD=" + runittest.Link(t, "svlogd")}, "svlogd", "ext/*svlogd*", "better/*svlogd*")
}

// logDir makes a log directory with a config and returns its path.
func logDir(t testing.TB, config string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "log")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// once runs an svlogd over input and returns what it said on standard error.
func once(t testing.TB, program, input string, args ...string) string {
	t.Helper()
	c := exec.Command(program, args...)
	c.Stdin = strings.NewReader(input)
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return string(out)
}

// files is the content of the old files and of current, in their order.
func files(t testing.TB, dir string) (all []string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "@*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(names, filepath.Join(dir, "current")) {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(b))
	}
	return all
}

func read(t testing.TB, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestAgainstDebian compares file by file what the real svlogd and ours make of the same input: patterns, cutting, rotation,
// pruning, standard error. Where runit has defects (a + compares with memory beyond the line) nothing is generated.
func TestAgainstDebian(t *testing.T) {
	theirs, ours := needs.Tool(t, "svlogd"), runittest.Link(t, "svlogd")
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 5))
		text := func(alphabet string, n int) string {
			b := make([]byte, r.IntN(n+1))
			for i := range b {
				b[i] = alphabet[r.IntN(len(alphabet))]
			}
			return string(b)
		}
		var config strings.Builder
		for range r.IntN(5) {
			fmt.Fprintf(&config, "%c%s\n", "+-eE"[r.IntN(4)], text("ab*", 5))
		}
		if r.IntN(2) == 0 {
			fmt.Fprintf(&config, "s%d\nn%d\n", 100+r.IntN(2000), r.IntN(4))
		}
		if r.IntN(3) == 0 {
			config.WriteString("p" + text("xy: ", 5) + "\n")
		}
		lineMax := 1 + r.IntN(60)
		args := []string{"-l", fmt.Sprint(lineMax), "-b", fmt.Sprint(lineMax + 1 + r.IntN(100))}
		longest := 2 * lineMax
		if r.IntN(3) == 0 {
			args = append(args, "-r", "b")
			longest = lineMax // beyond that, runit replaces nothing
		}
		var input strings.Builder
		for range 50 + r.IntN(300) {
			input.WriteString(text("aabc\x00\xc3", longest) + "\n")
		}
		a, b := logDir(t, config.String()), logDir(t, config.String())
		saidA, saidB := once(t, theirs, input.String(), append(args, a)...), once(t, ours, input.String(), append(args, b)...)
		if filesA, filesB := files(t, a), files(t, b); !slices.Equal(filesA, filesB) || saidA != saidB {
			t.Errorf("seed %d: config %q, args %q:\ntheirs %q, said %q\nours   %q, said %q",
				seed, config.String(), args, filesA, saidA, filesB, saidB)
		}
	}
}

// The rest are differences.

func TestReplacesInTheWholeLine(t *testing.T) {
	dir := logDir(t, "")
	once(t, runittest.Link(t, "svlogd"), "0123456789\x1b[2J\n", "-l", "10", "-r", "_", dir)
	if got, want := read(t, dir, "current"), "0123456789_[2J\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestUWithABadAddressKeepsTheLog(t *testing.T) {
	dir := logDir(t, "Uhere\n")
	said := once(t, runittest.Link(t, "svlogd"), "line\n", dir)
	if got := read(t, dir, "current"); got != "line\n" || said != "svlogd: warning: unable to scan ip address: here\n" {
		t.Errorf("%q, said %q", got, said)
	}
}

func TestAProcessorThatFailsOrIsKilledIsRunAgain(t *testing.T) {
	dir := logDir(t, "s2000\n!echo >> ../runs; case $(wc -l < ../runs) in 1) kill -9 $$;; 2) exit 3;; esac; cat\n")
	input := strings.Repeat("0123456789\n", 100)
	begin := time.Now()
	said := once(t, runittest.Link(t, "svlogd"), input, dir)
	if took := time.Since(begin); took < 2*retryPause {
		t.Errorf("two failures took %v", took)
	}
	if got := strings.Join(files(t, dir), ""); got != input || len(files(t, dir)) != 2 {
		t.Errorf("%q", files(t, dir))
	}
	if want := strings.Repeat("svlogd: warning: processor failed, restart: "+dir+"\n", 2); said != want {
		t.Errorf("said %q", said)
	}
}

// What was processed when svlogd was killed is not there twice.
func TestKilledAfterAProcessor(t *testing.T) {
	dir := logDir(t, "")
	for name, text := range map[string]string{
		"@400000000000000000000001.u": "crash\n",
		"@400000000000000000000002.u": "one\n", "@400000000000000000000002.s": "ONE\n", "state": "old", "newstate": "new",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	once(t, runittest.Link(t, "svlogd"), "two\n", dir)
	if got := files(t, dir); !slices.Equal(got, []string{"crash\n", "ONE\n", "two\n"}) || read(t, dir, "state") != "new" {
		t.Errorf("%q, state %q", got, read(t, dir, "state"))
	}
}

// until waits for something that is about to happen.
func until(t *testing.T, what string, happened func() bool) {
	t.Helper()
	for end := time.Now().Add(3 * time.Minute); !happened(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within three minutes", what)
		}
	}
}

func TestAProcessorOutlivesHUP(t *testing.T) {
	dir := logDir(t, "!until test -e ../go; do sleep 0.05; done; cat\n")
	c := exec.Command(runittest.Link(t, "svlogd"), "-v", dir)
	var said bytes.Buffer
	c.Stderr = &said
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(in, "one")
	current := func() string {
		b, _ := os.ReadFile(filepath.Join(dir, "current")) // not there yet is one answer
		return string(b)
	}
	until(t, "one in current", func() bool { return current() == "one\n" })
	_ = c.Process.Signal(unix.SIGALRM)
	glob := func(pattern string) int { m, _ := filepath.Glob(filepath.Join(dir, pattern)); return len(m) }
	until(t, "the processor", func() bool { return glob("@*.t") == 1 })
	_ = c.Process.Signal(unix.SIGHUP)
	until(t, "the directory to be opened again", func() bool {
		_ = os.WriteFile(filepath.Join(dir, "config"), nil, 0o644)
		fmt.Fprintln(in, "two")
		return strings.Contains(current(), "two\n")
	})
	if err := os.WriteFile(filepath.Join(dir, "../go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	until(t, "the processor's end", func() bool { return glob("@*.s") == 1 && glob("@*.[ut]") == 0 })
	in.Close()
	if err := c.Wait(); err != nil {
		t.Errorf("%v\n%s", err, said.String())
	}
	if got := files(t, dir)[0]; got != "one\n" {
		t.Errorf("%q", got)
	}
}

// A processor that cannot succeed is replaced by SIGHUP, whether that comes while it is waited for or not.
func TestAFailingProcessorIsReplacedByHUP(t *testing.T) {
	dir := logDir(t, "!echo >> ../runs; exit 1\n")
	c := exec.Command(runittest.Link(t, "svlogd"), dir)
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer c.Process.Kill()
	fmt.Fprintln(in, "one")
	has := func(name string) bool {
		b, err := os.ReadFile(filepath.Join(dir, name))
		return err == nil && len(b) > 0
	}
	until(t, "one in current", func() bool { return has("current") })
	_ = c.Process.Signal(unix.SIGALRM)
	until(t, "the processor", func() bool { return has("../runs") })
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte("!tr a-z A-Z\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_ = c.Process.Signal(unix.SIGHUP)
	until(t, "the other processor", func() bool { m, _ := filepath.Glob(filepath.Join(dir, "@*.s")); return len(m) == 1 })
	in.Close()
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
	if got := files(t, dir)[0]; got != "ONE\n" {
		t.Errorf("%q", got)
	}
}

// TestAsDebian runs both programs where a reader of the manual would not be sure.
func TestAsDebian(t *testing.T) {
	const prepare = `mkdir d; lines() { for i in $(seq $1); do echo line$i; done; }
		tell() { ls d | sed 's/@[0-9a-f]*/@T/'; cat d/@* d/current 2>/dev/null; stat -c %a d/@* d/current; } 2>/dev/null`
	runittest.Same(t, runittest.Link(t, "svlogd"), needs.Tool(t, "svlogd"), []string{"svlogd"}, prepare,
		// The command line, and directories.
		`svlogd`, `svlogd -x d`, `echo hi | svlogd -l 2000 d; echo $?; echo hi | svlogd -l 2000 -b 2001 d; tell`, `echo a | svlogd -r`,
		`echo hi | svlogd -r xy d; echo $?; echo hi | svlogd -l x d; echo $?; echo hi | svlogd -b 5x d; echo $?; tell`,
		`echo hi | svlogd d ./d none; echo $?; tell`, `(flock 9; svlogd d </dev/null) 9>d/lock`, `echo f >f; echo x | svlogd f`,
		`mkdir d/current; echo x | timeout -s KILL 100 svlogd d 2>&1 | head -1`, `mkdir d/config; echo x | svlogd d; echo $?`,
		`echo x | svlogd ./d/; cd d; echo y | svlogd -- .; cat current`,
		// Lines.
		`printf 'a\tb\001c\377d\n' | svlogd -r . d; printf 'xaybz\n' | svlogd -r - -R ab d; cat -v d/current`,
		`printf '\n\nx\0y\r\n\n' | svlogd -tttt d; sed 's/[0-9-]*T[0-9:.]*/DATE/' d/current | od -c`,
		`printf 'pA\npB: \n' >d/config; lines 2 | svlogd -t d; sed 's/@[0-9a-f]\{24\}/T/' d/current`,
		`printf 'e*\n' >d/config; for n in 999 1000 1500; do printf %0${n}d 7; echo; done >in; svlogd d <in 2>e; md5sum e d/current
			svlogd -l 10 d <in 2>e; md5sum e`,
		// Patterns.
		`printf -- '-*\n+a*\n-a*b\n' >d/config; printf 'abc\nbcd\na\n\nab\naxb\naxbb\naxby\n' | svlogd d; cat d/current`,
		`printf -- '-+ab\n' >d/config; printf 'ab\naab\nb\n' | svlogd d; cat d/current`,
		`printf -- '-*: *: x\n' >d/config; printf 'a: b: x\na: x\na:: b: x\n: : x\n' | svlogd d; cat d/current`,
		`printf -- 'e*err*\nEerr\n-line2' >d/config; (echo an err; echo err; lines 3) | svlogd d; cat d/current`,
		// Rotation.
		`printf '#c\n\ns100\nn3\nZfoo\n' >d/config; lines 60 | svlogd d; tell`, `printf 's5k\nn2\nN1\n' >d/config; lines 3000 | svlogd d; tell`,
		`printf 's5000\nn0\n' >d/config; lines 3000 | svlogd -v d 2>&1 | sed 's/@[0-9a-f]*/@T/g' | sort | uniq -c`,
		`printf 's5000\n' >d/config; (printf %020000d 7; echo; lines 1) | svlogd d; wc -c d/@* d/current | sed 's/@.*/T/'`,
		`printf 's12\nn2\n' >d/config; touch d/@400000000000000000000000.x d/@40.s d/other d/@400000004000000000000000.t; lines 20 | svlogd d; tell`,
		`printf 's\nn\nN\nt\n!\nu\np\n+\n-\ne\nE\n' >d/config; lines 3 | svlogd d; tell`, `printf 's0\n' >d/config; lines 3000 | svlogd d; ls d`,
		`printf 's99999999999999999999\nn-3\nt2x\n' >d/config; lines 3 | svlogd -v d 2>&1; tell`,
		// What was there.
		`echo old >d/current; lines 1 | svlogd -v d 2>&1 | sed 's/@[0-9a-f]*/@T/'; tell`, `: >d/current; lines 1 | svlogd -v d 2>&1; tell`,
		`echo old >d/current; chmod 744 d/current; lines 1 | svlogd -v d 2>&1; tell`,
		// Signals: HUP follows the directory and its config, ALRM rotates what isn't empty, TERM ends it.
		`mkfifo f; svlogd -v d <f 2>said & exec 3>f; has() { until test "$(grep -c $1 $2)" = $3; do sleep 0.02; done 2>/dev/null; }
			echo one >&3; has one d/current 1; echo pNEW >d/config; kill -HUP $!; has read: said 1; echo two >&3; has two d/current 1
			tell; kill -ALRM $!; has rename: said 1; echo three >&3; has three d/current 1
			mv d e; mkdir d; kill -HUP $!; has close: said 2; has new: said 2; echo four >&3; has four d/current 1
			tell; ls e | sed 's/@[0-9a-f]*/@T/'; cat e/current; kill -ALRM $!; has rename: said 2; kill -ALRM $!; sleep 0.1
			kill -TERM $!; has sigterm said 1; exec 3>&-; wait $!; echo $?; tell; sed 's/@[0-9a-f]*/@T/' said | grep -v alarm`,
		// Processors.
		`printf '!tr a-z A-Z\ns20\n' >d/config; lines 9 | svlogd -l 5 d; tell`,
		`printf '!read x <&4; echo "state:$x"; cat; echo new$x >&5\ns20\nn9\n' >d/config; lines 9 | svlogd -l 5 d; tell; cat d/state`,
	)
}

// A file system that is full: the oldest files make room if there are more than N, or nothing is read until there is room.
func TestDiskFullAsDebian(t *testing.T) {
	needs.Root(t)
	const prepare = `mkdir d other; full() { unshare -m sh -c "mount -t tmpfs -o size=$1 none d; . ./lib; $2"; }
		kinds() { sed 's/@[0-9a-f]*/@T/' $1 | sort -u; }; cat >lib <<'.'
			lines() { for i in $(seq $1); do echo "this is line $i"; done; }
			says() { until grep -q "$1" e; do sleep 0.1; done 2>/dev/null; }
			tell() { for d; do ls $d | sed 's/@[0-9a-f]*/@T/' | sort | uniq -c; cat $d/@* $d/current | md5sum; done; }
.
	`
	runittest.Same(t, runittest.Link(t, "svlogd"), needs.Tool(t, "svlogd"), []string{"svlogd"}, prepare,
		`full 64k 'printf "s8000\nn20\nN2\n" >d/config; for i in $(seq 20000); do echo "this is line $i"; done | svlogd d 2>e; tail -1 d/current'; kinds e`,
		`: >e; full 32k 'printf "s8000\nn20\n" >d/config; for i in $(seq 2500); do echo "this is line $i"; done | svlogd d 2>e & mkdir big
			until grep -q pausing e; do sleep 0.1; done; mv d/@* big; wait; cat big/@* d/@* d/current | md5sum'; kinds e`,
		// One of two directories, and in the middle of a line.
		`full 32k 'echo s0 >d/config; (lines 300; printf %010000d 7; echo; lines 10) >in; dd if=/dev/zero of=d/big bs=1k count=16 status=none
			svlogd other d <in 2>e & says pausing; rm d/big; wait; tell other d'; kinds e`,
		// In rotation: there is no room for a new current.
		`full 1m,nr_inodes=6 'printf "s2000\nn0\n" >d/config; : >d/spare; lines 250 | svlogd d 2>e & says "pausing: unable to create new current"
			mount -o remount,nr_inodes=99 d; wait; tell d'; kinds e`,
		// In the processor, which is run until it has room; or before it in the new current: the scheduler chooses who is told.
		`full 48k 'printf "s9000\nn0\n!cat\n" >d/config; dd if=/dev/zero of=d/big bs=1k count=28 status=none; lines 600 | svlogd d 2>e &
			says "failed\|pausing"; rm d/big; wait; tell d'`,
	)
}

// One that is killed while it waits for room, and the next one, too, lose nothing.
func TestKilledOnAFullDisk(t *testing.T) {
	needs.Root(t)
	c := exec.Command("unshare", "-m", "sh", "-ec", `mkdir d; mount -t tmpfs -o size=120k none d; printf 's20000\nn0\n' >d/config
		for i in $(seq 3000); do echo "this is line $i"; done >in; mkfifo f; exec 3<>f; cat in >&3; : >e
		for n in 1 2; do
			"$0" d <f 2>>e 3<&- & until test "$(grep -c pausing e)" -ge $n; do sleep 0.1; done; kill -9 $!; wait $! || test $? = 137
		done
		test -s d/lock; mount -o remount,size=1m d; "$0" d <f 3<&- & exec 3<&-; wait $!
		cat d/@* d/current | cmp - in; test ! -s d/lock`, runittest.Link(t, "svlogd"))
	c.Dir = t.TempDir()
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("%v: %s%s", err, out, read(t, c.Dir, "e"))
	}
}

func TestUsage(t *testing.T) {
	for args, before := range map[string]string{
		"": "", "-b 1000 x": "", "-r ab x": "", "-V x": Version + "\n", "-Z x": "svlogd: illegal option -- Z\n",
	} {
		var said bytes.Buffer
		code := Main(append([]string{"svlogd"}, strings.Fields(args)...), os.Stdin, nil, &said)
		if code != 111 || said.String() != before+"usage: svlogd"+usage+"\n\n" {
			t.Errorf("%q: %q, exit %d", args, said.String(), code)
		}
	}
}

func FuzzMatch(f *testing.F) {
	for _, s := range []string{"-", "*: *: pid *", "a+bc", "*+b", "+", "**", "a**b"} {
		f.Add(s, "a line: b: pid 7")
	}
	// A pattern without signs matches itself alone, with a star at its end what begins with it; a star before it skips to the
	// first occurrence of its first byte, which must be where it is; a plus is any number of times that.
	f.Fuzz(func(t *testing.T, p, line string) {
		match(p, []byte(line)) // whatever it is, it ends
		literal := strings.NewReplacer("*", "x", "+", "y").Replace(p)
		law := func(pattern, line string, want bool) {
			if match(pattern, []byte(line)) != want {
				t.Fatalf("pattern %q, line %q: not %v", pattern, line, want)
			}
		}
		law(literal, line, line == literal)
		law(literal, literal, true)
		law(literal+"*", line, strings.HasPrefix(line, literal))
		law(literal+"*", literal+line, true)
		if literal != "" {
			i := strings.IndexByte(line, literal[0])
			law("*"+literal, line, i >= 0 && line[i:] == literal)
			rest := literal
			for rest != "" && rest[0] == literal[0] {
				rest = rest[1:]
			}
			law("+"+literal, literal[:1]+literal, rest == "" || rest == literal[1:])
		}
	})
}

func FuzzParseConfig(f *testing.F) {
	f.Add("s100k\nn3\nN1\nt5m\n!gzip\npx: \nu10.0.0.1:99\n-*\n+a\ne*\nEb\n# c\n\nzz\n")
	f.Add("U1.2.3.4\nu1.2.3\nu1.2.3.4:0\ns\n!\x00x\n")
	f.Add("s18446744073709551615m\nt18446744073709551615h")
	// Every line counts by itself: the config of two texts is that of the first, changed by the second; and a last newline is
	// neither here nor there.
	f.Fuzz(func(t *testing.T, text string) {
		c, warnings := parseConfig(text)
		if c.age < 0 {
			t.Fatalf("age %v", c.age)
		}
		if c.udpOnly && c.udp == nil {
			t.Fatal("lines go nowhere")
		}
		again, more := parseConfig(text + "\n" + text)
		if fmt.Sprint(len(again.rules), 2*len(warnings)) != fmt.Sprint(2*len(c.rules), len(more)) {
			t.Fatalf("%+v, then %+v", c, again)
		}
		again.rules = again.rules[:len(c.rules)]
		a, b := fmt.Sprintf("%+v", c), fmt.Sprintf("%+v", again)
		if c.udp != nil {
			a, b = strings.ReplaceAll(a, fmt.Sprintf("%p", c.udp), ""), strings.ReplaceAll(b, fmt.Sprintf("%p", again.udp), "")
			if *c.udp != *again.udp {
				t.Fatal("addresses differ")
			}
		}
		if a != b {
			t.Fatalf("%s, then %s", a, b)
		}
	})
}

func FuzzTake(f *testing.F) {
	f.Add([]byte("one\ntwo\n\nthree"), uint16(10), uint8(5), uint16(3))
	f.Add(bytes.Repeat([]byte("0123456789abcdef\n"), 40), uint16(200), uint8(50), uint16(7))
	f.Add(bytes.Repeat([]byte("x"), 400), uint16(100), uint8(20), uint16(30))
	// However the input is cut into reads, the files are the same: that is what one write for each line would have made.
	f.Fuzz(func(t *testing.T, input []byte, size uint16, lineMax uint8, cut uint16) {
		if len(input) > 2000 || size > 0 && size < 20 || bytes.IndexByte(input, 0) >= 0 {
			t.Skip("too slow, or a NUL")
		}
		conf := config{maxSize: uint64(size)}
		logged := func(chunk int) []string {
			name := logDir(t, fmt.Sprintf("s%d\nn0\n", size))
			var said bytes.Buffer
			s := &server{stderr: &said, lineMax: int(lineMax) + 1, wd: unix.AT_FDCWD, udp: -1}
			d := &dir{s: s, name: name, fd: -1, lock: -1, current: -1, config: conf}
			s.dirs = []*dir{d}
			if !s.reopen() {
				t.Fatal(said.String())
			}
			for c := range slices.Chunk(slices.Clone(input), chunk) {
				s.take(c)
			}
			s.end()
			s.close()
			return files(t, name)
		}
		// Line by line: a line of its own is never cut by the buffer.
		whole, byByte := logged(len(input)+1), logged(int(cut)+1)
		if !slices.Equal(whole, byByte) {
			t.Fatalf("%q\n%q", whole, byByte)
		}
		want := string(input)
		if want != "" && !strings.HasSuffix(want, "\n") {
			want += "\n"
		}
		if got := strings.Join(whole, ""); got != want {
			t.Fatalf("%q, want %q", got, want)
		}
		for _, file := range whole {
			if size > 0 && len(file) > int(size) {
				t.Fatalf("a file of %d bytes, with s%d", len(file), size)
			}
		}
	})
}

// BenchmarkTake is the cost of stamping and writing 64 KiB of lines of 95 bytes, to memory.
func BenchmarkTake(b *testing.B) {
	name := logDir(b, "s0\n")
	s := &server{stderr: os.Stderr, lineMax: 1000, wd: unix.AT_FDCWD, udp: -1, stamps: 2}
	d := &dir{s: s, name: name, fd: -1, lock: -1, current: -1}
	s.dirs = []*dir{d}
	if !s.reopen() {
		b.Fatal("no directory")
	}
	file, err := unix.FcntlInt(uintptr(d.current), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		_ = unix.Dup3(file, d.current, unix.O_CLOEXEC) // or closing would set the mode of /dev/null
		unix.Close(file)
		s.close()
	}()
	null, err := unix.Open("/dev/null", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	if err := unix.Dup3(null, d.current, unix.O_CLOEXEC); err != nil {
		b.Fatal(err)
	}
	unix.Close(null)
	chunk := bytes.Repeat([]byte(strings.Repeat("x", 94)+"\n"), 689)
	b.SetBytes(int64(len(chunk)))
	b.ReportAllocs()
	for b.Loop() {
		s.take(chunk)
	}
}
