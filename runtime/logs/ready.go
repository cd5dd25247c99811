package logs

import (
	"path/filepath"

	"github.com/cmgr/cmgr/manifest/name"
)

// Ready has something in it whenever lines may have come since Next last found none. With it one goroutine waits for lines and
// for other things at once; Next with an ended context then takes what is there.
func (s *Subscription) Ready() <-chan struct{} { return s.wake }

// Dir is the directory of m's log, be it there or not.
func (l *Logs) Dir(m name.Moniker) string { return filepath.Join(l.dir, dirName(m)) }
