package heart

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// patience is how long a process that was killed may take to be gone before the command is run all the same.
const patience = 5 * time.Second

// Main is the watchdog: heart [-pid PID] [-ht SECONDS]. What it does not know it passes over, as Erlang's does.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	say := func(format string, a ...any) { fmt.Fprintf(stderr, "heart: "+format+"\n", a...) }
	// A pipe whose other side is gone must not end the watchdog. Caught, not ignored: the command would inherit that.
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, syscall.SIGPIPE)
	defer signal.Stop(broken)
	timeout, pid := DefaultTimeout, 0
	for i := 1; i+1 < len(args); i++ {
		n, err := strconv.Atoi(args[i+1])
		switch {
		case args[i] == "-ht" && (err != nil || n < 1 || n > MaxTimeout), args[i] == "-pid" && (err != nil || n < 2):
			say("%s %s: not a number that it can be", args[i], args[i+1])
			return 100
		case args[i] == "-ht":
			timeout = n
		case args[i] == "-pid":
			pid = n
		}
	}
	var watched *os.Process // by a pidfd: what gets its number later is not it
	if pid != 0 {
		watched, _ = os.FindProcess(pid)
	}
	_ = send(stdout, startAck, "") // if nobody is there any more, that is an end, too
	command, shut := watch(stdin, stdout, time.Duration(timeout)*time.Second, say)
	if shut {
		return 0
	}
	kill(watched, say)
	if command == "" {
		say("would run a command now, but none is set (%s)", commandEnv)
		return 0
	}
	say("running %s", command)
	return run(command, say)
}

// watch answers what the watched process says, until it has shut down, or is gone, or too long without a beat.
func watch(in io.Reader, out io.Writer, timeout time.Duration, say func(string, ...any)) (command string, shut bool) {
	type message struct {
		op       byte
		contents string
		err      error
	}
	// The reader ends with the watched process, or with this one.
	messages := make(chan message)
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			var m message
			m.op, m.contents, m.err = receive(in)
			select {
			case messages <- m:
			case <-done:
				return
			}
			if m.err != nil {
				return
			}
		}
	}()
	env := os.Getenv(commandEnv)
	command = env
	late := time.NewTimer(timeout)
	defer late.Stop()
	for {
		select {
		case <-late.C:
			say("no beat for %v", timeout)
			return command, false
		case m := <-messages:
			if m.err != nil {
				if errors.Is(m.err, io.EOF) {
					say("the watched process has ended")
				} else {
					say("read: %v", m.err)
				}
				return command, false
			}
			var err error
			switch m.op {
			case heartBeat, preparingCrash:
				late.Reset(timeout)
			case shutDown:
				return "", true
			case setCmd:
				command = m.contents
				err = send(out, startAck, "")
			case clearCmd:
				command = env
				err = send(out, startAck, "")
			case getCmd:
				err = send(out, heartCmd, command)
			}
			if err != nil {
				say("%v", err)
				return command, false
			}
		}
	}
}

// kill kills p, and waits until it is gone.
func kill(p *os.Process, say func(string, ...any)) {
	if p == nil || os.Getenv(noKillEnv) == "TRUE" {
		return
	}
	sig := os.Signal(syscall.SIGKILL)
	if os.Getenv(signalEnv) == "SIGABRT" {
		sig = syscall.SIGABRT
	}
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if err := p.Signal(sig); err != nil { // it is gone
			return
		}
		if zombie(p.Pid) {
			return
		}
		if time.Now().After(end) {
			say("process %d is still there", p.Pid)
			return
		}
	}
}

// zombie says whether the process has ended, and only its parent doesn't know yet. Its main thread can be a zombie before others
// have ended, and until then its sockets still answer.
func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	threads, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	after := bytes.LastIndexByte(b, ')')
	return len(threads) <= 1 && len(b) > after+2 && (b[after+2] == 'Z' || b[after+2] == 'X')
}

// run is the command from here on. It has no standard input, and standard error for its output: the watched process is gone.
func run(command string, say func(string, ...any)) int {
	null, err := os.Open(os.DevNull)
	if err == nil {
		err = errors.Join(syscall.Dup3(int(null.Fd()), 0, 0), syscall.Dup3(2, 1, 0))
	}
	if err == nil {
		err = syscall.Exec("/bin/sh", []string{"sh", "-c", command}, os.Environ())
	}
	say("%s: %v", command, err)
	return 111
}
