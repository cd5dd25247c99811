package rpc

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/proto/rpcpb"
)

// parse reads a packet that came with nfds descriptors. A packet of no known kind has a nil Kind. maxBody bounds a long body.
func parse(b []byte, nfds, maxBody int) (*rpcpb.Packet, error) {
	p := new(rpcpb.Packet)
	if err := proto.Unmarshal(b, p); err != nil {
		return nil, errors.New("sends what is no message")
	}
	switch k := p.Kind.(type) {
	case *rpcpb.Packet_Request:
		if k.Request.Id == 0 || k.Request.Method == "" {
			return nil, errors.New("sends a request without id or method")
		}
		return p, checkBody(k.Request, nfds, maxBody)
	case *rpcpb.Packet_Answer:
		return p, checkBody(k.Answer, nfds, maxBody)
	case *rpcpb.Packet_Event:
		if k.Event.Name == "" {
			return nil, errors.New("sends an event without a name")
		}
		return p, checkBody(k.Event, nfds, maxBody)
	default:
		if nfds > 0 {
			return nil, errors.New("sends descriptors with a packet that has none")
		}
		return p, nil
	}
}

// A bodied is a message with a body.
type bodied interface {
	GetBody() []byte
	GetLongBody() uint64
}

func checkBody(m bodied, nfds, maxBody int) error {
	switch long := m.GetLongBody(); {
	case long == 0:
		return nil
	case len(m.GetBody()) > 0:
		return errors.New("sends a message with two bodies")
	case nfds == 0:
		return errors.New("sends a long body without its descriptor")
	case long > uint64(maxBody):
		return fmt.Errorf("sends a body of %d bytes; %d is the most", long, maxBody)
	}
	return nil
}

// grease is a field 15 with a random byte: it means nothing, as any part of a message.
func grease(b []byte) []byte {
	b = protowire.AppendTag(b, 15, protowire.BytesType)
	return protowire.AppendBytes(b, []byte{byte(rand.Uint32())})
}

// greaseVersion is a version that no protocol has: 0xNaNaNaNa.
func greaseVersion() uint32 { return rand.Uint32()&0x70707070 | 0x8a0a0a0a }

// greaseMethod is a method that no protocol has.
func greaseMethod() string { return fmt.Sprintf("grease-%02x", byte(rand.Uint32())) }

// choose is the highest version that both ends speak.
func choose(ours, theirs []uint32) (uint32, bool) {
	var best uint32
	found := false
	for _, v := range theirs {
		if slices.Contains(ours, v) && (!found || v > best) {
			best, found = v, true
		}
	}
	return best, found
}

// An Error is what the other end answered, or refused with.
type Error struct {
	Why  capabilities.Code
	Text string
	Hint string
}

func (e *Error) Error() string {
	if e.Hint != "" {
		return e.Text + "\n  hint: " + e.Hint
	}
	return e.Text
}

// Code is the error's kind.
func (e *Error) Code() capabilities.Code { return e.Why }

// maxText is how much of an error's text travels and is shown, in bytes.
const maxText = 4096

// toWire is err as it travels: an *Error in its chain, else its text and its code.
func toWire(err error) *rpcpb.Error {
	e := &Error{Why: capabilities.CodeOf(err), Text: err.Error()}
	errors.As(err, &e)
	return &rpcpb.Error{Code: rpcpb.Code(e.Why), Message: cut(e.Text), Hint: cut(e.Hint)}
}

func fromWire(m *rpcpb.Error) *Error {
	e := &Error{Why: capabilities.Code(m.Code), Text: cut(m.Message), Hint: cut(m.Hint)}
	if m.Code < 0 || m.Code > rpcpb.Code_CODE_PRECONDITION {
		e.Why = capabilities.Internal
	}
	return e
}

// cut returns s, shortened if it must be, as UTF-8.
func cut(s string) string {
	if len(s) > maxText {
		for s = s[:maxText]; len(s) > 0; s = s[:len(s)-1] {
			if r, _ := utf8.DecodeLastRuneInString(s); r != utf8.RuneError {
				break
			}
		}
	}
	return string([]rune(s)) // what is not UTF-8 becomes U+FFFD
}
