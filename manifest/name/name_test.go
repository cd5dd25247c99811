package name

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cmgr/cmgr/internal/needs"
)

func TestGrammars(t *testing.T) {
	long := func(n int) string { return strings.Repeat("a", n) }
	deep := func(n int) string { return strings.Repeat("/a", n/2) } // n bytes
	tests := []struct {
		name  string
		check func(string) error
		good  []string
		bad   []string
		long  []string // wrong by their length
	}{
		{
			"Check", Check,
			[]string{"a", "A", "7", "_", "a.b-c_d", "fuchsia.logger.Log", long(255)},
			[]string{"-", ".", "..", ".a", "-a", "a/b", "/bad", "#elf", "a b", "é", "a\x00", "a:b"},
			[]string{"", long(256)},
		},
		{"CheckLong", CheckLong, []string{"a", long(1024)}, []string{"-a", "a:b"}, []string{"", long(1025)}},
		{
			"CheckPath", CheckPath,
			[]string{"/a", "/foo/bar", "/svc/fuchsia.logger.Log", deep(4094), "/" + long(255)},
			[]string{"/", "foo/bar", "/foo/bar/", "/foo/../bar", "/foo/./bar", "//a", ".", "/a/\x00", "/" + long(256)},
			[]string{"", deep(4096)},
		},
		{"CheckNamespacePath", CheckNamespacePath, []string{"/", "/a/b"}, []string{"a", "//", "/a/"}, []string{""}},
		{
			"CheckRelativePath", CheckRelativePath,
			[]string{".", "a", "a/b", deep(4094)[1:]},
			[]string{"/", "/bar", "bar/", "..", "./a", "a/.", "a//b"},
			[]string{"", deep(4098)[1:]},
		},
		{
			"CheckScheme", CheckScheme,
			[]string{"a", "fuchsia-pkg", "my+awesome-scheme.2", long(255)},
			[]string{"9scheme", "A", "aB", "a_b", "a:", "-a"},
			[]string{"", long(256)},
		},
		{
			"CheckConfigKey", CheckConfigKey,
			[]string{"a", "a_b", "a1", long(64)},
			[]string{"8abcd", "abcd_", "ABCD", "!@#$", "abcd-efgh", "_a", "aB"},
			[]string{"", long(65), long(74)},
		},
		{
			"CheckReference", CheckReference,
			[]string{"#a", "#some-child", "#7", "#_", "#" + long(255)},
			[]string{"#", "#-", "#.", "some-child", "#invalid-child^", "##a", "#a/b"},
			[]string{"", "#" + long(256)},
		},
		{
			"CheckURL", CheckURL,
			[]string{
				"fuchsia-pkg://fuchsia.com/logger/stable#meta/logger.cm", "my+awesome-scheme.2://abc123!@$%.com", "a://foo", "a:///foo/bar",
				"a:b", "a:#x", "a://#x", "FILE:///x", "file:///srv/tree/net.cm", "file://host/x", "file:/x", "http://h:80/x",
				"http://[::1]:80/",
				"https://user@h", "http:\\\\h\\x", "#meta/x.cm", "#x", "net#meta/x.cm", "net?q#meta/x.cm", "/abs#meta/x.cm",
				"echo.cml", "net/echo.cm", "../shared/log.cml", "./a.cml", "a b.cml", "a://" + long(4096-4),
			},
			[]string{
				"fuchsia-pkg", "my+awesome-scheme.2://abc123!@#$%.com", "a:", "a://", "a://?q", "#", "net#", "//host#x", "/abs/x.cml",
				"net//x.cml",
				"x.cml/", ".cml", "net/.cm", "x.cml?q", "http://", "http:///", "http://h:99999/", "http://h:x/", "http://a b/", "http://%41/",
				"a://[::1", "a://[x]/", "a://:80/", "a://x@/", "file://h:1/", " a://b", "a://b ", "a\n.cml", "echo", "echo.txt", "a\\b.cml",
			},
			[]string{"", "a://" + long(4096)},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, s := range test.good {
				if err := test.check(s); err != nil {
					t.Errorf("%.60q: %v", s, err)
				}
			}
			for i, s := range append(test.bad, test.long...) {
				var e *Error
				if err := test.check(s); !errors.As(err, &e) {
					t.Errorf("%.60q: accepted, or not an *Error: %v", s, err)
				} else if e.Length != (i >= len(test.bad)) || e.Value != s || e.Want == "" {
					t.Errorf("%.60q: wrong reason: %v", s, err)
				}
			}
		})
	}
}

func TestErrorWords(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{Check("#elf"), `invalid value: string "#elf", expected a name that consists of [A-Za-z0-9_.-] and starts with [A-Za-z0-9_]`},
		{Check(strings.Repeat("a", 256)), `invalid length 256, expected a non-empty name no more than 255 characters in length`},
		{CheckPath(""), `invalid length 0, expected a non-empty path no more than fuchsia.io/MAX_PATH_LENGTH bytes in length`},
		{CheckRelativePath("/"), "invalid value: string \"/\", expected a path with no leading `/` and non-empty segments"},
		{CheckURL("fuchsia-pkg"), `invalid value: string "fuchsia-pkg", expected a valid URL`},
		{CheckScheme("9scheme"), `invalid value: string "9scheme", expected a valid URL scheme`},
		{CheckConfigKey(strings.Repeat("a", 74)), `invalid length 74, expected a non-empty name no more than 64 characters in length`},
	} {
		if test.err == nil || test.err.Error() != test.want {
			t.Errorf("got %v\nwant %s", test.err, test.want)
		}
	}
}

func TestScheme(t *testing.T) {
	for url, want := range map[string]string{
		"file:///x": "file", "FILE:/x": "file", "#a:b": "", "echo.cml": "", "a/b:c": "", "x+y.2://h": "x+y.2", ":x": "", "9a:b": "",
	} {
		if got := Scheme(url); got != want {
			t.Errorf("Scheme(%q) = %q, want %q", url, got, want)
		}
	}
}

func TestNearest(t *testing.T) {
	keys := []string{
		"program", "children", "collections", "environments", "capabilities", "use", "offer", "expose", "facets",
		"config", "include",
	}
	for word, want := range map[string]string{
		"progam": "program", "progarm": "program", "childs": "children", "child": "children", "uses": "use", "Offer": "offer",
		"ofer": "offer",
		"zzz":  "", "": "", "x": "", "capability": "capabilities", "environment": "environments", "exposes": "expose",
		strings.Repeat("program", 1000): "",
	} {
		if got := Nearest(word, keys); got != want {
			t.Errorf("Nearest(%.20q) = %q, want %q", word, got, want)
		}
	}
	if got := Nearest("abcd", []string{"abce", "abcf"}); got != "abce" {
		t.Errorf("of two equally near: %q", got)
	}
	if got := Nearest("a", nil); got != "" {
		t.Errorf("without candidates: %q", got)
	}
}

func TestDistance(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"kitten", "sitting", 3}, {"ab", "ba", 1}, {"abcd", "acbd", 1}, {"ca", "abc", 3},
	} {
		if got := distance(test.a, test.b); got != test.want {
			t.Errorf("distance(%q, %q) = %d, want %d", test.a, test.b, got, test.want)
		}
	}
}

func TestMoniker(t *testing.T) {
	for in, want := range map[string]Moniker{
		"/": Root, ".": Root, "./": Root, "./a/b": "/a/b", "/a": "/a", "/core/jobs:import-7": "/core/jobs:import-7",
		"/c:" + Moniker(strings.Repeat("a", 1024)).String(): "/c:" + Moniker(strings.Repeat("a", 1024)),
	} {
		if m, err := ParseMoniker(in); err != nil || m != want {
			t.Errorf("ParseMoniker(%.40q) = %.40q, %v", in, m, err)
		}
	}
	for _, in := range []string{
		"", "a", "//", "/a/", "/a//b", "/..", "../a", "/a:", "/:a", "/a:b:c", "./.", "/a b",
		"/" + strings.Repeat("a", 256),
	} {
		if m, err := ParseMoniker(in); err == nil {
			t.Errorf("ParseMoniker(%q) = %q", in, m)
		}
	}
	m := Moniker("/core/jobs:x")
	if m.Base() != "jobs:x" || m.Collection() != "jobs" || Moniker("/core").Collection() != "" || Root.Base() != "" {
		t.Error("Base or Collection")
	}
	if !Root.Contains(m) || !Moniker("/core").Contains(m) || !m.Contains(m) || Moniker("/cor").Contains(m) || m.Contains("/core") {
		t.Error("Contains")
	}
}

func TestPatternVectors(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(needs.Shared(t), "vectors/cml/allowlist_patterns.json"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct{ Name, Pattern, Moniker, Want string }
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	if len(cases) != 28 {
		t.Errorf("%d cases, want 28", len(cases))
	}
	for _, c := range cases {
		p, err := ParsePattern(c.Pattern)
		got := "no_match"
		switch {
		case err != nil:
			got = "error"
		case p.Match(Moniker(c.Moniker)):
			got = "match"
		}
		if got != c.Want {
			t.Errorf("%s: %s, want %s (%v)", c.Name, got, c.Want, err)
		}
	}
}

func TestPattern(t *testing.T) {
	for _, s := range []string{
		"", "a", "**", "/a/", "//", "/**/b", "/c:**/b", "/a*", "/c:a*", "/:*", "/*:a", "/***", "/..",
		"/a:b:*",
	} {
		if _, err := ParsePattern(s); err == nil {
			t.Errorf("ParsePattern(%q) accepted", s)
		}
	}
	for _, test := range []struct {
		pattern, moniker string
		want             bool
	}{
		{"/", "/", true},
		{"/", "/a", false},
		{"/*", "/", false},
		{"/*", "/a", true},
		{"/*", "/c:x", true},
		{"/**", "/a/b/c", true},
		{"/a/*/c", "/a/x:y/c", true},
		{"/a/*/c", "/a/b", false},
		{"/c:*/d", "/c:x/d", true},
		{"/c:*/d", "/c/d", false},
		{"/c:*", "/cc:x", false},
		{"/c:**", "/c", false},
		{"/c:**", "/c:x/d", true},
		{"/a/**", "/ab", false},
	} {
		p, err := ParsePattern(test.pattern)
		if err != nil || p.String() != test.pattern {
			t.Fatalf("ParsePattern(%q) = %q, %v", test.pattern, p, err)
		}
		if got := p.Match(Moniker(test.moniker)); got != test.want {
			t.Errorf("%s against %s: %v", test.pattern, test.moniker, got)
		}
	}
	if (Pattern{}).Match(Root) {
		t.Error("the zero Pattern matches")
	}
}

// FuzzParse: what the grammars accept hangs together.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"/", ".", "./a", "/a/c:b", "/a/*", "/c:**", "a/b", "#a", "file:///x#y", "../x.cml",
		"http://[::1]:80", "//a#b",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if m, err := ParseMoniker(s); err == nil {
			if again, err := ParseMoniker(m.String()); err != nil || again != m {
				t.Fatalf("moniker %q reads as %q, %v", m, again, err)
			}
			built := Root
			for _, seg := range m.Segments() {
				child := built.Child(seg)
				if parent, ok := child.Parent(); !ok || parent != built || child.Base() != seg {
					t.Fatalf("%q below %q: parent %q, base %q", seg, built, parent, child.Base())
				}
				if !built.Contains(child) || child.Contains(built) {
					t.Fatalf("%q and its child %q: which contains which?", built, child)
				}
				built = child
			}
			if built != m {
				t.Fatalf("%q built from its segments is %q", m, built)
			}
			if p, err := ParsePattern(m.String()); err != nil || !p.Match(m) {
				t.Fatalf("a moniker as pattern does not match itself: %q, %v", m, err)
			}
		}
		if p, err := ParsePattern(s); err == nil {
			if again, err := ParsePattern(p.String()); err != nil || again.String() != s {
				t.Fatalf("pattern %q reads as %q, %v", s, again, err)
			}
			// A wildcard stands for any child, so the pattern with its wildcards filled matches.
			filled := strings.NewReplacer("**", "x", "*", "x").Replace(s)
			m, err := ParseMoniker(filled)
			if err != nil || !p.Match(m) {
				t.Fatalf("pattern %q does not match %q (%v)", s, filled, err)
			}
		}
		if Check(s) == nil {
			if err := errors.Join(CheckLong(s), CheckRelativePath(s), CheckPath("/"+s), CheckReference("#"+s)); err != nil {
				t.Fatalf("%q is a Name, but: %v", s, err)
			}
		}
		if CheckPath(s) == nil && (CheckRelativePath(s[1:]) != nil || CheckNamespacePath(s) != nil) {
			t.Fatalf("%q is a Path, but no relative one without its slash", s)
		}
		if IsManifestPath(s) && strings.TrimSpace(s) == s && CheckURL(s) == nil && Scheme(s) != "" {
			t.Fatalf("%q is both relative and absolute", s)
		}
		if got := Nearest(s, []string{"zzzzzz", s}); s != "" && len(s) <= 256 && got != s && !strings.EqualFold(got, s) {
			t.Fatalf("nearest to %q itself is %q", s, got)
		}
	})
}
