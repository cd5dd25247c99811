package cache

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/crypto/blake2b"
)

// A Trust says which packages are accepted: those whose hash it lists, or which one of its keys has signed. Its file has on each
// line one of
//
//	sha256 HASH           of a package's contents file, or of a boot file
//	minisign KEY          as minisign(1) writes it (RW…): signs meta/contents, or NAME.boot, by a file beside it, .minisig
//	ed25519 KEY           32 bytes in base64: signs them by .sig, 64 bytes in base64
//	# a comment
type Trust struct {
	hashes map[Hash]bool
	keys   []key
}

type key struct {
	id       [8]byte
	minisign bool
	public   ed25519.PublicKey
}

// ReadTrust reads a file.
func ReadTrust(file string) (*Trust, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("trust: %w", err)
	}
	return ParseTrust(file, b)
}

// ParseTrust reads the text of a file.
func ParseTrust(file string, b []byte) (*Trust, error) {
	t := &Trust{hashes: map[Hash]bool{}}
	n := 0
	for line := range strings.Lines(string(b)) {
		n++
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		fail := func(what string) error { return fmt.Errorf("%s:%d: %s", file, n, what) }
		if len(words) != 2 {
			return nil, fail("a line is `sha256 HASH`, `minisign KEY` or `ed25519 KEY`")
		}
		raw, err := base64.StdEncoding.DecodeString(words[1])
		switch words[0] {
		case "sha256":
			h, err := ParseHash(words[1])
			if err != nil {
				return nil, fail(err.Error())
			}
			t.hashes[h] = true
		case "minisign":
			if err != nil || len(raw) != 2+8+ed25519.PublicKeySize || string(raw[:2]) != "Ed" {
				return nil, fail("no public key of minisign")
			}
			t.keys = append(t.keys, key{[8]byte(raw[2:10]), true, raw[10:]})
		case "ed25519":
			if err != nil || len(raw) != ed25519.PublicKeySize {
				return nil, fail("no public key: 32 bytes in base64")
			}
			t.keys = append(t.keys, key{public: raw})
		default:
			return nil, fail(fmt.Sprintf("%q is none of sha256, minisign, ed25519", words[0]))
		}
	}
	return t, nil
}

// ErrUntrusted is the error for a package that is not accepted.
var ErrUntrusted = errors.New("not trusted")

// Check says whether the file of that name is accepted, which has these contents: a package's Contents, with which the package
// is, or a boot file. get gives those beside it, whole.
func (t *Trust) Check(file string, contents []byte, get func(name string) ([]byte, error)) error {
	if t.hashes[HashOf(contents)] {
		return nil
	}
	signed := false
	for _, kind := range []bool{true, false} {
		name := file + ".sig"
		if kind {
			name = file + ".minisig"
		}
		var sig []byte
		for _, k := range t.keys {
			if k.minisign != kind {
				continue
			}
			if sig == nil {
				var err error
				if sig, err = get(name); errors.Is(err, fs.ErrNotExist) {
					break
				} else if err != nil {
					return err
				}
				signed = true
			}
			if k.signed(contents, sig) {
				return nil
			}
		}
	}
	why := "its hash is not listed"
	if signed {
		why += ", and its signature is by none of the keys"
	}
	return fmt.Errorf("%w: %s: sha256 %s", ErrUntrusted, why, HashOf(contents))
}

func (k key) signed(contents, sig []byte) bool {
	if !k.minisign {
		raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(sig)))
		return err == nil && len(raw) == ed25519.SignatureSize && ed25519.Verify(k.public, contents, raw)
	}
	// untrusted comment, signature, trusted comment, signature of the second and third (minisign(1), "Signature format").
	lines := strings.Split(strings.ReplaceAll(string(sig), "\r\n", "\n"), "\n")
	if len(lines) < 4 {
		return false
	}
	comment, ok := strings.CutPrefix(lines[2], "trusted comment: ")
	raw, err1 := base64.StdEncoding.DecodeString(lines[1])
	global, err2 := base64.StdEncoding.DecodeString(lines[3])
	if !ok || err1 != nil || err2 != nil || len(raw) != 2+8+ed25519.SignatureSize || len(global) != ed25519.SignatureSize ||
		!bytes.Equal(raw[2:10], k.id[:]) {
		return false
	}
	message := contents
	switch string(raw[:2]) {
	case "Ed":
	case "ED": // of the hash
		h := blake2b.Sum512(contents)
		message = h[:]
	default:
		return false
	}
	return ed25519.Verify(k.public, message, raw[10:]) && ed25519.Verify(k.public, append(raw[10:len(raw):len(raw)], comment...), global)
}
