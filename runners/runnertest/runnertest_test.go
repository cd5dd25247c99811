package runnertest_test

import (
	"context"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/runnertest"
)

func TestMain(m *testing.M) { os.Exit(leak.Run(m)) }

func TestFakeKeepsTheContract(t *testing.T) {
	f := runnertest.NewFake()
	t.Cleanup(f.Wait)
	runnertest.Run(t, runnertest.Kit{
		Runner: eachItsOwn{f},
		Info: func(t *testing.T, b runnertest.Behaviour) (runners.StartInfo, bool) {
			f.Behave("/kit", b)
			return runners.StartInfo{}, true
		},
	})
}

// eachItsOwn gives a second program of one moniker a Fake of its own, as the kit runs several side by side.
type eachItsOwn struct{ f *runnertest.Fake }

func (e eachItsOwn) Start(ctx context.Context, info runners.StartInfo) (runners.Program, error) {
	if len(e.f.Running()) > 0 {
		return runnertest.NewFake().Start(ctx, info)
	}
	return e.f.Start(ctx, info)
}

func TestFakeOrders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := runnertest.NewFake()
		f.Behave("/deaf", runnertest.IgnoresStop)
		f.Behave("/bad", runnertest.NeverStarts)
		f.Behave("/slow", runnertest.NeverReady)
		start := func(m name.Moniker) (runners.Program, error) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			return f.Start(ctx, runners.StartInfo{Moniker: m})
		}
		a, _ := start("/a")
		deaf, _ := start("/deaf")
		if _, err := start("/bad"); err == nil {
			t.Error("/bad started")
		}
		time.AfterFunc(time.Minute, func() { f.Behave("/slow", runnertest.UntilStopped) })
		if _, err := start("/slow"); err != nil {
			t.Error(err)
		}
		if _, err := start("/a"); err == nil {
			t.Error("/a runs twice")
		}
		if got := f.Running(); !slices.Equal(got, []name.Moniker{"/a", "/deaf", "/slow"}) {
			t.Errorf("running: %v", got)
		}
		time.Sleep(time.Minute)
		f.Exit("/a", runners.Exit{Code: 3})
		if e, _ := a.Wait(t.Context()); e.Code != 3 || e.Cause != runners.BySelf || e.Ended.Sub(e.Started) != 2*time.Minute {
			t.Errorf("exit of /a: %+v", e)
		}
		deaf.Stop(t.Context())
		f.Exit("/deaf", runners.Exit{Code: 1})
		if e, _ := deaf.Wait(t.Context()); e.Cause != runners.ByStop {
			t.Errorf("exit of /deaf: %+v", e)
		}
		if f.Exit("/a", runners.Exit{}) {
			t.Error("/a ended twice")
		}
		f.Exit("/slow", runners.Exit{})
		want := []string{
			"start /a", "start /deaf", "refuse /bad", "start /slow", "refuse /a", "exit /a", "stop /deaf", "exit /deaf", "exit /slow",
		}
		if got := f.Log(); !slices.Equal(got, want) {
			t.Errorf("log: %q", got)
		}
		f.Wait()
	})
}
