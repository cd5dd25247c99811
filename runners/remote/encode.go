package remote

import (
	"cmp"
	"errors"
	"fmt"
	"os"

	"google.golang.org/protobuf/proto"

	"github.com/cmgr/cmgr/internal/rpc"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/proto/runnerpb"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/elf/confine"
)

// encode is info as the request that starts program id; alone as in Config, for the package. dir, which the message has, is the
// caller's to close when it is sent.
func encode(id uint64, info runners.StartInfo, alone bool) (m rpc.Message, dir *os.File, err error) {
	// place names f by its place among the message's descriptors.
	place := func(f *os.File) uint32 {
		if f == nil {
			return 0
		}
		m.Files = append(m.Files, f)
		return uint32(len(m.Files))
	}
	w := &runnerpb.StartInfo{
		Program: id, Moniker: string(info.Moniker), Url: info.URL,
		Block: entries(info.Program.Info), BlockPos: pos(info.Program.Pos),
		Config: info.Config, Outgoing: place(info.Outgoing),
	}
	for _, e := range info.Namespace {
		w.Namespace = append(w.Namespace, &runnerpb.NamespaceEntry{Path: e.Path, File: place(e.File), Rights: uint32(e.Rights)})
	}
	for _, h := range info.Handles {
		w.Handles = append(w.Handles, &runnerpb.Handle{Number: uint32(h.Number), File: place(h.File)})
	}
	for _, f := range []*os.File{info.Stdout, info.Stderr} {
		if f != nil {
			f.Fd() // makes its description block, as programs expect of their streams; Go's pipes don't
		}
	}
	w.Stdout, w.Stderr = place(info.Stdout), place(info.Stderr)
	if info.Package.Dir != "" {
		if dir, err = os.Open(info.Package.Dir); err == nil && alone {
			dir, err = confine.Give(dir, manifest.RightsRX)
		}
		if err != nil {
			return m, nil, fmt.Errorf("package: %w", err)
		}
		w.Package = &runnerpb.Package{Path: info.Package.Dir, Dir: place(dir)}
	}
	m.Body, err = proto.Marshal(w)
	switch {
	case err != nil:
	case len(m.Body) > MaxStartInfo:
		err = fmt.Errorf("what its runner must learn is %d bytes long; %d is the most", len(m.Body), MaxStartInfo)
	case len(m.Files) > rpc.MaxFDs:
		err = fmt.Errorf("%d descriptors (namespace, handles, streams); %d is the most", len(m.Files), rpc.MaxFDs)
	default:
		return m, dir, nil
	}
	if dir != nil {
		dir.Close()
	}
	return m, nil, err
}

func pos(p manifest.Pos) *runnerpb.Pos {
	if !p.IsValid() {
		return nil
	}
	return &runnerpb.Pos{File: p.File, Line: p.Line, Col: p.Col}
}

func entries(d manifest.Dictionary) []*runnerpb.Entry {
	var out []*runnerpb.Entry
	for _, e := range d {
		w := &runnerpb.Entry{Key: e.Key, Pos: pos(e.Pos)}
		switch v := e.Value.(type) {
		case manifest.String:
			w.Value = &runnerpb.Entry_String_{String_: string(v)}
		case manifest.Strings:
			w.Value = &runnerpb.Entry_Strings{Strings: &runnerpb.Strings{Values: v}}
		case manifest.Objects:
			objects := new(runnerpb.Objects)
			for _, o := range v {
				objects.Values = append(objects.Values, &runnerpb.Object{Entries: entries(o)})
			}
			w.Value = &runnerpb.Entry_Objects{Objects: objects}
		default:
			w.Value = &runnerpb.Entry_Null{Null: &runnerpb.Null{}}
		}
		out = append(out, w)
	}
	return out
}

// decode reads the request that encode makes. What it returns has all of m's files; on an error they are closed. pkg is the
// directory of the package where this process sees it by that descriptor only: it must stay open as long as the program runs.
func decode(m rpc.Message) (id uint64, info runners.StartInfo, pkg *os.File, err error) {
	w := new(runnerpb.StartInfo)
	taken := make([]bool, len(m.Files))
	take := func(what string, place uint32, must bool) *os.File {
		switch {
		case place == 0 && !must, err != nil:
			return nil
		case place == 0 || int64(place) > int64(len(m.Files)):
			err = fmt.Errorf("%s is descriptor %d of %d", what, place, len(m.Files))
			return nil
		case taken[place-1]:
			err = fmt.Errorf("%s is descriptor %d, which is something else too", what, place)
			return nil
		}
		taken[place-1] = true
		return m.Files[place-1]
	}
	defer func() {
		for i, t := range taken {
			if !t && err == nil {
				err = fmt.Errorf("descriptor %d is nothing", i+1)
			}
		}
		if err != nil {
			m.Close()
			info = runners.StartInfo{}
		}
	}()
	if err = proto.Unmarshal(m.Body, w); err != nil {
		return 0, info, nil, errors.New("the body is no StartInfo")
	}
	if w.Program == 0 {
		return 0, info, nil, errors.New("program 0 is none")
	}
	info = runners.StartInfo{
		Moniker: name.Moniker(w.Moniker), URL: w.Url, Config: w.Config, Outgoing: take("outgoing", w.Outgoing, false),
		Program: runners.Block{Pos: unpos(w.BlockPos)},
		Stdout:  take("stdout", w.Stdout, false), Stderr: take("stderr", w.Stderr, false),
	}
	block, bad := dictionary(w.Block)
	if err = cmp.Or(err, bad); err != nil {
		return 0, info, nil, err
	}
	info.Program.Info = block
	for _, e := range w.Namespace {
		const known = manifest.RightWriteBytes<<1 - 1
		info.Namespace = append(info.Namespace, runners.NamespaceEntry{
			Path: e.Path, File: take(e.Path, e.File, true), Rights: manifest.Rights(e.Rights) & known,
		})
	}
	for _, h := range w.Handles {
		if h.Number > 255 {
			return 0, info, nil, fmt.Errorf("handle %d; 255 is the highest", h.Number)
		}
		info.Handles = append(info.Handles, runners.Handle{
			Number: uint8(h.Number), File: take(fmt.Sprintf("handle %d", h.Number), h.File, true),
		})
	}
	if w.Package != nil {
		dir := take("package", w.Package.Dir, true)
		if err != nil {
			return 0, info, nil, err
		}
		if sameDir(dir, w.Package.Path) {
			info.Package.Dir = w.Package.Path
			dir.Close()
		} else {
			info.Package.Dir = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), dir.Fd())
			pkg = dir
		}
	}
	return w.Program, info, pkg, err
}

// sameDir says whether the directory at path, as this process sees it, is dir: a runner in a namespace of its own sees others.
func sameDir(dir *os.File, path string) bool {
	a, err := dir.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

func unpos(p *runnerpb.Pos) manifest.Pos {
	return manifest.Pos{File: p.GetFile(), Line: p.GetLine(), Col: p.GetCol()}
}

func dictionary(es []*runnerpb.Entry) (manifest.Dictionary, error) {
	var d manifest.Dictionary
	for _, e := range es {
		out := manifest.Entry{Key: e.Key, Pos: unpos(e.Pos)}
		switch v := e.Value.(type) {
		case *runnerpb.Entry_String_:
			out.Value = manifest.String(v.String_)
		case *runnerpb.Entry_Strings:
			out.Value = manifest.Strings(v.Strings.Values)
		case *runnerpb.Entry_Objects:
			objects := make(manifest.Objects, len(v.Objects.Values))
			for i, o := range v.Objects.Values {
				var err error
				if objects[i], err = dictionary(o.Entries); err != nil {
					return nil, err
				}
			}
			out.Value = objects
		case *runnerpb.Entry_Null:
			out.Value = manifest.Null{}
		default:
			return nil, fmt.Errorf("key %q of the program block without a value", e.Key)
		}
		d = append(d, out)
	}
	return d, nil
}
