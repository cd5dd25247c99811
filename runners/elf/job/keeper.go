package job

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/cmgr/cmgr/internal/sys/proc"
	"github.com/cmgr/cmgr/runners"
)

// keepers are the pidns and the subreaper backend: a job is its keeper.
type keepers struct {
	m    *Manager
	opts proc.KeepOptions

	mu   sync.Mutex
	live map[*Job]struct{} // those with a keeper, until Close
}

func openPIDNS(m *Manager, _ Options) (backend, error)     { return openKeepers(m, true) }
func openSubreaper(m *Manager, _ Options) (backend, error) { return openKeepers(m, false) }

func openKeepers(m *Manager, namespace bool) (backend, error) {
	k := &keepers{m: m, live: map[*Job]struct{}{}, opts: proc.KeepOptions{Loop: m.loop, Namespace: namespace, Hold: -1}}
	if err := m.launcher.CanKeep(k.opts); err != nil {
		return nil, err
	}
	if m.record != nil {
		k.opts.Hold = int(m.record.keepers.Fd())
	}
	return k, nil
}

func (k *keepers) make(*Job) error { return nil }

func (k *keepers) start(j *Job, s *Spec, exited func(Status)) (int, error) {
	keeper, err := k.m.launcher.Keep(s, k.opts, exited)
	if err != nil {
		return 0, err
	}
	j.mu.Lock()
	j.keeper = keeper
	j.mu.Unlock()
	k.mu.Lock()
	k.live[j] = struct{}{}
	k.mu.Unlock()
	return keeper.Main(), nil
}

func (j *Job) kept() *proc.Keeper {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.keeper
}

func (k *keepers) signal(j *Job, sig syscall.Signal) error {
	if keeper := j.kept(); keeper != nil {
		return keeper.Signal(sig)
	}
	return os.ErrProcessDone
}

func (k *keepers) kill(ctx context.Context, j *Job) error {
	if keeper := j.kept(); keeper != nil && !keeper.Kill(ctx.Done()) {
		return &RemainError{Job: j.name, PIDs: keeper.Processes(), Err: context.Cause(ctx)}
	}
	return nil
}

func (k *keepers) processes(j *Job) ([]int, error) {
	if keeper := j.kept(); keeper != nil {
		return keeper.Processes(), nil
	}
	return nil, nil
}

// ticks is USER_HZ, in which /proc tells times: 100 on all of Linux's architectures that Go knows (times(2)).
const ticks = 100

func (k *keepers) stats(j *Job) (runners.Stats, error) {
	keeper := j.kept()
	if keeper == nil {
		return runners.Stats{}, nil
	}
	pids := keeper.Processes()
	st := runners.Stats{Memory: resident(pids), Processes: len(pids)}
	used := func(pid int, fields ...int) {
		f, err := stat(pid)
		if err != nil {
			return // ended meanwhile: its parent has its times
		}
		for _, i := range fields {
			if i-2 < len(f) {
				n, _ := strconv.ParseInt(f[i-2], 10, 64)
				st.CPU += time.Duration(n) * time.Second / ticks
			}
		}
	}
	// utime, stime, cutime and cstime, the last two of children that were waited for (proc(5)).
	for _, pid := range pids {
		used(pid, 14, 15, 16, 17)
	}
	used(keeper.PID(), 16, 17)
	return st, nil
}

func (k *keepers) path(j *Job) string {
	if keeper := j.kept(); keeper != nil {
		return fmt.Sprintf("pid %d", keeper.PID())
	}
	return ""
}

func (k *keepers) remove(j *Job) error {
	if keeper := j.kept(); keeper != nil && !keeper.Gone() {
		return &RemainError{Job: j.name, PIDs: keeper.Processes()}
	}
	k.mu.Lock()
	delete(k.live, j)
	k.mu.Unlock()
	return nil
}

func (k *keepers) close() error {
	k.mu.Lock()
	var left []*Job
	for j := range k.live {
		left = append(left, j)
	}
	k.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	errs := make([]error, len(left))
	var all sync.WaitGroup
	for i, j := range left {
		all.Go(func() { errs[i] = k.kill(ctx, j) })
	}
	all.Wait()
	return errors.Join(errs...)
}
