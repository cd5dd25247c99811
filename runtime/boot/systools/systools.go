// Package systools reads and checks Erlang's boot scripts, and makes boot files of them, as OTP's systools and init do (erlang.md
// c and d).
package systools

import (
	"errors"
	"fmt"

	"github.com/cmgr/cmgr/runtime/boot/term"
)

// Read is the term of the file with the text b: an external term, as in a .boot file, if it begins as one, else source.
func Read(file string, b []byte) (term.Term, error) {
	if len(b) == 0 || b[0] != 131 {
		return term.Parse(file, b)
	}
	t, err := term.Decode(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return t, nil
}

// ErrFormat is what init says of a term that is no script.
var ErrFormat = errors.New("bootfile format error: a script is {script,Id,[Instruction…]}")

// Instructions are those of the script t, {script,Id,List}.
func Instructions(t term.Term) (term.List, error) {
	if s, ok := t.(term.Tuple); ok && len(s) == 3 && s[0] == term.Atom("script") {
		if l, ok := s[2].(term.List); ok {
			return l, nil
		}
	}
	return term.List{}, ErrFormat
}

// Check returns all that init would stop at in the script t, and what it would stop at if it came to it: modules are looked at in
// every primLoad. Whether modules and functions exist is not known here.
func Check(t term.Term) []error {
	l, err := Instructions(t)
	switch {
	case err != nil:
		return []error{err}
	case l.Elems == nil:
		return []error{errors.New("a script without instructions")}
	}
	var found []error
	for i, e := range l.Elems {
		if err := instruction(e); err != nil {
			found = append(found, fmt.Errorf("instruction %d, %s: %w", i+1, short(e), err))
		}
	}
	if l.Tail != nil {
		found = append(found, fmt.Errorf("the instructions end in %s, not as a list", short(l.Tail)))
	}
	return found
}

// short is the beginning of a term's text.
func short(t term.Term) string {
	if r := []rune(term.Text(t)); len(r) > 60 {
		return string(r[:60]) + "…"
	}
	return term.Text(t)
}

var errUnexpected = errors.New("unexpected command in bootfile")

func instruction(t term.Term) error {
	i, ok := t.(term.Tuple)
	if !ok || len(i) == 0 {
		return errUnexpected
	}
	name, _ := i[0].(term.Atom)
	arity, ok := map[term.Atom]int{
		"preLoaded": 2, "progress": 2, "path": 2, "primLoad": 2, "kernel_load_completed": 1, "kernelProcess": 3, "apply": 2,
	}[name]
	if !ok || arity != len(i) {
		return errUnexpected
	}
	switch name {
	case "path":
		dirs, ok := term.Proper(i[1])
		for _, d := range dirs {
			_, isAtom := d.(term.Atom)
			_, isString := term.IsString(d)
			ok = ok && (isAtom || isString)
		}
		if !ok {
			return errors.New("the path is not a list of directories")
		}
	case "primLoad":
		return modules(i[1])
	case "kernelProcess", "apply":
		mfa, ok := i[len(i)-1].(term.Tuple)
		if !ok || len(mfa) != 3 {
			return errUnexpected
		}
		_, ok1 := mfa[0].(term.Atom)
		_, ok2 := mfa[1].(term.Atom)
		if _, ok := term.Proper(mfa[2]); !ok || !ok1 || !ok2 {
			return errors.New("what is to be called is not {Module,Function,[Argument…]}")
		}
	}
	return nil
}

func modules(t term.Term) error {
	mods, ok := term.Proper(t)
	if !ok {
		return errUnexpected
	}
	seen := map[term.Atom]bool{}
	for _, m := range mods {
		a, ok := m.(term.Atom)
		if !ok {
			return fmt.Errorf("%s is not the name of a module", short(m))
		}
		if seen[a] {
			return fmt.Errorf("module %s twice in one list", short(m))
		}
		seen[a] = true
	}
	return nil
}
