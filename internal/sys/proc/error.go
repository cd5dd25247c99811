package proc

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Kind is a class of reasons why a process was not started.
type Kind uint8

const (
	Other         Kind = iota // a fault of the system
	Invalid                   // the Spec is wrong in itself
	NotFound                  // the program, its directory or its interpreter isn't there
	NotExecutable             // it is there but may not be executed
	WrongFormat               // it is no program of this machine
	TooBig                    // arguments and environment exceed the system's limit
	Denied                    // this process may not do that (become another user, raise a limit)
	Exhausted                 // no memory, processes or descriptors are left
)

// An Error is why a process was not started.
type Error struct {
	Kind   Kind
	Op     string // "exec", "chdir", "setrlimit", …
	Path   string // what the operation was about
	Reason string // in words; "": Err says it
	Err    error  // what the system said; nil where it wasn't asked
}

func (e *Error) Error() string {
	if e.Reason != "" {
		return e.Op + " " + e.Path + ": " + e.Reason
	}
	return e.Op + " " + e.Path + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

func kindOf(err error) Kind {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return NotFound
	case errors.Is(err, unix.E2BIG):
		return TooBig
	case errors.Is(err, fs.ErrPermission):
		return Denied
	case errors.Is(err, unix.ENOEXEC), errors.Is(err, unix.ELIBBAD):
		return WrongFormat
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOMEM), errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return Exhausted
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, unix.EINVAL):
		return Invalid
	}
	return Other
}

// explain makes an *Error of what ForkExec said about s: execve(2)'s few codes mean many things, so it looks at the file.
func (s *Spec) explain(err error) error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	e := &Error{Kind: kindOf(err), Op: "exec", Path: s.Path, Err: err}
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EACCES), errors.Is(err, unix.ENOEXEC),
		errors.Is(err, unix.ELIBBAD):
		path := s.Path
		if s.DirFD != 0 && !strings.HasPrefix(path, "/") {
			path = fmt.Sprintf("/proc/self/fd/%d/%s", s.DirFD, path)
		}
		e.Reason = whyNotExec(path, err)
		if e.Kind == Denied {
			e.Kind = NotExecutable
			if s.Credential != nil {
				e.Reason += fmt.Sprintf(" (as user %d)", s.Credential.Uid)
			}
		}
	case s.Cgroup != "" && (errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EOPNOTSUPP)):
		e.Op, e.Path = "enter cgroup", s.Cgroup // clone(2), CLONE_INTO_CGROUP
	case errors.Is(err, unix.EPERM) && s.Credential != nil:
		e.Reason = fmt.Sprintf("may not become user %d, group %d", s.Credential.Uid, s.Credential.Gid)
	case errors.Is(err, unix.E2BIG):
		n := 0
		for _, a := range append(s.argv(), s.Env...) {
			n += len(a) + 1
		}
		e.Reason = fmt.Sprintf("arguments and environment are too big (%d bytes)", n)
	case errors.Is(err, unix.EAGAIN):
		e.Reason = "no more processes: a limit on processes of the user, the cgroup or the system is reached"
	case errors.Is(err, unix.ETXTBSY):
		e.Reason = "the file is open for writing"
	}
	return e
}

// whyNotExec says why path could not be executed, given what execve said.
func whyNotExec(path string, err error) string {
	info, serr := os.Stat(path)
	switch {
	case errors.Is(serr, fs.ErrNotExist):
		if target, err := os.Readlink(path); err == nil {
			return "is a symbolic link to " + target + ", which does not exist"
		}
		return "no such file"
	case serr != nil:
		return errors.Unwrap(serr).Error()
	case info.IsDir():
		return "is a directory"
	case !info.Mode().IsRegular():
		return "is not a regular file"
	case info.Mode().Perm()&0o111 == 0:
		return fmt.Sprintf("not executable (mode %04o)", info.Mode().Perm())
	}
	f, oerr := os.Open(path)
	if oerr != nil {
		return err.Error()
	}
	defer f.Close()
	head := make([]byte, 256) // as much as the kernel looks at (BINPRM_BUF_SIZE)
	n, _ := io.ReadFull(f, head)
	head = head[:n]
	switch {
	case n == 0:
		return "is empty"
	case bytes.HasPrefix(head, []byte("#!")):
		return whyNotScript(head, err)
	case bytes.HasPrefix(head, []byte(elf.ELFMAG)):
		return whyNotELF(f, head, err)
	case errors.Is(err, unix.ENOEXEC):
		return "neither an ELF program nor a script that begins with #!"
	}
	var st unix.Statfs_t
	if errors.Is(err, unix.EACCES) && unix.Statfs(path, &st) == nil && st.Flags&unix.ST_NOEXEC != 0 {
		return "is on a file system mounted noexec"
	}
	return err.Error()
}

func whyNotScript(head []byte, err error) string {
	line, _, _ := bytes.Cut(head[2:], []byte("\n"))
	fields := strings.Fields(string(line))
	if len(fields) == 0 {
		return "the line #! names no interpreter"
	}
	interpreter := fields[0]
	if strings.HasSuffix(string(line), "\r") {
		return fmt.Sprintf("no such interpreter %q: its first line ends with a carriage return", strings.TrimSpace(string(line))+"\r")
	}
	if _, serr := os.Stat(interpreter); serr != nil {
		return "no such interpreter " + interpreter
	}
	return "interpreter " + interpreter + ": " + err.Error()
}

// machines are the names that uname(2) has for what this program may run on.
var machines = map[string]elf.Machine{
	"386": elf.EM_386, "amd64": elf.EM_X86_64, "arm": elf.EM_ARM, "arm64": elf.EM_AARCH64, "loong64": elf.EM_LOONGARCH,
	"mips": elf.EM_MIPS, "mipsle": elf.EM_MIPS, "mips64": elf.EM_MIPS, "mips64le": elf.EM_MIPS, "ppc64": elf.EM_PPC64,
	"ppc64le": elf.EM_PPC64, "riscv64": elf.EM_RISCV, "s390x": elf.EM_S390,
}

func machineName(m elf.Machine) string { return strings.ToLower(strings.TrimPrefix(m.String(), "EM_")) }

func whyNotELF(f *os.File, head []byte, err error) string {
	if len(head) < 20 {
		return "is a damaged ELF file"
	}
	var order binary.ByteOrder = binary.LittleEndian
	if head[elf.EI_DATA] == byte(elf.ELFDATA2MSB) {
		order = binary.BigEndian
	}
	if m, here := elf.Machine(order.Uint16(head[18:])), machines[runtime.GOARCH]; m != here {
		return fmt.Sprintf("built for %s, this machine is %s", machineName(m), machineName(here))
	}
	if t := elf.Type(order.Uint16(head[16:])); t != elf.ET_EXEC && t != elf.ET_DYN {
		return "is an ELF file but no program (" + t.String() + ")"
	}
	file, perr := elf.NewFile(f)
	if perr != nil {
		return "is a damaged ELF file"
	}
	defer file.Close()
	for _, p := range file.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		name, _ := io.ReadAll(io.LimitReader(p.Open(), unix.PathMax))
		interpreter := string(bytes.TrimRight(name, "\x00"))
		if _, serr := os.Stat(interpreter); serr != nil {
			return "no such interpreter " + interpreter + " (the dynamic loader that the program names)"
		}
		if errors.Is(err, unix.ELIBBAD) || errors.Is(err, unix.ENOEXEC) {
			return "its interpreter " + interpreter + " is no program of this machine"
		}
	}
	if errors.Is(err, unix.ENOEXEC) {
		return "is a damaged ELF file"
	}
	return err.Error()
}

// errnoOf is the number in err, for the wire of the shim.
func errnoOf(err error) syscall.Errno {
	if n, ok := errors.AsType[syscall.Errno](err); ok {
		return n
	}
	return unix.EIO
}
