// Package heart watches a process from outside, as Erlang's program heart watches an emulator, and speaks its protocol: the
// watched process, which is Start's, sends a beat every few seconds to the standard input of the watchdog, which is Main, or
// Erlang's own heart. If no beat comes for too long the watchdog kills the process, and whenever it ends without having said that
// it shuts down the watchdog runs a command, once, and ends: it is for the command to start the next one.
//
// Each message is a length of two bytes, big endian, of what follows: one byte that says what it is, and its contents.
package heart

import (
	"encoding/binary"
	"io"
)

// The messages. START_ACK and HEART_CMD go to the watched process, the others to the watchdog.
const (
	startAck       = 1 // it has begun, or has done what it was told by setCmd or clearCmd
	heartBeat      = 2
	shutDown       = 3 // end, and run no command
	setCmd         = 4 // the command is what follows
	clearCmd       = 5 // the command is again that of the environment
	getCmd         = 6
	heartCmd       = 7 // the answer: the command
	preparingCrash = 8 // a dump will be written, in which time there are no beats
)

// Variables of the watchdog's environment, as Erlang's heart has them.
const (
	commandEnv = "HEART_COMMAND"
	signalEnv  = "HEART_KILL_SIGNAL" // SIGABRT: instead of SIGKILL
	noKillEnv  = "HEART_NO_KILL"     // TRUE: kill nothing, only run the command
)

// Bounds of the time without a beat, in seconds. Erlang's heart takes no less than LeastErlang, and otherwise its default.
const (
	DefaultTimeout = 60
	LeastErlang    = 11
	MaxTimeout     = 65535
)

// send writes a message in one write.
func send(w io.Writer, op byte, contents string) error {
	b := binary.BigEndian.AppendUint16(nil, uint16(1+len(contents)))
	_, err := w.Write(append(append(b, op), contents...))
	return err
}

// receive reads a message; one without a byte is 0.
func receive(r io.Reader) (op byte, contents string, err error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return 0, "", err
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(r, b); err != nil || len(b) == 0 {
		return 0, "", err
	}
	return b[0], string(b[1:]), nil
}
