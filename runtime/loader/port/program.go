package port

import (
	"bufio"
	"bytes"
	"context"
	"log/slog"
	"os"
	"syscall"
	"time"

	"github.com/cmgr/cmgr/internal/sys/proc"
)

// A program is a running one.
type program struct {
	keeper *proc.Keeper
	in     *os.File
	outF   *os.File
	out    *bufio.Reader
	errF   *os.File
	ended  chan struct{} // closed when the main process has ended; status is set then
	status proc.Status
	logged chan struct{} // closed when its standard error is read to the end
}

// start starts the program.
func (l *Loader) start() (*program, error) {
	var ours [3]*os.File
	theirs := [3]int{-1, -1, -1}
	for i := range ours {
		var fds [2]int
		if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC); err != nil {
			closeAll(ours[:i], theirs[:i])
			return nil, err
		}
		mine, its := fds[0], fds[1]
		if i == 0 {
			mine, its = its, mine
		}
		// Only this end is non-blocking: the other is what the program expects of a pipe.
		_ = syscall.SetNonblock(mine, true)
		ours[i], theirs[i] = os.NewFile(uintptr(mine), "pipe"), its
	}
	p := &program{in: ours[0], outF: ours[1], errF: ours[2], ended: make(chan struct{}), logged: make(chan struct{})}
	p.out = bufio.NewReaderSize(p.outF, 64<<10)
	dir, err := os.Getwd()
	if err == nil {
		// A keeper: whatever the program leaves behind dies with it, and with this process.
		p.keeper, err = l.launcher.Keep(&proc.Spec{
			Path: l.path, Args: l.cfg.Program, Env: os.Environ(), Dir: dir, Files: theirs[:],
		}, proc.KeepOptions{Loop: l.loop, Hold: -1}, func(st proc.Status) { p.status = st; close(p.ended) })
	}
	if err != nil {
		closeAll(ours[:], theirs[:])
		return nil, l.failed("cannot start: %w", err)
	}
	closeAll(nil, theirs[:])
	go p.log(l.cfg.Log.With("loader", l.path))
	return p, nil
}

func closeAll(files []*os.File, fds []int) {
	for _, f := range files {
		f.Close()
	}
	for _, fd := range fds {
		syscall.Close(fd)
	}
}

// log tells the lines of standard error.
func (p *program) log(to *slog.Logger) {
	defer close(p.logged)
	r := bufio.NewReaderSize(p.errF, maxLine)
	for {
		line, err := r.ReadSlice('\n') // a longer one in pieces
		if line = bytes.TrimRight(line, "\r\n"); len(line) > 0 {
			to.Warn(string(line))
		}
		if err != nil && err != bufio.ErrBufferFull {
			return
		}
	}
}

// write sends a request. A program that doesn't read it shows that by its answer.
func (p *program) write(b []byte) { _, _ = p.in.Write(b) }

// interrupt has reads and writes under way fail.
func (p *program) interrupt() {
	past := time.Unix(1, 0)
	_ = p.in.SetDeadline(past)
	_ = p.outF.SetDeadline(past)
}

// wait waits for the end of the main process.
func (p *program) wait(ctx context.Context) (proc.Status, error) {
	select {
	case <-p.ended:
		return p.status, nil
	case <-ctx.Done():
		return proc.Status{}, context.Cause(ctx)
	}
}

// quiet says whether the program still runs, and has said nothing since its last answer.
func (p *program) quiet() bool {
	if p.out.Buffered() > 0 {
		return false
	}
	raw, err := p.outF.SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	err = raw.Read(func(fd uintptr) bool {
		_, err := syscall.Read(int(fd), make([]byte, 1))
		quiet = err == syscall.EAGAIN
		return true
	})
	return err == nil && quiet
}

// lastWords is how long a program may take to end at the end of its requests, and how long its standard error may stay open when
// all of it is dead: somebody else may have it.
const lastWords = 2 * time.Second

// end ends the program in order: by the end of its requests.
func (p *program) end() {
	p.in.Close()
	ctx, cancel := context.WithTimeout(context.Background(), lastWords)
	defer cancel()
	_, _ = p.wait(ctx)
	p.kill()
}

// kill ends what is left of the program, and returns when nothing is.
func (p *program) kill() {
	p.in.Close()
	p.keeper.Kill(nil)
	<-p.ended
	_ = p.errF.SetReadDeadline(time.Now().Add(lastWords))
	<-p.logged
	p.errF.Close()
	p.outF.Close()
}
