package servicedir

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/cmgr/cmgr/internal/tai64n"
)

// Size is the length of an encoded Status in bytes. The first 18 are the format of daemontools.
const Size = 20

// A State is what runs.
type State byte

// The states, as they stand in a status.
const (
	Down   State = 0 // nothing
	Run    State = 1 // ./run
	Finish State = 2 // ./finish
)

func (s State) String() string {
	switch s {
	case Down:
		return "down"
	case Run:
		return "run"
	case Finish:
		return "finish"
	}
	return fmt.Sprintf("state %d", byte(s))
}

// A Status is what supervise/status says of a service.
type Status struct {
	// Since is when ./run was last started, also while ./finish runs; in state Down, when that began.
	Since  time.Time
	PID    uint32 // of ./run or ./finish; 0: there is none
	Paused bool
	Want   byte // 'u' or 'd'; a service that is to exit is wanted down
	Term   bool // TERM was sent, and it still lives
	State  State
}

// Encode is s as it stands in the file.
func (s Status) Encode() (b [Size]byte) {
	label := tai64n.Pack(s.Since)
	copy(b[:], label[:])
	binary.LittleEndian.PutUint32(b[12:], s.PID)
	b[16], b[17], b[18], b[19] = bit(s.Paused), s.Want, bit(s.Term), byte(s.State)
	return b
}

// Decode reads the content of a status file. The only error is a length other than Size.
func Decode(b []byte) (Status, error) {
	if len(b) != Size {
		return Status{}, fmt.Errorf("bad format")
	}
	return Status{
		Since:  tai64n.Unpack([12]byte(b)),
		PID:    binary.LittleEndian.Uint32(b[12:]),
		Paused: b[16] != 0,
		Want:   b[17],
		Term:   b[18] != 0,
		State:  State(b[19]),
	}, nil
}

// Text is s as it stands in supervise/stat. exit says that the service is to exit, which a Status cannot.
func (s Status) Text(exit bool) string {
	text := s.State.String()
	if s.Paused {
		text += ", paused"
	}
	if s.Term {
		text += ", got TERM"
	}
	switch {
	case s.State == Down:
	case exit:
		text += ", want exit"
	case s.Want == 'd':
		text += ", want down"
	}
	return text + "\n"
}

func bit(b bool) byte {
	if b {
		return 1
	}
	return 0
}
