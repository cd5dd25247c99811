// Package ignored finds out which signals this process was started with as ignored. A program that only prepares the ground for
// another, as chpst does, must leave them ignored (nohup and many shells count on it), but Go's runtime replaces all but SIGHUP
// and SIGINT by handlers of its own before the first line of ours, and tells nobody what was there.
package ignored

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

// Restore has the kernel ignore again what was ignored when the process started, for a program that is about to be executed in its
// place: Go's runtime is not told (it would not have SIGPROF ignored). Whatever else it caught goes back to the default by execve(2).
func Restore() {
	for _, s := range signals() {
		setAction(s, sigIgn)
	}
}

// signals are those that were ignored at the start. If Go's runtime should ever keep its notes in another way they are only those of
// which it still tells (SIGHUP, SIGINT and the kernel's own).
//
// The runtime notes the handler that it found when it takes a signal over, at the start or for signal.Notify, in a table by
// number. So a signal that nobody uses is given a handler that is like no other value, then taken over; where that value turns
// up in the program's own memory is the table, with what was found at the start for all others.
func signals() (all []syscall.Signal) {
	table := foundHandlers()
	for s := syscall.Signal(1); s < numSignals; s++ {
		if now := action(s); now == sigIgn || table != nil && table[s] == sigIgn {
			all = append(all, s)
		}
	}
	return all
}

const (
	numSignals = 65
	sigIgn     = 1
	spare      = syscall.Signal(64)             // SIGRTMAX
	mark       = uintptr(0x0c3a_71e5)<<8 | 0x5b // no address of code or data
)

// action is the handler of s as the kernel has it now.
func action(s syscall.Signal) uintptr {
	// struct sigaction of rt_sigaction(2): the handler comes first, then 8 words at most. The mask has 8 bytes.
	var old [8]uintptr
	syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(s), 0, uintptr(unsafe.Pointer(&old)), 8, 0, 0)
	return old[0]
}

func setAction(s syscall.Signal, handler uintptr) {
	act := [8]uintptr{handler}
	syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&act)), 0, 8, 0, 0)
}

// foundHandlers is the runtime's table; nil if it is not found.
func foundHandlers() []uintptr {
	before := action(spare)
	signal.Ignore(spare) // the runtime takes a signal over, and notes, only if it is not its own
	setAction(spare, mark)
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, spare)
	defer func() { signal.Stop(ch); setAction(spare, before) }()

	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return nil
	}
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		return nil
	}
	defer mem.Close()
	const word = int(unsafe.Sizeof(mark))
	pattern := make([]byte, word)
	putWord(pattern, mark)
	var table []uintptr
	for _, r := range data(string(maps)) {
		b := make([]byte, r.end-r.start)
		if _, err := mem.ReadAt(b, int64(r.start)); err != nil {
			return nil
		}
		for at := 0; ; at += word {
			i := bytes.Index(b[at:], pattern)
			if i < 0 {
				break
			}
			at += i
			first := at - int(spare)*word
			if at%word != 0 || first < 0 {
				continue
			}
			if table != nil {
				return nil // two candidates are none
			}
			table = make([]uintptr, numSignals)
			for s := range table {
				table[s] = getWord(b[first+s*word:])
			}
		}
	}
	return table
}

type span struct{ start, end uintptr }

// data is where this program's variables are, from the text of /proc/PID/maps (proc(5)): what is mapped writable from its file,
// and the nameless memory that follows on that (what has no initial value).
func data(maps string) (spans []span) {
	var file string // the program's, which is mapped first
	for line := range strings.Lines(maps) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		var name string
		if len(f) > 5 {
			name = f[5]
		}
		if file == "" {
			file = name
		}
		lo, hi, _ := strings.Cut(f[0], "-")
		start, err1 := strconv.ParseUint(lo, 16, 64)
		end, err2 := strconv.ParseUint(hi, 16, 64)
		if err1 != nil || err2 != nil || !strings.HasPrefix(f[1], "rw") {
			continue
		}
		follows := len(spans) > 0 && spans[len(spans)-1].end == uintptr(start)
		if name == file || name == "" && follows {
			if follows {
				spans[len(spans)-1].end = uintptr(end)
			} else {
				spans = append(spans, span{uintptr(start), uintptr(end)})
			}
		}
	}
	return spans
}

func putWord(b []byte, w uintptr) {
	if len(b) == 8 {
		binary.NativeEndian.PutUint64(b, uint64(w))
	} else {
		binary.NativeEndian.PutUint32(b, uint32(w))
	}
}

func getWord(b []byte) uintptr {
	if unsafe.Sizeof(mark) == 8 {
		return uintptr(binary.NativeEndian.Uint64(b))
	}
	return uintptr(binary.NativeEndian.Uint32(b))
}
