package chpst

import (
	"syscall"

	"github.com/cmgr/cmgr/runners/runit/djb"
)

// aliases are the programs of daemontools. Their options are runit's, which are not always daemontools'.
var aliases = map[string]func(*change, []string) error{
	"envdir": func(c *change, args []string) error {
		if len(args) < 3 {
			return usageError(c.name + " dir child")
		}
		if err := c.envDir(args[1], false, false); err != nil {
			return err
		}
		return c.exec(args[2], args[2:])
	},
	"envuidgid": func(c *change, args []string) error {
		if len(args) < 3 {
			return usageError(c.name + " account child")
		}
		if err := c.envIDs(lookupAccount(args[1])); err != nil {
			return err
		}
		return c.exec(args[2], args[2:])
	},
	"setuidgid": func(c *change, args []string) error {
		if len(args) < 3 {
			return usageError(c.name + " account child")
		}
		if err := setIDs(lookupAccount(args[1])); err != nil {
			return err
		}
		return c.exec(args[2], args[2:])
	},
	"pgrphack": func(c *change, args []string) error {
		if len(args) < 2 {
			return usageError(c.name + " child")
		}
		_, _ = syscall.Setsid() // as with -P
		return c.exec(args[1], args[1:])
	},
	"setlock":   (*change).setlock,
	"softlimit": (*change).softlimit,
}

// setlock has -n and -N the other way round than daemontools': it does not wait unless told by -n. -x makes every failure a quiet
// success.
func (c *change) setlock(args []string) error {
	usage := usageError(c.name + " [ -nNxX ] file program [ arg ... ]")
	var wait, quiet bool
	o := djb.Options{Spec: "nNxX", Name: args[0], Stderr: c.stderr, Words: args[1:]}
	for opt := o.Next(); opt != 0; opt = o.Next() {
		switch opt {
		case 'n', 'N':
			wait = opt == 'n'
		case 'x', 'X':
			quiet = opt == 'x'
		default:
			return usage
		}
	}
	if len(o.Words) < 2 {
		return usage
	}
	err := takeLock(o.Words[0], wait)
	if err == nil {
		err = c.exec(o.Words[1], o.Words[1:])
	}
	if quiet {
		return nil
	}
	return err
}

func (c *change) softlimit(args []string) error {
	usage := usageError(c.name + " [-a allbytes] [-c corebytes] [-d databytes] [-f filebytes] [-l lockbytes] [-m membytes]" +
		" [-o openfiles] [-p processes] [-r residentbytes] [-s stackbytes] [-t cpusecs] child")
	o := djb.Options{Spec: "a:c:d:f:l:m:o:p:r:s:t:", Name: args[0], Stderr: c.stderr, Words: args[1:]}
	for opt := o.Next(); opt != 0; opt = o.Next() {
		if opt == '?' {
			return usage
		}
		n, rest := djb.ScanUint(o.Arg)
		if o.Arg == "=" {
			n, rest = hardLimit, ""
		}
		switch {
		case rest != "":
			return usage
		case opt == 'm':
			c.limits.memory(n)
		default:
			c.limits.set(softlimitLimits[opt], n)
		}
	}
	if len(o.Words) == 0 {
		return usage
	}
	return c.exec(o.Words[0], o.Words)
}
