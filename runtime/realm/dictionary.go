package realm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"slices"
	"sync"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/capabilities/framework"
	"github.com/cmgr/cmgr/capabilities/protocol"
	"github.com/cmgr/cmgr/internal/rpc"
	"github.com/cmgr/cmgr/internal/sys/sock"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/proto/componentpb"
)

// A dictionary that a program provides is asked over a connection of the manager's (runtime/host/PROTOCOL.md) what is in it. Who
// connects to an item connects to a socket of the manager's, which gives the program that very connection: nothing stands
// between.

const (
	// maxItems bounds what a program may have in its dictionary: each is a socket of the manager's for each who uses it. maxList
	// bounds the answer that says so, in bytes.
	maxItems = 256
	maxList  = 1 << 20
	// listPatience is how long the start of a program waits for what is in a dictionary.
	listPatience = 3 * time.Second
	// openPatience is how long a program has to take a connection.
	openPatience = 30 * time.Second
)

// A dictionary is the connection to one.
type dictionary struct{ *rpc.Conn }

// Err is why the connection has ended; nil while it is there, and where the program has closed it.
func (d dictionary) Err() error {
	if err := d.Conn.Err(); !errors.Is(err, io.EOF) && !errors.Is(err, rpc.ErrClosed) {
		return err
	}
	return nil
}

// list names the protocols that are in d.
func (d dictionary) list(ctx context.Context) ([]string, error) {
	m, err := d.Call(ctx, "List", rpc.Message{})
	if err != nil {
		return nil, err
	}
	defer m.Close()
	got := new(componentpb.Exposed)
	if err := proto.Unmarshal(m.Body, got); err != nil {
		return nil, errors.New("its list is none")
	}
	if len(got.Capabilities) > maxItems {
		return nil, fmt.Errorf("it has %d items; %d is the most", len(got.Capabilities), maxItems)
	}
	var out []string
	for _, c := range got.Capabilities {
		if err := name.Check(c.Name); err != nil || c.Kind != manifest.KindProtocol.String() {
			return nil, fmt.Errorf("its item %s %q is no protocol", c.Kind, c.Name)
		}
		out = append(out, c.Name)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// open gives d the connection that somebody has made to an item.
func (d dictionary) open(ctx context.Context, item string, conn *os.File) error {
	body, err := proto.Marshal(&componentpb.Capability{Kind: manifest.KindProtocol.String(), Name: item})
	if err != nil {
		return err
	}
	m, err := d.Call(ctx, "Open", rpc.Message{Body: body, Files: []*os.File{conn}})
	m.Close()
	return err
}

// dictionary is the connection to the dictionary that the component at src declares, whose program is started if need be.
func (r *Realm) dictionary(ctx context.Context, user name.Moniker, src capabilities.Source) (dictionary, error) {
	src.Name = src.Capability.Name
	route := &capabilities.Route{Kind: manifest.KindDictionary, Source: src}
	if _, err := r.reach(ctx, src.At); err != nil {
		return dictionary{}, err
	}
	return linkTo(ctx, r, user, route, &r.remoteDictionaries, func(ctx context.Context, c *net.UnixConn) (dictionary, error) {
		conn, err := rpc.Connect(ctx, c, rpc.Config{
			Protocol: framework.Dictionary, Versions: []uint32{1}, MaxBody: maxList,
			Event: func(what string, m rpc.Message) error {
				m.Close()
				if what == "Changed" {
					r.dictionaryChanged(src.At, src.Name)
				}
				return nil
			},
		})
		if err == nil {
			r.dictionaryChanged(src.At, src.Name) // another run may have others
		}
		return dictionary{conn}, err
	})
}

// hand gives conn, which user has made to an item, to who provides that.
func (r *Realm) hand(ctx context.Context, user name.Moniker, use *manifest.Use, src capabilities.Source, conn *os.File) {
	defer conn.Close()
	d, err := r.dictionary(ctx, user, src)
	if err == nil {
		soon, cancel := context.WithTimeout(ctx, openPatience)
		err = d.open(soon, src.Name, conn)
		cancel()
	}
	if err == nil || ctx.Err() != nil {
		return
	}
	_ = syscall.Shutdown(int(conn.Fd()), syscall.SHUT_RDWR) // the program may have it, too
	if i := r.find(user); i != nil {
		if use == nil {
			use = &manifest.Use{Kind: manifest.KindProtocol}
		}
		told := *use
		told.Kind, told.SourceName = manifest.KindProtocol, src.Name
		i.missing(&told, err)
	}
}

// A dictionarySet is the directory of what is in a dictionary that a program provides, which one run has.
type dictionarySet struct {
	i    *instance
	use  *manifest.Use
	view *protocol.View
	at   string
	src  capabilities.Source

	asking sync.Mutex // held over fill: who asked last must show last
	mu     sync.Mutex // guards what follows
	have   map[string]bool
	lacks  string // why there is nothing, as it was told
	over   bool
}

func (s *dictionarySet) of() (*instance, *manifest.Use) { return s.i, s.use }

func (s *dictionarySet) end() {
	s.i.realm.unfollow(s)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
}

// fill makes the directory what the program says. One that does not answer leaves it as it is.
func (s *dictionarySet) fill(ctx context.Context) error {
	s.asking.Lock()
	defer s.asking.Unlock()
	ctx, cancel := context.WithTimeout(ctx, listPatience)
	defer cancel()
	r := s.i.realm
	var names []string
	d, err := r.dictionary(ctx, s.i.moniker, s.src)
	if err == nil {
		names, err = d.list(ctx)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("the program of %s has not said within %s what is in it", s.src.At, listPatience)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return nil
	}
	lacks := ""
	if err != nil {
		if lacks = err.Error(); lacks != s.lacks {
			s.i.missing(s.use, err)
		}
		s.lacks = lacks
		return nil
	}
	s.lacks = lacks
	for n := range s.have {
		if !slices.Contains(names, n) {
			if err := s.view.Remove(path.Join(s.at, n)); err != nil {
				return err
			}
			delete(s.have, n)
		}
	}
	for _, n := range names {
		if s.have[n] {
			continue
		}
		src := s.src
		src.Kind, src.Name = capabilities.FromDictionary, n
		err := s.view.Serve(path.Join(s.at, n), sock.Stream, r.spawn, func(conn *os.File) { r.hand(r.ctx, s.i.moniker, s.use, src, conn) })
		if err != nil {
			return err
		}
		s.have[n] = true
	}
	return nil
}

// dictionaryChanged has those filled who see the dictionary that the component at declares.
func (r *Realm) dictionaryChanged(at name.Moniker, dict string) {
	r.refill(func(f follower) bool {
		s, ok := f.(*dictionarySet)
		return ok && s.src.At == at && s.src.Name == dict
	})
}

// putProvided puts what is in a dictionary that a program provides into the directory at at. The program is started for that,
// unless that waits for i in turn: then what is in it comes later.
func (i *instance) putProvided(ctx context.Context, got *delivery, u *manifest.Use, at string, src capabilities.Source) error {
	s := &dictionarySet{i: i, use: u, view: got.view, at: at, src: src, have: map[string]bool{}}
	got.follows = append(got.follows, s)
	i.realm.follow(s)
	p, err := i.realm.reach(ctx, src.At)
	if err != nil {
		return err
	}
	if done, err := p.await(ctx, "start"); err == nil && p != i {
		done() // start says it again
		return s.fill(ctx)
	}
	i.realm.spawn(func() { i.realm.fill(s) })
	return nil
}
