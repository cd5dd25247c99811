package heart

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cmgr/cmgr/internal/sys/proc"
	"github.com/cmgr/cmgr/runners"
)

// Config says what watches this process, and what follows its end.
type Config struct {
	// Command is for a shell.
	Command string
	// Program is the watchdog, absolute, which must be one that speaks the protocol; "" is this binary, called as heart.
	Program string
	// Timeout is how many seconds may pass without a beat; 0 is DefaultTimeout.
	Timeout int
	// Alive is called before each beat, and returns unless this process is stuck; nil does.
	Alive func()
	// Log is told when the watchdog ends by itself. Then the next one is started.
	Log *slog.Logger
}

// Check says what is wrong with it.
func (c *Config) Check() error {
	least := 1
	if c.Program != "" {
		least = LeastErlang
	}
	switch {
	case c.Command == "" || len(c.Command) >= 2047 || strings.ContainsRune(c.Command, 0):
		return errors.New("the command is of 1 to 2046 bytes")
	case c.Timeout != 0 && (c.Timeout < least || c.Timeout > MaxTimeout):
		return fmt.Errorf("the timeout is of %d to %d seconds", least, MaxTimeout)
	}
	return nil
}

// A Heart feeds a watchdog, until Stop or Leave.
type Heart struct {
	cfg      Config
	launcher *proc.Launcher
	stop     chan bool // true: tell the watchdog
	stopped  chan struct{}
}

// A watchdog is one that runs.
type watchdog struct {
	in, out *os.File // its standard input and output, our ends
	process *proc.Process
	ended   chan struct{}
	status  proc.Status // once it has ended
}

// answerTime bounds the wait for a watchdog's first word, and for its end.
const answerTime = 30 * time.Second

// interval is the time between two beats: 5 s as in Erlang, or less.
func (c *Config) interval() time.Duration {
	return min(5*time.Second, time.Duration(cmp.Or(c.Timeout, DefaultTimeout))*time.Second/3)
}

// Start starts the watchdog, and returns once it watches.
func Start(cfg Config) (*Heart, error) {
	if err := cfg.Check(); err != nil {
		return nil, fmt.Errorf("heart: %w", err)
	}
	if cfg.Alive == nil {
		cfg.Alive = func() {}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	h := &Heart{cfg: cfg, stop: make(chan bool), stopped: make(chan struct{})}
	var err error
	if h.launcher, err = proc.Open(); err != nil {
		return nil, err
	}
	w, err := h.start()
	if err != nil {
		h.launcher.Close()
		return nil, fmt.Errorf("heart: %w", err)
	}
	go h.feed(w)
	return h, nil
}

// Stop tells the watchdog that this process ends as it should, so that no command is run, and waits for its end.
func (h *Heart) Stop() { h.end(true) }

// Leave has the watchdog run the command once this process has ended, which must be soon: there are no beats any more.
func (h *Heart) Leave() { h.end(false) }

func (h *Heart) end(tell bool) {
	h.stop <- tell
	<-h.stopped
	h.launcher.Close()
}

// left are the watchdogs that Leave left: the end of file on their input must be the end of this process, not of an unused
// variable.
var left struct {
	sync.Mutex
	all []*watchdog
}

func (h *Heart) feed(w *watchdog) {
	defer close(h.stopped)
	beat := time.NewTicker(h.cfg.interval())
	defer beat.Stop()
	alive := make(chan struct{})
	asked := false // somebody is in Alive
	for {
		var ended <-chan struct{}
		if w != nil {
			ended = w.ended
		}
		select {
		case <-ended:
			h.cfg.Log.Error("the watchdog has ended, another one is started", "how", describe(w.status))
			w.end(0)
			w = nil
		case <-beat.C:
			if w == nil {
				var err error
				if w, err = h.start(); err != nil {
					h.cfg.Log.Error("start the watchdog", "error", err)
				}
				continue
			}
			if !asked {
				asked = true
				go func() { h.cfg.Alive(); alive <- struct{}{} }()
			}
		case <-alive:
			asked = false
			if w != nil {
				w.send(heartBeat)
			}
		case tell := <-h.stop:
			switch {
			case w == nil:
			case tell:
				w.send(shutDown)
				w.end(answerTime)
			default:
				left.Lock()
				left.all = append(left.all, w)
				left.Unlock()
			}
			if asked {
				<-alive
			}
			return
		}
	}
}

func describe(s proc.Status) string {
	if s.Signal != 0 {
		return runners.SignalName(s.Signal)
	}
	return "exit code " + strconv.Itoa(s.Code)
}

// start starts a watchdog and waits for its first word.
func (h *Heart) start() (*watchdog, error) {
	dir, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	theirIn, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer theirIn.Close()
	out, theirOut, err := os.Pipe()
	if err != nil {
		in.Close()
		return nil, err
	}
	defer theirOut.Close()
	w := &watchdog{in: in, out: out, ended: make(chan struct{})}
	w.process, err = h.launcher.Start(&proc.Spec{
		Path: cmp.Or(h.cfg.Program, "/proc/self/exe"), Dir: dir, Files: []int{int(theirIn.Fd()), int(theirOut.Fd()), 2},
		Args: []string{"heart", "-pid", strconv.Itoa(os.Getpid()), "-ht", strconv.Itoa(cmp.Or(h.cfg.Timeout, DefaultTimeout))},
		Env:  append(os.Environ(), commandEnv+"="+h.cfg.Command),
	}, func(s proc.Status) { w.status = s; close(w.ended) })
	if err != nil {
		in.Close()
		out.Close()
		return nil, err
	}
	theirOut.Close() // so that its end is the end of file
	_ = out.SetReadDeadline(time.Now().Add(answerTime))
	op, _, err := receive(out)
	if err == nil && op != startAck {
		err = fmt.Errorf("it begins with message %d, not %d", op, startAck)
	}
	if err != nil {
		if w.end(time.Second) {
			err = errors.New("it ended: " + describe(w.status))
		}
		return nil, fmt.Errorf("watchdog %s: %w", cmp.Or(h.cfg.Program, "of cmgr"), err)
	}
	return w, nil
}

// send sends a message; that it does not arrive is told by the watchdog's end.
func (w *watchdog) send(op byte) {
	_ = w.in.SetWriteDeadline(time.Now().Add(time.Second))
	_ = send(w.in, op, "")
}

// end waits for the watchdog's end, and kills it if that does not come: one that lived would take our end of the pipe, when it is
// closed, for the end of this process. It says whether the watchdog ended by itself.
func (w *watchdog) end(bound time.Duration) bool {
	t := time.NewTimer(bound)
	defer t.Stop()
	byItself := true
	select {
	case <-w.ended:
	case <-t.C:
		byItself = w.process.Signal(syscall.SIGKILL) != nil
		<-w.ended
	}
	w.in.Close()
	w.out.Close()
	return byItself
}
