package realm

import (
	"context"
	"testing"

	"github.com/cmgr/cmgr/manifest"
)

// slow is a follower whose fill takes until somebody lets it go on.
type slow struct{ begun, on chan struct{} }

func (s *slow) fill(context.Context) error {
	s.begun <- struct{}{}
	<-s.on
	return nil
}

func (s *slow) end() {}

func (s *slow) of() (*instance, *manifest.Use) { return nil, nil }

// However often what is slow is to be filled, one goroutine does it, and once more after the last time.
func TestRefillOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, files{"root": `{}`})
		f := &slow{begun: make(chan struct{}, 1000), on: make(chan struct{})}
		w.follow(f)
		for range 1000 {
			w.refresh()
			w.settle()
		}
		if n := len(f.begun); n != 1 {
			t.Errorf("%d goroutines fill it", n)
		}
		close(f.on)
		w.settle()
		if n := len(f.begun); n != 2 {
			t.Errorf("filled %d times, want 2", n)
		}
		w.refresh()
		w.settle()
		if n := len(f.begun); n != 3 {
			t.Errorf("filled %d times, want 3", n)
		}
	})
}
