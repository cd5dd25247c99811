package runsvdir

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/sys/poll"
	"github.com/cmgr/cmgr/runners/runit/runsv"
	"github.com/cmgr/cmgr/runners/runit/supervise"
)

// The keeper is the process that supervises all services in place of a runsv for each. runsvdir tells it by packets on a
// socket what to start ("+ID NUL PATH NUL NAME") and what to end ("-ID", all by "-"); it tells what has ended ("ID"). When runsvdir
// has ended it goes on until nothing is left to supervise.
//
// roleEnv tells a process of this binary that it is one, and how: keeperInside or keeperSessions. Its end of the socket is
// descriptor 3. roleAsked asks a runsv, see leadsHere.
//
// It goes by the name of runsv, which it stands for: who looks for runsvdir by name to tell it something means the other process.
const (
	keeperName     = "runsv"
	roleEnv        = "CMGR_RUNSVDIR"
	keeperInside   = "keeper"
	keeperSessions = "keeper-sessions"
	roleAsked      = "whoareyou"
)

// packetMax is more than the longest packet.
const packetMax = unix.PathMax + 512

// A keeper is runsvdir's side.
type keeper struct {
	dir  string // the services directory, for ps(1)
	role string
	path string // of the directory that is being scanned, absolute and without links
	wake chan struct{}

	sock *os.File      // nil: there is none
	done chan struct{} // closed when read has ended

	mu      sync.Mutex
	over    []int // ended, not yet told
	running []int
}

func newKeeper(dir string, sessions bool) *keeper {
	k := &keeper{dir: dir, role: keeperInside, wake: make(chan struct{}, 1)}
	if sessions {
		k.role = keeperSessions
	}
	return k
}

// run starts the process if there is none: at the beginning, and when somebody has killed it. The new one takes over what runs.
func (k *keeper) run() error {
	if k.sock != nil {
		select {
		case <-k.done:
			k.sock.Close()
			k.sock = nil
		default:
			return nil
		}
	}
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(p[1])
	_, err = syscall.ForkExec("/proc/self/exe", []string{keeperName, k.dir + "/*"}, &syscall.ProcAttr{
		Env: append(os.Environ(), roleEnv+"="+k.role), Files: []uintptr{0, 1, 2, uintptr(p[1])},
		Sys: &syscall.SysProcAttr{Setsid: k.role == keeperSessions},
	})
	if err != nil {
		unix.Close(p[0])
		return err
	}
	k.sock, k.done = os.NewFile(uintptr(p[0]), "keeper"), make(chan struct{})
	go k.read(k.sock, k.done)
	return nil
}

func (k *keeper) read(sock *os.File, done chan struct{}) {
	defer close(done)
	b := make([]byte, packetMax)
	for {
		n, err := sock.Read(b)
		k.mu.Lock()
		if err != nil { // it has ended, and so have all that it had
			k.over, k.running = append(k.over, k.running...), nil
		} else if id, err := strconv.Atoi(string(b[:n])); err == nil {
			k.over = append(k.over, id)
			k.running = slices.DeleteFunc(k.running, func(r int) bool { return r == id })
		}
		k.mu.Unlock()
		select {
		case k.wake <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

func (k *keeper) begin(dir int) (err error) {
	if k.path, err = os.Readlink("/proc/self/fd/" + strconv.Itoa(dir)); err == nil {
		err = k.run()
	}
	return err
}

func (k *keeper) end() {}

func (k *keeper) start(s *service, name string) error {
	k.mu.Lock()
	k.running = append(k.running, s.id)
	k.mu.Unlock()
	return k.send("+" + strconv.Itoa(s.id) + "\x00" + path.Join(k.path, name) + "\x00" + name)
}

func (k *keeper) stop(s *service) { _ = k.send("-" + strconv.Itoa(s.id)) } // a keeper that is gone has nothing

func (k *keeper) stopAll() { _ = k.send("-") }

func (k *keeper) send(packet string) error {
	_, err := k.sock.Write([]byte(packet))
	return err
}

func (k *keeper) events() <-chan struct{} { return k.wake }

func (k *keeper) ended() []int {
	_, _ = unix.Wait4(-1, nil, unix.WNOHANG, nil) // the process that was killed; there is no other child
	k.mu.Lock()
	defer k.mu.Unlock()
	ids := k.over
	k.over = nil
	return ids
}

func (k *keeper) close() {
	if k.sock != nil {
		k.sock.Close()
		<-k.done
	}
}

// keep is the other side: the process that supervises.
func keep(role string, stderr io.Writer) int {
	os.Unsetenv(roleEnv)
	if role != keeperInside && role != keeperSessions {
		return exitFatal
	}
	_ = os.WriteFile("/proc/self/comm", []byte(keeperName), 0) // it was executed as "exe"; only ps(1) cares
	unix.CloseOnExec(3)
	sock := os.NewFile(3, "runsvdir")
	say := func(name, what string) { fmt.Fprintf(stderr, "runsv %s: %s\n", name, what) }

	// As runsv does.
	pipe := make(chan os.Signal, 1)
	signal.Notify(pipe, unix.SIGPIPE)
	defer signal.Stop(pipe)
	loop, err := poll.New()
	if err != nil {
		say("-", "fatal: "+err.Error())
		return exitFatal
	}
	defer loop.Close()
	launcher, err := runsv.Launcher()
	if err != nil {
		say("-", "fatal: "+err.Error())
		return exitFatal
	}
	defer launcher.Close()
	umask := unix.Umask(0)
	unix.Umask(umask)
	opening := make(chan struct{}, 4) // bounds how many services are opened at once
	c := &supervise.Config{
		Loop: loop, Launcher: launcher, Env: os.Environ(), Umask: uint32(umask), Inside: role == keeperInside,
		// That may take for ever; other services are not to wait, too.
		Wait: func(lock func() error) error {
			<-opening
			defer func() { opening <- struct{}{} }()
			return lock()
		},
	}

	var (
		mu       sync.Mutex
		services = map[string]*supervise.Service{} // by number; nil: told to end before it was open
		wg       sync.WaitGroup                    // of services
		alone    atomic.Bool                       // runsvdir has ended
	)
	over := func(id string) {
		mu.Lock()
		delete(services, id)
		mu.Unlock()
		if !alone.Load() { // or each would raise a SIGPIPE
			_, _ = sock.Write([]byte(id)) // runsvdir may have ended
		}
		wg.Done()
	}
	start := func(id, path, name string) {
		opening <- struct{}{}
		defer func() { <-opening }()
		mu.Lock()
		_, ok := services[id]
		mu.Unlock()
		if !ok { // it was told to end before its turn came
			over(id)
			return
		}
		s, err := c.Open(path, func(what string) { say(name, what) }, func() { over(id) })
		if err != nil {
			say(name, "fatal: "+err.Error())
			over(id)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if _, ok := services[id]; ok {
			services[id] = s
		} else {
			s.Exit() // it was told to end meanwhile, or has ended
		}
	}
	stopAll := func() {
		mu.Lock()
		defer mu.Unlock()
		for id, s := range services {
			if s != nil {
				s.Exit()
			}
			delete(services, id)
		}
	}
	// TERM is for each service what it is for its runsv.
	term := make(chan os.Signal, 1)
	signal.Notify(term, unix.SIGTERM)
	var terms sync.WaitGroup
	terms.Go(func() {
		for range term {
			stopAll()
		}
	})
	defer func() { signal.Stop(term); close(term); terms.Wait() }()
	b := make([]byte, packetMax)
	for {
		n, err := sock.Read(b)
		if err != nil {
			break
		}
		id, rest, _ := strings.Cut(string(b[1:n]), "\x00")
		switch b[0] {
		case '+':
			path, name, _ := strings.Cut(rest, "\x00")
			mu.Lock()
			services[id] = nil
			mu.Unlock()
			wg.Add(1)
			go start(id, path, name) // this one reads on: what is to end is not to wait for what begins
		case '-':
			if id == "" {
				stopAll()
				continue
			}
			mu.Lock()
			if s := services[id]; s != nil {
				s.Exit()
			}
			delete(services, id)
			mu.Unlock()
		}
	}
	alone.Store(true)
	wg.Wait()
	return exitTerm
}
