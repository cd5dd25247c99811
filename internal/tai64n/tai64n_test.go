package tai64n

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/cmgr/cmgr/internal/needs"
)

func TestLabels(t *testing.T) {
	for label, want := range map[string]time.Time{
		"@400000000000000a00000000":  time.Unix(0, 0),
		"@400000006b00bf2e0216b0dc":  time.Unix(0x6b00bf2e-10, 0x0216b0dc),
		"@4000000000000009ffffffff":  {}, // nanoseconds
		"@40000000000000093b9ac9ff":  time.Unix(-1, 999999999),
		"@40000000000000093b9aca00":  {},
		"@800000000000000000000000":  {},
		"@400000006B00bf2e0216b0dc":  {},
		"@400000006b00bf2e0216b0d":   {},
		"@400000006b00bf2e0216b0dcc": {},
		"4400000006b00bf2e0216b0dc":  {},
		"":                           {},
	} {
		got, err := Parse(label)
		switch {
		case want.IsZero() && err == nil:
			t.Errorf("Parse(%q) = %v, want an error", label, got)
		case !want.IsZero() && (err != nil || !got.Equal(want)):
			t.Errorf("Parse(%q) = %v, %v, want %v", label, got, err, want)
		case !want.IsZero() && Format(want) != label:
			t.Errorf("Format(%v) = %s, want %s", want, Format(want), label)
		}
	}
}

// The original decides what a label means.
func TestAgreesWithSvlogd(t *testing.T) {
	svlogd := needs.Tool(t, "svlogd")
	dir := t.TempDir()
	before := time.Now()
	cmd := exec.Command(svlogd, "-v", "-t", dir)
	cmd.Stdin = strings.NewReader("x\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	after := time.Now()
	out, err := exec.Command("head", "-c", "25", dir+"/current").Output()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(string(out))
	if err != nil || got.Before(before) || got.After(after) {
		t.Errorf("svlogd wrote %q = %v (%v) between %v and %v", out, got, err, before, after)
	}
}

// FuzzParse: what Parse takes, Append writes again; and in order of time labels are in order of text.
func FuzzParse(f *testing.F) {
	f.Add("@400000006b00bf2e0216b0dc", "@400000006b00bf2e0216b0dd")
	f.Add("@7fffffffffffffff3b9ac9ff", "@000000000000000000000000")
	f.Fuzz(func(t *testing.T, a, b string) {
		ta, err := Parse(a)
		if err != nil {
			return
		}
		if got := Format(ta); got != a {
			t.Fatalf("Format(Parse(%q)) = %q", a, got)
		}
		if got := Unpack(Pack(ta)); !got.Equal(ta) {
			t.Fatalf("Unpack(Pack(%v)) = %v", ta, got)
		}
		tb, err := Parse(b)
		if err == nil && ta.Before(tb) != (a < b) {
			t.Fatalf("%q and %q: %v, as times %v", a, b, a < b, ta.Before(tb))
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	now := time.Now()
	var buf []byte
	for b.Loop() {
		buf = Append(buf[:0], now)
	}
}
