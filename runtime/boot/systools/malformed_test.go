package systools

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/cmgr/cmgr/runtime/boot/term"
)

// TestMalformed makes scripts of releases that are wrong in one thing. Each is refused with what it is, and where.
func TestMalformed(t *testing.T) {
	const good = `{release,{"r","1"},{erts,"1"},[{a,"1"}]}.`
	app := func(keys string) string { return "{application,a,[" + keys + "]}." }
	keys := []string{`{description,""}`, `{vsn,"1"}`, `{modules,[]}`, `{registered,[]}`, `{applications,[]}`}
	but := func(n int, with string) string { // the good keys, one replaced
		k := append([]string{}, keys...)
		k[n] = with
		return app(strings.TrimSuffix(strings.Join(k, ","), ","))
	}
	and := func(key string) string { return app(strings.Join(keys, ",") + "," + key) }
	for _, c := range []struct{ name, rel, app, term, want string }{
		{"good", good, app(strings.Join(keys, ",")), "", ""},
		// .rel: no term
		{"empty", ``, "", `{read,`, "r.rel"},
		{"not closed", `{release,{"r","1"},{erts,"1"},[{a,"1"}]`, "", `{parse,"r.rel",{1,`, "r.rel:1:"},
		{"no dot", `{release,{"r","1"},{erts,"1"},[{a,"1"}]}`, "", `{parse,`, "r.rel:1:"},
		{"a variable", "\n{release,R}.", "", `{parse,"r.rel",{2,`, "r.rel:2:10: a variable"},
		{"an open string", `{release,{"r`, "", `{read,`, "r.rel:1:"},
		{"a call", `f(1).`, "", `{parse,`, "r.rel:1:"},
		{"no UTF-8", "{release,\"\xff\"}.", "", `{read,`, "r.rel:1:"},
		{"a NUL in a name", "{release,{\"r\",\"1\"},{erts,\"1\"},[{'\x00',\"1\"}]}.", "", `[{error_reading,`, ""},
		{"nested too deep", strings.Repeat("[", 1<<17), "", `{parse,`, "nested more than"},
		{"an external term", "\x83h\x02", "", `{`, "r.rel:1:"},
		// .rel: no release
		{"an atom", `release.`, "", `badly_formatted_release`, "r.rel: not {release,"},
		{"two elements", `{release,{"r","1"}}.`, "", `badly_formatted_release`, "r.rel: not {release,"},
		{"another tag", `{rel,{"r","1"},{erts,"1"},[]}.`, "", `badly_formatted_release`, "r.rel: not {release,"},
		{"no erts", `{release,{"r","1"},{ert,"1"},[]}.`, "", `badly_formatted_release`, "r.rel: not {release,"},
		{"no list", `{release,{"r","1"},{erts,"1"},a}.`, "", `badly_formatted_release`, "r.rel: not {release,"},
		{"no proper list", `{release,{"r","1"},{erts,"1"},[{a,"1"}|b]}.`, "", `badly_formatted_release`, "r.rel: not {release,"},
		{"name", `{release,{r,"1"},{erts,"1"},[]}.`, "", `{illegal_name,r}`, "r.rel: the release's name is no string: r"},
		{"version", `{release,{"r",1},{erts,"1"},[]}.`, "", `{illegal_form,1}`, "r.rel: the release's version is no string: 1"},
		{"erts", `{release,{"r","1"},{erts,1.5},[]}.`, "", `{illegal_form,{erts,1.5}}`, "r.rel: the version of erts is no string: 1.5"},
		{"an application", `{release,{"r","1"},{erts,"1"},[a]}.`, "", `{illegal_applications,[a]}`, "r.rel: not {Application,Vsn}"},
		{"its version", `{release,{"r","1"},{erts,"1"},[{a,1}]}.`, "", `{illegal_applications,[{a,1}]}`, "{a,1}"},
		{"its kind", `{release,{"r","1"},{erts,"1"},[{a,"1",often}]}.`, "", `{illegal_applications,`, "often"},
		{"its includes", `{release,{"r","1"},{erts,"1"},[{a,"1",["b"]}]}.`, "", `{illegal_applications,`, `["b"]`},
		{"too much of it", `{release,{"r","1"},{erts,"1"},[{a,"1",load,[],x}]}.`, "", `{illegal_applications,`, "{a,"},
		// .app
		{"no file", `{release,{"r","1"},{erts,"1"},[{b,"1"}]}.`, "", `[{error_reading,{b,{not_found,"b.app"}}}]`, "b: b.app not found; --path says where to look"},
		{"torn", good, `{application,a,["`, `[{error_reading,{a,{not_found,"a.app"}}}]`, "a.app"},
		{"no term", good, `{application,a,[}.`, `[{error_reading,{a,{parse_error,{"`, "a.app:1:17: "},
		{"no application", good, `{app,a,[]}.`, `[{error_reading,{a,{badly_formatted_application,{app,a,[]}}}}]`, "a.app: not {application,"},
		{"its name is a string", good, `{application,"a",[]}.`, `[{error_reading,{a,{badly_formatted_application,`, "a.app: not {application,"},
		{"keys", good, `{application,a,x}.`, `[{error_reading,{a,{badly_formatted_application,`, "a.app: not {application,"},
		{"another name", good, strings.Replace(app(strings.Join(keys, ",")), "a,", "b,", 1), `[{bad_application_name,{a,{b,"1"}}}]`, "the file is that of b"},
		{"another version", good, but(1, `{vsn,"2"}`), `[{error_reading,{a,{no_valid_version,{{"should be","1"},{"found file",`, "version 1 is wanted, "},
		{"no description", good, app(strings.Join(keys[1:], ",")), `[{error_reading,{a,{{missing_param,description},`, "a.app: description: missing"},
		{"description", good, but(0, `{description,x}`), `[{error_reading,{a,{{bad_param,description},`, "a.app: description: not a string"},
		{"vsn", good, but(1, `{vsn,1}`), `[{error_reading,{a,{{bad_param,vsn},`, "a.app: vsn: not a string"},
		{"modules", good, but(2, `{modules,["m"]}`), `[{error_reading,{a,{{bad_param,modules},`, "a.app: modules: not a list of atoms"},
		{"registered", good, but(3, `{registered,x}`), `[{error_reading,{a,{{bad_param,registered},`, "a.app: registered: not a list of atoms"},
		{"applications", good, but(4, `{applications,[a|b]}`), `[{error_reading,{a,{{bad_param,applications},`, "a.app: applications: not a list of atoms"},
		{"a key alone", good, but(4, `{applications}`), `[{error_reading,{a,{{missing_param,applications},`, "a.app: applications: not {Key,Value}"},
		{"mod", good, and(`{mod,{"m",[]}}`), `[{error_reading,{a,{{missing_param,mod},`, "a.app: mod: not {Module,Argument}"},
		{"start_phases", good, and(`{start_phases,[p]}`), `[{error_reading,{a,{{bad_param,start_phases},`, "start_phases: not a list of {Phase,Argument}"},
		{"env", good, and(`{env,[{k}]}`), `[{error_reading,{a,{{bad_param,env},`, "a.app: env: not a list of {Key,Value}"},
		{"maxT", good, and(`{maxT,0}`), `[{error_reading,{a,{{bad_param,maxT},`, "a.app: maxT: not a number above 0 or infinity"},
		{"maxP", good, and(`{maxP,-99999999999999999999}`), `[{error_reading,{a,{{bad_param,maxP},`, "a.app: maxP: not a number above 0 or infinity"},
		{"includes", good, and(`{included_applications,{}}`), `[{error_reading,{a,{{bad_param,included_applications},`, "included_applications: not a list of atoms"},
		// together
		{"uses what is not listed", good, but(4, `{applications,[b]}`), `{undefined_applications,[b]}`, "b"},
		{"includes what is not listed", good, and(`{included_applications,[b]}`), `{undefined_applications,[b]}`, "b"},
	} {
		dir := t.TempDir()
		t.Chdir(dir)
		for name, text := range map[string]string{"r.rel": c.rel, "a.app": c.app} {
			if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, err := Make("r", Options{Path: []string{dir}, Components: true})
		var f *Failure
		if c.want == "" && c.term == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if !errors.As(err, &f) || !strings.HasPrefix(term.Text(f.Term), c.term) || !strings.Contains(f.What, c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
			if f != nil {
				t.Errorf("%s: the term is %.200s, want %s", c.name, term.Text(f.Term), c.term)
			}
		}
		if made, _ := filepath.Glob("r.*"); len(made) != 1 {
			t.Errorf("%s: made %q", c.name, made)
		}
	}
}

// TestMalformedBoot: a boot file that promises more than it has, or nests without end, costs no more memory than it has bytes, by far.
func TestMalformedBoot(t *testing.T) {
	script := term.Encode(term.Tuple{term.Atom("script"), term.Tuple{term.String("x"), term.String("1")}, list([]term.Atom{"a", "b"})}, false)
	type bad struct {
		name string
		b    []byte
	}
	cases := []bad{
		{"nothing after the version", []byte{131}},
		{"another version", append([]byte{130}, script[1:]...)},
		{"tuple of 4 G", []byte("\x83i\xff\xff\xff\xff")},
		{"list of 4 G", []byte("\x83l\xff\xff\xff\xffa\x01")},
		{"map of 4 G", []byte("\x83t\xff\xff\xff\xff")},
		{"binary of 4 G", []byte("\x83m\xff\xff\xff\xffx")},
		{"big of 4 G", []byte("\x83o\xff\xff\xff\xff\x00\x01")},
		{"string of 64 K", []byte("\x83k\xff\xffx")},
		{"atom of 64 K", []byte("\x83d\xff\xffx")},
		{"compressed to 4 G", []byte("\x83P\xff\xff\xff\xffx")},
		{"a bit string without bits", []byte("\x83M\x00\x00\x00\x01\x00x")},
		{"a pid", []byte("\x83gd\x00\x01n\x00\x00\x00\x01\x00\x00\x00\x00\x00")},
		{"a key twice", []byte("\x83t\x00\x00\x00\x02a\x01a\x01a\x01a\x02")},
		{"infinity", []byte("\x83F\x7f\xf0\x00\x00\x00\x00\x00\x00")},
		{"a million lists", append([]byte{131}, strings.Repeat("l\x00\x00\x00\x01", 1<<20)...)},
		{"a million tuples", append([]byte{131}, strings.Repeat("h\x01", 1<<20)...)},
	}
	for n := 1; n < len(script); n += 3 {
		cases = append(cases, bad{fmt.Sprintf("cut after %d bytes", n), script[:n]})
	}
	for _, c := range cases {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got, err := Read("x.boot", c.b)
		runtime.ReadMemStats(&after)
		if err == nil {
			_, err = Instructions(got)
		}
		if err == nil || !strings.Contains(err.Error(), ":") {
			t.Errorf("%s: %v", c.name, err)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 64<<20 {
			t.Errorf("%s: %d bytes were allocated for %d", c.name, used, len(c.b))
		}
	}
}

// FuzzRelease reads .rel and .app files. The law: what is accepted is the same when it is printed and read again.
func FuzzRelease(f *testing.F) {
	f.Add([]byte(`{release,{"r","1"},{erts,"1"},[{a,"1"},{b,"2",load},{c,"3",[d]},{d,"4",none,[]}]}.`), []byte(
		`{application,a,[{description,""},{vsn,"1"},{modules,[m]},{registered,[]},{applications,[b]},{mod,{m,[]}},{env,[{k,v}]},{maxT,5}]}.`))
	f.Add([]byte(`{release,{r,1},{erts,[]},[{a,"1",often}]}.`), []byte(`{application,a,[{vsn}]}.`))
	f.Fuzz(func(t *testing.T, rel, app []byte) {
		if r, err := term.Parse("r.rel", rel); err == nil {
			one, err := checkRelease("r.rel", r)
			again, perr := term.Parse("r.rel", []byte(term.Text(r)+"."))
			if perr != nil {
				t.Fatal(perr)
			}
			two, err2 := checkRelease("r.rel", again)
			if fmt.Sprint(err) != fmt.Sprint(err2) || !reflect.DeepEqual(one, two) {
				t.Errorf("%s: %v, %v, then %v, %v", term.Text(r), one, err, two, err2)
			}
		}
		a, err := term.Parse("a.app", app)
		if err != nil {
			return
		}
		one, wrong := (&listed{name: "a", kind: "permanent"}).parse(a, "a.app")
		if wrong != nil {
			if wrong.What == "" || wrong.Term == nil {
				t.Errorf("%s: an empty complaint", term.Text(a))
			}
			return
		}
		two, wrong := (&listed{name: "a", kind: "permanent"}).parse(one.term(), "a.app") // as the script has it
		if wrong != nil || term.Compare(one.term(), two.term()) != 0 {
			t.Errorf("%s\n%s\n%v", term.Text(one.term()), term.Text(two.term()), wrong)
		}
	})
}
